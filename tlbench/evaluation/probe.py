"""Probes: heads fitted on features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tlbench.evaluation.model import LinearHead

MOST_ITERATIONS = 2000


def multinomial(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Multinomial logistic regressions on standardised features, one per L2 penalty.

    Minimises mean cross-entropy + penalty / 2 * |W|^2 with scikit-learn's L-BFGS, from the strongest penalty to the
    weakest, each warm-started from the one before. `features`: float32 [n, width]; `labels`: [n], every class occurs.
    The heads take raw features: the standardisation is folded into them.
    """
    centred, mean, scale = _standardise(features)
    solver = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)
    heads: dict[float, LinearHead] = {}
    for penalty in sorted(set(penalties), reverse=True):
        solver.C = 1.0 / (penalty * len(centred))
        solver.fit(centred, labels.numpy())
        heads[penalty] = _fold(*_both_classes(solver.coef_, solver.intercept_), mean, scale)
    return [heads[penalty] for penalty in penalties]


def _standardise(features: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = features.numpy().astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale < 1e-12] = 1.0  # a feature that never varies
    return (values - mean) / scale, mean, scale


def _both_classes(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two rows for a two-class problem, of which scikit-learn keeps the difference only."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _fold(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> LinearHead:
    folded = weight / scale
    head = LinearHead(folded.shape[1], folded.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(folded))
        head.bias.copy_(torch.from_numpy(bias - folded @ mean))
    return head
