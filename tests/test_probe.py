"""The multinomial probe against scikit-learn's own estimator."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlbench.evaluation.probe import multinomial


def digits(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(n_class=classes, return_X_y=True)
    return torch.from_numpy(values[:600]).float(), torch.from_numpy(labels[:600])


def reference(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> np.ndarray:
    solver = LogisticRegression(C=1 / (penalty * len(features)), max_iter=5000, tol=1e-6)
    return make_pipeline(StandardScaler(), solver).fit(features.numpy(), labels.numpy()).predict_proba(features.numpy())


def test_folded_heads_give_scikit_learns_probabilities() -> None:
    for classes in (2, 10):
        features, labels = digits(classes)
        for penalty, head in zip((0.01, 1.0), multinomial(features, labels, [0.01, 1.0]), strict=True):
            probabilities = head(features).softmax(1).detach().numpy()
            np.testing.assert_allclose(probabilities, reference(features, labels, penalty), atol=5e-3)


def test_sample_order_does_not_matter() -> None:
    features, labels = digits(10)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    one = multinomial(features, labels, [0.1])[0](features)
    two = multinomial(features[order], labels[order], [0.1])[0](features)
    torch.testing.assert_close(one.softmax(1), two.softmax(1), atol=5e-3, rtol=0)


def test_a_feature_that_never_varies_is_harmless() -> None:
    features, labels = digits(10)
    constant = torch.cat([features, torch.full((len(features), 1), 3.0)], dim=1)
    head = multinomial(constant, labels, [0.1])[0]
    assert torch.isfinite(head(constant)).all()
