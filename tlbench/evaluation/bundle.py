"""Bundles: many heads on the same features, evaluated together where they share their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tlbench.evaluation.heads import LinearHead, NeighbourHead, vote

MOST_ELEMENTS = 2**24
"""Logits, or similarities to a memory, computed at once: 64 MiB."""

Outputs = list[np.ndarray | BaseException]


def logits_of(heads: Sequence[nn.Module], features: Tensor) -> Outputs:
    """Logits float32 [n, classes] of every head for features [n, width]; of one that fails, what it raised.

    Linear heads take one matrix product together, neighbours of one memory one search. Leaves the heads in eval mode.
    """
    found: Outputs = [RuntimeError("not evaluated")] * len(heads)
    groups: dict[Hashable, list[int]] = {}
    for place, head in enumerate(heads):
        groups.setdefault(_kind(head, place), []).append(place)
    with torch.inference_mode():
        for places in groups.values():
            for chosen in _in_batches(places, heads[places[0]], len(features)):
                for place, logits in zip(chosen, _together([heads[each] for each in chosen], features), strict=True):
                    found[place] = logits
    return found


def logits_alone(head: nn.Module, features: Tensor) -> np.ndarray:
    """Logits float32 [n, classes] of one head for features [n, width]. Leaves the head in eval mode."""
    head.eval()
    with torch.inference_mode():
        parts = [head(rows).float() for rows in _blocks(head, features)]
    return np.asarray(torch.cat(parts).numpy())


def _kind(head: nn.Module, place: int) -> Hashable:
    """What heads have in common that can be evaluated together; of a plugin's own nothing is known."""
    if type(head) is LinearHead:
        return LinearHead, head.in_features, head.out_features
    if type(head) is NeighbourHead:
        return NeighbourHead, head.bank.data_ptr(), head.labels.data_ptr(), head.classes, tuple(head.bank.shape)
    return place


def _in_batches(places: Sequence[int], head: nn.Module, samples: int) -> Iterator[Sequence[int]]:
    size = len(places)
    if isinstance(head, LinearHead):
        size = max(MOST_ELEMENTS // max(samples * head.out_features, head.weight.numel()), 1)
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _together(heads: Sequence[nn.Module], features: Tensor) -> Outputs:
    ways: dict[type[nn.Module], Callable[..., list[Tensor]]] = {LinearHead: _linear, NeighbourHead: _neighbours}
    way = ways.get(type(heads[0]))
    if way is None or len(heads) == 1:
        return [_alone(head, features) for head in heads]
    for head in heads:
        head.eval()
    return [logits.numpy() for logits in way(heads, features)]


def _alone(head: nn.Module, features: Tensor) -> np.ndarray | BaseException:
    try:
        return logits_alone(head, features)
    except (Exception, SystemExit) as error:  # of a plugin's module
        return error


def _blocks(head: nn.Module, features: Tensor) -> Sequence[Tensor]:
    """The rows that go through a head at once; all, but for neighbours."""
    if not isinstance(head, NeighbourHead):
        return [features]
    return torch.split(features, max(MOST_ELEMENTS // len(head.bank), 1))


def _linear(heads: Sequence[LinearHead], features: Tensor) -> list[Tensor]:
    weights, biases = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    logits = functional.linear(features, weights, biases)
    return list(logits.view(len(features), len(heads), -1).transpose(0, 1).contiguous())


def _neighbours(heads: Sequence[NeighbourHead], features: Tensor) -> list[Tensor]:
    parts = [_searched(heads, rows) for rows in _blocks(heads[0], features)]
    return [torch.cat(logits) for logits in zip(*parts, strict=True)]


def _searched(heads: Sequence[NeighbourHead], features: Tensor) -> list[Tensor]:
    first, most = heads[0], max(head.neighbours for head in heads)
    similarities = functional.normalize(features.float()) @ first.bank.T
    nearest, places = similarities.topk(min(most, len(first.bank)), dim=1)
    labels = first.labels[places]
    return [
        vote(nearest[:, : head.neighbours], labels[:, : head.neighbours], head.classes, head.temperature)
        for head in heads
    ]
