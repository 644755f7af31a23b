"""Probes: heads fitted on features of a frozen backbone.

In every function `features` are float32 [n, width] and `labels` class indices [n], of which every class occurs. All
heads take raw features: where a probe standardises them, that is folded into its head.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from tlbench.evaluation.heads import LinearHead, MlpHead, NeighbourHead
from tlbench.evaluation.ridge import RidgePath

MOST_ITERATIONS = 2000
"""Steps of L-BFGS for a logistic regression."""

MOST_EPOCHS = 200
"""Epochs of a small network that does not stop before."""

LEAST_HELD_OUT = 100
"""Samples that may decide when training stops: on real features of 100 to 600 samples a tenth of them cost 0 to 12
points of accuracy against no early stopping, from 1,000 on nothing where the penalty is right."""

DEAD = 1e-6
"""A feature that varies less than this share of the most varied one holds the rounding errors of float32, which a
weight in inverse proportion would make into a signal: one of MiniLM's 384 varies by 2e-9, the others by 0.2."""

LOGIT_RANGE = (1e-2, 1e2)
"""Bounds on the root mean square of a ridge probe's logits, so that separable classes get finite ones."""


def multinomial(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Multinomial logistic regressions on standardised features, one per L2 penalty.

    Minimises mean cross-entropy + penalty / 2 * |W|^2 with scikit-learn's L-BFGS, from the strongest penalty to the
    weakest, each warm-started from the one before.
    """
    centred, mean, scale = _standardise(features)
    solver = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)
    heads: dict[float, LinearHead] = {}
    for penalty in sorted(set(penalties), reverse=True):
        solver.C = 1.0 / (penalty * len(centred))
        solver.fit(centred, labels.numpy())
        heads[penalty] = _linear_head(*_both_classes(solver.coef_, solver.intercept_), mean, scale)
    return [heads[penalty] for penalty in penalties]


def ridge(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Ridge regressions of one-hot labels on standardised features, one per L2 penalty, from one decomposition.

    Minimises mean squared error + penalty * |W|^2, the intercept free. Each head is then multiplied by the factor that
    minimises the cross-entropy of its leave-one-out predictions, a temperature (Guo et al. 2017) that needs no further
    data: it turns regression values into logits and changes no predicted class.
    """
    standardised, mean, scale = _standardise(features)
    path = RidgePath.of(standardised, labels.numpy())
    heads = []
    for penalty in penalties:
        weight, bias = path.solution(penalty)
        factor = _sharpness(path.leave_one_out(penalty), labels.numpy())
        heads.append(_linear_head(factor * weight, factor * bias, mean, scale))
    return heads


def ridge_leave_one_out(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[np.ndarray]:
    """What every sample is predicted by the ridge regression without it: float64 [n, classes] per penalty.

    The standardisation alone still knows the sample.
    """
    path = RidgePath.of(_standardise(features)[0], labels.numpy())
    return [path.leave_one_out(penalty) for penalty in penalties]


def neighbours(features: Tensor, labels: Tensor, count: int, temperature: float) -> NeighbourHead:
    """A head that asks the `count` nearest training samples, or all of them where there are fewer."""
    samples, width = features.shape
    head = NeighbourHead(width, samples, int(labels.max()) + 1, count, temperature)
    head.remember(features, labels)
    return head


def mlp(
    features: Tensor,
    labels: Tensor,
    *,
    hidden: int,
    penalty: float,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> MlpHead:
    """One hidden layer of rectified linear units on standardised features, trained by Adam (scikit-learn).

    Minimises mean cross-entropy + penalty / 2 * |W|^2. Where a tenth of the data is `LEAST_HELD_OUT` samples and every
    class has two, that tenth decides by its accuracy when to stop; else the training loss does, on all samples.
    """
    standardised, mean, scale = _standardise(features)
    held_out, counts = math.ceil(len(labels) / 10), labels.bincount()
    stops_early = held_out >= max(LEAST_HELD_OUT, len(counts)) and int(counts.min()) >= 2
    batch_size = min(batch_size, len(labels) - stops_early * held_out)
    network = MLPClassifier(
        hidden_layer_sizes=(hidden,),
        alpha=penalty * batch_size,  # scikit-learn divides it by the size of the batch
        batch_size=batch_size,
        learning_rate_init=learning_rate,
        max_iter=MOST_EPOCHS,
        early_stopping=stops_early,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is a budget
        network.fit(standardised.astype(np.float32), labels.numpy())
    (first, last), (first_bias, last_bias) = network.coefs_, network.intercepts_
    weight, bias = _both_classes(last.T, last_bias)
    head = MlpHead(features.shape[1], hidden, len(weight))
    _set(head.hidden, *_folded(first.T, first_bias, mean, scale))
    _set(head.output, weight, bias)
    return head


def _sharpness(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The factor on `predictions` [n, classes] that minimises their cross-entropy, within `LOGIT_RANGE`."""
    spread = np.sqrt(np.mean((predictions - predictions.mean(axis=1, keepdims=True)) ** 2))
    if spread == 0.0:
        return 1.0

    def loss(logarithm: float) -> float:
        scores = log_softmax(np.exp(logarithm) / spread * predictions, axis=1)
        return -float(scores[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(loss, bounds=np.log(LOGIT_RANGE), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x) / spread)


def _standardise(features: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = features.numpy().astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    rounding = np.maximum(DEAD * np.max(scale), np.finfo(np.float32).eps * np.abs(mean))
    scale[scale <= rounding] = math.inf  # nothing is to be learnt from it: its weight becomes 0
    return (values - mean) / scale, mean, scale


def _both_classes(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two rows for a two-class problem, of which scikit-learn keeps the difference only."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _linear_head(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> LinearHead:
    """A head for raw features from the solution for standardised ones."""
    head = LinearHead(weight.shape[1], weight.shape[0])
    _set(head, *_folded(weight, bias, mean, scale))
    return head


def _folded(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias with the standardisation folded in."""
    folded = weight / scale
    return folded, bias - folded @ mean


def _set(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
