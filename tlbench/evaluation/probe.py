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
from torch import Tensor, nn

from tlbench.evaluation.heads import LinearHead, MlpHead, NeighbourHead
from tlbench.evaluation.multinomial import multinomial_path
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.sharpness import sharpest
from tlbench.evaluation.spectrum import Spectrum, standardise

MOST_EPOCHS = 200
"""Epochs of a small network that does not stop before."""

LEAST_HELD_OUT = 100
"""Samples that may decide when training stops: on real features of 100 to 600 samples a tenth of them cost 0 to 12
points of accuracy against no early stopping, from 1,000 on nothing where the penalty is right."""


def multinomial(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Multinomial logistic regressions on standardised features, one per L2 penalty.

    Minimises mean cross-entropy + penalty / 2 * |W|^2, all in lockstep.
    """
    spectrum = Spectrum.shared(features)
    path = multinomial_path(spectrum, labels, penalties)
    return _linear_heads(*spectrum.folded(path.weights, path.intercepts))


def ridge(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Ridge regressions of one-hot labels on standardised features, one per L2 penalty, from one decomposition.

    Minimises mean squared error + penalty * |W|^2, the intercept free. Each head is then multiplied by the factor that
    minimises the cross-entropy of its leave-one-out predictions, a temperature (Guo et al. 2017) that needs no further
    data: it turns regression values into logits and changes no predicted class.
    """
    spectrum = Spectrum.shared(features)
    path = RidgePath.of(spectrum, labels)
    order = sorted(range(len(penalties)), key=penalties.__getitem__)  # so that neighbours resemble each other
    batches = path.batches([penalties[place] for place in order])
    factors = torch.empty(len(penalties), dtype=torch.float64, device=features.device)
    factors[order] = torch.cat([sharpest(path.leave_one_out(batch, torch.float32), labels) for batch in batches])
    weights, intercepts = path.solutions(penalties, torch.float32)
    return _linear_heads(*spectrum.folded(factors[:, None, None] * weights, factors[:, None] * intercepts))


def neighbours(features: Tensor, labels: Tensor, votes: Sequence[tuple[int, float]]) -> list[NeighbourHead]:
    """A head per (number of neighbours, temperature), which asks all training samples where there are fewer.

    All share one memory of the samples.
    """
    samples, width = features.shape
    classes, heads = int(labels.max()) + 1, list[NeighbourHead]()
    for count, temperature in votes:
        head = NeighbourHead(width, samples, classes, count, temperature)
        if heads:
            head.bank, head.labels = heads[0].bank, heads[0].labels
        else:
            head.remember(features, labels)
        heads.append(head)
    return heads


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
    from sklearn.exceptions import ConvergenceWarning  # a second of imports that no other probe needs
    from sklearn.neural_network import MLPClassifier

    standardised, mean, scale = _arrays(features)
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


def _arrays(features: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised features, mean and scale as scikit-learn takes them."""
    values, mean, scale = (tensor.numpy() for tensor in standardise(features))
    return values, mean, scale


def _both_classes(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two rows for a two-class problem, of which scikit-learn keeps the difference only."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _linear_heads(weights: Tensor, intercepts: Tensor) -> list[LinearHead]:
    """Heads of weights [heads, classes, width] and intercepts [heads, classes]."""
    heads = []
    for weight, intercept in zip(weights, intercepts, strict=True):
        head = LinearHead(weight.shape[1], weight.shape[0])
        head.load_state_dict({"weight": weight, "bias": intercept})
        heads.append(head)
    return heads


def _folded(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias with the standardisation folded in."""
    folded = weight / scale
    return folded, bias - folded @ mean


def _set(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
