"""The probes against scikit-learn's own estimators and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from tlbench.evaluation.heads import restored
from tlbench.evaluation.probe import mlp, multinomial, neighbours, ridge
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.sharpness import LOGIT_RANGE
from tlbench.evaluation.spectrum import Spectrum
from wide import wide

Kernel = Callable[[torch.Tensor, torch.Tensor], nn.Module]
KERNELS: dict[str, Kernel] = {
    "multinomial": lambda features, labels: multinomial(features, labels, [0.1])[0],
    "ridge": lambda features, labels: ridge(features, labels, [0.1])[0],
    "neighbours": lambda features, labels: neighbours(features, labels, [(10, 0.07)])[0],
    "mlp": lambda features, labels: small_network(features, labels),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def digits(classes: int, samples: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(n_class=classes, return_X_y=True)
    return torch.from_numpy(values[:samples]).float(), torch.from_numpy(labels[:samples])


def small_network(features: torch.Tensor, labels: torch.Tensor, **changes: Any) -> nn.Module:
    options = {"hidden": 16, "penalty": 0.01, "learning_rate": 1e-3, "batch_size": 64, "seed": 3}
    return mlp(features, labels, **{**options, **changes})


def standardised(features: torch.Tensor) -> np.ndarray:
    values: np.ndarray = StandardScaler().fit_transform(features.double().numpy())
    return values


def one_hot(labels: torch.Tensor) -> np.ndarray:
    return nn.functional.one_hot(labels).numpy()


def probabilities(head: nn.Module, features: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(head.eval()(features).softmax(1).numpy())


# All kernels


@pytest.mark.parametrize("kind", ["multinomial", "ridge", "mlp"])
def test_rounding_errors_are_no_feature(kind: str) -> None:
    """Even where they tell the classes apart: another batch size, dropout or machine has others."""
    features, labels = digits(3)
    dead = 1e-8 * (labels[:, None] - 1.0) * torch.ones(1, 2) + torch.tensor([0.0, 0.3])
    head = KERNELS[kind](torch.cat([features, dead], dim=1), labels)
    disturbed = torch.cat([features, dead + 1.0], dim=1)
    np.testing.assert_allclose(
        probabilities(head, disturbed), probabilities(head, torch.cat([features, dead], dim=1)), atol=1e-6
    )


@every_kernel
@pytest.mark.parametrize("classes", [2, 10])
def test_every_kernel_learns(kernel: Kernel, classes: int) -> None:
    features, labels = digits(classes, 1500)
    train, held_out = slice(None, -100), slice(-100, None)
    found = probabilities(kernel(features[train], labels[train]), features[held_out])
    assert found.shape == (100, classes)
    assert (found.argmax(1) == labels[held_out].numpy()).mean() > 0.84


@every_kernel
def test_features_that_never_vary_are_harmless(kernel: Kernel) -> None:
    features, labels = digits(10)
    constant = torch.cat([features, torch.full((len(features), 1), 1e5 / 3), torch.zeros(len(features), 1)], dim=1)
    assert np.isfinite(probabilities(kernel(constant, labels), constant)).all()
    assert np.isfinite(probabilities(kernel(constant[:, -2:], labels), constant[:, -2:])).all()


@every_kernel
@pytest.mark.parametrize("classes", [2, 3])
def test_more_features_than_samples(kernel: Kernel, classes: int) -> None:
    features, labels = wide(classes)
    found = probabilities(kernel(features, labels), features)
    assert found.shape == (40, classes)
    assert np.isfinite(found).all()
    if kernel is not KERNELS["neighbours"]:  # which know no scales: the features with the largest ones decide
        assert (found.argmax(1) == labels.numpy()).mean() > 0.9


@every_kernel
def test_one_sample_per_class(kernel: Kernel) -> None:
    features, labels = digits(10)
    first = torch.tensor([int((labels == number).nonzero()[0]) for number in range(10)])
    found = probabilities(kernel(features[first], labels[first]), features)
    assert np.isfinite(found).all()
    assert (found.argmax(1) == labels.numpy()).mean() > 0.4


@pytest.mark.parametrize(("name", "tolerance"), [("multinomial", 5e-3), ("ridge", 1e-6), ("neighbours", 1e-6)])
def test_sample_order_does_not_matter(name: str, tolerance: float) -> None:
    for features, labels in (digits(10), wide()):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        one = probabilities(KERNELS[name](features, labels), features)
        two = probabilities(KERNELS[name](features[order], labels[order]), features)
        np.testing.assert_allclose(one, two, atol=tolerance)
        assert name == "multinomial" or np.array_equal(one.argmax(1), two.argmax(1))


@every_kernel
def test_every_head_can_be_restored(kernel: Kernel) -> None:
    features, labels = digits(10)
    head = kernel(features, labels)
    again = restored(head.description)  # type: ignore[arg-type]
    again.load_state_dict(head.state_dict())
    np.testing.assert_array_equal(probabilities(head, features), probabilities(again, features))


# Multinomial


def logistic_regression(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> np.ndarray:
    solver = LogisticRegression(C=1 / (penalty * len(features)), max_iter=5000, tol=1e-6)
    model = make_pipeline(StandardScaler(), solver).fit(features.numpy(), labels.numpy())
    return np.asarray(model.predict_proba(features.numpy()))


@pytest.mark.parametrize("penalties", [[0.01], [0.01, 1.0], [10.0, 0.01, 1.0, 0.1]], ids=["one", "two", "four"])
def test_folded_heads_give_scikit_learns_probabilities(penalties: list[float]) -> None:
    for classes in (2, 10):
        features, labels = digits(classes)
        for penalty, head in zip(penalties, multinomial(features, labels, penalties), strict=True):
            expected = logistic_regression(features, labels, penalty)
            np.testing.assert_allclose(probabilities(head, features), expected, atol=5e-3)


# Ridge

PENALTIES = (1e-4, 1e-2, 1.0, 100.0)


def regression(features: np.ndarray, labels: torch.Tensor, penalty: float) -> Ridge:
    """scikit-learn's, whose penalty stands beside the sum of squares."""
    return Ridge(alpha=penalty * len(labels), solver="svd").fit(features, one_hot(labels))


@pytest.mark.parametrize(("features", "labels"), [digits(10), digits(2), wide()], ids=["10", "2", "wide"])
def test_ridge_heads_predict_the_regressions_classes(features: torch.Tensor, labels: torch.Tensor) -> None:
    """The standardisation is folded, the factor is the same for all classes and samples."""
    values = standardised(features)
    for penalty, head in zip(PENALTIES, ridge(features, labels, PENALTIES), strict=True):
        expected = regression(values, labels, penalty).predict(values)
        with torch.inference_mode():
            logits = head(features).double().numpy()
        factor = np.median(logits / expected)
        np.testing.assert_allclose(logits, factor * expected, atol=1e-5 * factor)
        assert np.array_equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(("features", "labels"), [digits(10), digits(2, 100), wide()], ids=["10", "2", "wide"])
def test_no_other_factor_gives_likelier_leave_one_out_predictions(features: torch.Tensor, labels: torch.Tensor) -> None:
    spectrum = Spectrum.of(features)
    path = RidgePath.of(spectrum, labels)
    (held_out,), ((weight,), _) = path.leave_one_out([1.0]).numpy(), path.solutions([1.0])
    (head,) = ridge(features, labels, [1.0])
    chosen = float((head.weight.detach().double().norm() / (weight / spectrum.scale).norm()).item())

    def loss(factor: float) -> float:
        return -float(log_softmax(factor * held_out, axis=1)[np.arange(len(labels)), labels.numpy()].mean())

    spread = np.std(held_out - held_out.mean(1, keepdims=True))
    grid = np.geomspace(*LOGIT_RANGE, 200) / spread
    assert loss(chosen) <= min(loss(factor) for factor in grid) + 1e-9


def test_the_factor_makes_likelihood_and_calibration_mean_something() -> None:
    """Of noisy digits the bare regression values, taken for logits, are far too timid."""
    features, labels = digits(10, 1500)
    noisy = features + 6 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (head,) = ridge(noisy[:1000], labels[:1000], [0.1])
    values = StandardScaler().fit(noisy[:1000].double().numpy())
    model = regression(values.transform(noisy[:1000].double().numpy()), labels[:1000], 0.1)
    bare = np.exp(log_softmax(model.predict(values.transform(noisy[1000:].double().numpy())), axis=1))
    found, held_out = probabilities(head, noisy[1000:]), labels[1000:].numpy()
    assert log_loss(held_out, found) < 0.7 * log_loss(held_out, bare)
    accuracy = (found.argmax(1) == held_out).mean()
    assert abs(found.max(1).mean() - accuracy) < 0.06
    assert abs(bare.max(1).mean() - accuracy) > 0.4


def test_ridge_knows_no_scale_of_features() -> None:
    for features, labels in (digits(10), wide()):
        scales = torch.logspace(-1, 1, features.shape[1])
        one = probabilities(ridge(features, labels, [0.1])[0], features)
        two = probabilities(ridge(features * scales, labels, [0.1])[0], features * scales)
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(("fit", "tolerance"), [(ridge, 1e-6), (multinomial, 5e-3)])
def test_a_penalty_does_not_depend_on_its_company(fit: Callable[..., list[nn.Module]], tolerance: float) -> None:
    """But for rounding and, of logistic regression, where its solvers stop."""
    for features, labels in (digits(10), digits(2), wide()):
        one, other, same = (probabilities(head, features) for head in fit(features, labels, [10.0, 0.1, 10.0]))
        for found, penalty in ((one, 10.0), (other, 0.1), (same, 10.0)):
            (alone,) = fit(features, labels, [penalty])
            np.testing.assert_allclose(found, probabilities(alone, features), atol=tolerance)


def test_of_many_ridge_probes_in_any_order_each_is_what_it_is_alone() -> None:
    features, labels = digits(10)
    penalties = np.random.default_rng(0).permutation(np.geomspace(1e-4, 1e3, 120)).tolist()
    heads = ridge(features, labels, penalties)
    for place in (0, 1, 60, 119, int(np.argmin(penalties)), int(np.argmax(penalties))):
        (alone,) = ridge(features, labels, [penalties[place]])
        np.testing.assert_allclose(probabilities(heads[place], features), probabilities(alone, features), atol=1e-4)


# Neighbours


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(("count", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5)])
def test_neighbours_vote_as_in_scikit_learn(classes: int, count: int, temperature: float) -> None:
    features, labels = digits(classes, 1500)
    cut = len(labels) // 2
    reference = KNeighborsClassifier(
        n_neighbors=count,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / temperature),
    ).fit(features[:cut].double().numpy(), labels[:cut].numpy())
    expected = reference.predict_proba(features[cut:].double().numpy())
    found = probabilities(neighbours(features[:cut], labels[:cut], [(count, temperature)])[0], features[cut:])
    np.testing.assert_allclose(found, expected, atol=1.5e-3)  # a thousandth goes to classes without a vote
    clear = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel() > 1e-4
    assert np.array_equal(found.argmax(1)[clear], expected.argmax(1)[clear])
    assert clear.mean() > 0.95


def test_neighbours_heed_directions_alone() -> None:
    features, labels = digits(10)
    (one,) = neighbours(features, labels, [(5, 0.07)])
    (two,) = neighbours(features * torch.logspace(-3, 3, len(features))[:, None], labels, [(5, 0.07)])
    np.testing.assert_allclose(probabilities(one, features), probabilities(two, features * 17), atol=1e-4)


def test_more_neighbours_than_samples_are_all_of_them() -> None:
    features, labels = digits(10, 30)
    many, all_of_them = neighbours(features, labels, [(50, 0.07), (30, 0.07)])
    np.testing.assert_array_equal(probabilities(many, features), probabilities(all_of_them, features))


# A small network


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("samples", [200, 1500])
def test_the_networks_head_gives_scikit_learns_probabilities(
    monkeypatch: pytest.MonkeyPatch, classes: int, samples: int
) -> None:
    fitted: list[MLPClassifier] = []

    def recorded(**options: Any) -> MLPClassifier:
        fitted.append(MLPClassifier(**options))
        return fitted[0]

    monkeypatch.setattr("sklearn.neural_network.MLPClassifier", recorded)
    features, labels = digits(10, samples)
    labels = labels % classes
    head = small_network(features, labels)
    expected = fitted[0].predict_proba(standardised(features).astype(np.float32))
    np.testing.assert_allclose(probabilities(head, features), expected, atol=1e-5)
    assert fitted[0].early_stopping == (samples == 1500)


def test_a_class_of_one_sample_takes_no_part_of_the_data_away() -> None:
    """scikit-learn refuses to hold out a part of two classes of which one has a single sample."""
    features, _ = digits(10, 1200)
    for rare in (1, 2):
        labels = (torch.arange(1200) < rare).long()
        assert np.isfinite(probabilities(small_network(features, labels), features)).all()


def test_the_networks_seed_decides() -> None:
    features, labels = digits(10)
    one, two, other = (probabilities(small_network(features, labels, seed=seed), features) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.allclose(one, other)


def test_the_networks_penalty_does_not_depend_on_the_size_of_the_batch() -> None:
    """Unconverted, it would count 12 times as much for the small batches."""

    def confidence(penalty: float, batch_size: int) -> float:
        network = small_network(features, labels, penalty=penalty, batch_size=batch_size, learning_rate=1e-2)
        return float(probabilities(network, features).max(1).mean())

    features, labels = digits(10)
    assert abs(confidence(0.1, 50) - confidence(0.1, 600)) < 0.04
    assert abs(confidence(0.1, 50) - confidence(0.1 / 12, 50)) > 0.2
