"""Averaging: the weights of a run's best epochs, kept and averaged greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tlbench.benchmark import better

State = dict[str, Tensor]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A model's state and what it reached."""

    epochs: tuple[int, ...]
    """The epoch it comes from; several of an average, the best first."""

    score: float
    logits: np.ndarray
    """Of all validation samples."""

    state: State


@final
class BestEpochs:
    """The checkpoints of the best epochs so far, the best first and the earliest of equals."""

    def __init__(self, most: int, metric: str) -> None:
        self.most, self.metric = most, metric
        self.kept: list[Checkpoint] = []

    def add(self, epoch: int, score: float, logits: np.ndarray, state: Callable[[], State]) -> None:
        """Keep an epoch if it is among the best; `state` is only then asked for."""
        place = sum(not better(score, kept.score, self.metric) for kept in self.kept)
        if place < self.most:
            self.kept.insert(place, Checkpoint(epochs=(epoch,), score=score, logits=logits, state=state()))
            del self.kept[self.most :]

    def averaged(self, evaluate: Callable[[State], tuple[float, np.ndarray]]) -> Checkpoint:
        """The greedy average (Wortsman et al. 2022, model soups): each next best epoch joins where that does no harm.

        `evaluate`: score and validation logits of a state.
        """
        soup = self.kept[0]
        members = [soup]
        for candidate in self.kept[1:]:
            state = _mean([*(member.state for member in members), candidate.state])
            score, logits = evaluate(state)
            if not better(soup.score, score, self.metric):
                members.append(candidate)
                epochs = tuple(epoch for member in members for epoch in member.epochs)
                soup = Checkpoint(epochs=epochs, score=score, logits=logits, state=state)
        return soup


def _mean(states: Sequence[State]) -> State:
    return {name: _mean_tensor([state[name] for state in states]) for name in states[0]}


def _mean_tensor(tensors: Sequence[Tensor]) -> Tensor:
    """What is equal everywhere stays bit for bit as it is, and so do counters."""
    first = tensors[0]
    if not first.is_floating_point() or all(torch.equal(first, tensor) for tensor in tensors[1:]):
        return first
    return torch.stack(list(tensors)).mean(0)
