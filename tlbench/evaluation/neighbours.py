"""Nearest neighbours among the other samples: what each is voted to be without its own vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tlbench.evaluation.heads import vote

MOST_ELEMENTS = 2**24
"""Similarities computed at once: 64 MiB."""

Similarity = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From features [n, width] to keys [n, width] and offsets [n]: similar are i and j by keys_i . keys_j + offsets_j."""


def cosine(features: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarity, as in `NeighbourHead`, of features of any scale."""
    keys = functional.normalize(features.double(), eps=1e-300).float()
    return keys, keys.new_zeros(len(keys))


def euclidean(features: Tensor) -> tuple[Tensor, Tensor]:
    """Minus half the squared distance, up to a number per sample: of features of length 1 this is cosine similarity.

    In float64, since what is small is found as a difference; for the same reason the mean is taken off.
    """
    values = features.double()
    keys = values - values.mean(dim=0)
    return keys, -keys.square().sum(dim=1) / 2


def leave_one_out(
    features: Tensor,
    labels: Tensor,
    votes: Sequence[tuple[int, float]],
    *,
    similarity: Similarity = cosine,
    classes: int | None = None,
) -> Tensor:
    """Logits [votes, n, classes], float32, of every sample by all others, for each (number of neighbours, temperature).

    Votes and logits are those of `NeighbourHead`; an infinite temperature makes all votes equal. Where there are fewer
    other samples than neighbours asked for, all of them vote.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    most = min(max(number for number, _ in votes), len(features) - 1)
    keys, offsets = similarity(features)
    step = max(MOST_ELEMENTS // len(features), 1)
    found = features.new_empty(len(votes), len(features), count, dtype=torch.float32)
    for start in range(0, len(features), step):
        similarities = keys[start : start + step] @ keys.T + offsets
        similarities.diagonal(start).fill_(-torch.inf)
        nearest, places = similarities.topk(most, dim=1)
        for logits, (number, temperature) in zip(found, votes, strict=True):
            part = vote(nearest[:, :number], labels[places[:, :number]], count, temperature)
            logits[start : start + step] = part
    return found
