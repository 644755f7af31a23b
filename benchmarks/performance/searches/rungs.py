"""Rungs: asynchronous successive halving of the promotion type (Li et al. 2020), on a clock or on a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

FACTOR = 3
"""One in so many goes on, for so many times the epochs."""


@final
@dataclass(kw_only=True)
class Rungs:
    """Scores by rung and configuration; the best third of each rung goes on."""

    epochs: tuple[int, ...]
    scores: list[dict[int, float]] = field(init=False)
    promoted: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        """Start empty."""
        self.scores, self.promoted = [{} for _ in self.epochs], [set() for _ in self.epochs]

    def next(self) -> tuple[int, int] | None:
        """A configuration to be promoted and the rung it is promoted to, the highest first; None: start a new one."""
        for rung in range(len(self.epochs) - 2, -1, -1):
            scores = self.scores[rung]
            top = sorted(scores, key=lambda one: (-scores[one], one))[: len(scores) // FACTOR]
            for chosen in top:
                if chosen not in self.promoted[rung]:
                    self.promoted[rung].add(chosen)
                    return chosen, rung + 1
        return None


def rungs_up_to(epochs: int) -> tuple[int, ...]:
    """1, 3, 9, ... up to `epochs`."""
    found = [epochs]
    while found[0] > 1:
        found.insert(0, max(1, round(found[0] / FACTOR)))
    return tuple(found)
