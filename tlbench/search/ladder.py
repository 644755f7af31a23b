"""The ladder: which recipes are trained for longer, by asynchronous successive halving of the promotion type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

FACTOR = 3
"""One in so many is promoted, to so many times the epochs."""

SLACK = 0.005
"""Scores that differ by less are level when the orders of two rungs are compared (soft ranks)."""


def rungs(most: int) -> list[int]:
    """Epochs of each rung up to `most`: every one a third of the next, whole numbers."""
    found = [most]
    while found[0] > 1:
        found.insert(0, max(1, round(found[0] / FACTOR)))
    return found


@final
@dataclass(kw_only=True)
class Ladder:
    """Scores of recipes by rung, higher ones the better (Li et al. 2020, "A System for Massively Parallel ...", ASHA).

    Nothing is ever stopped: a recipe that is not promoted stays at its rung as a complete result. Where two rungs put
    their recipes in the same order, the longer training is for the best one alone (PASHA, Bohdal et al. 2023).
    """

    rungs: Sequence[int]
    """Epochs, ascending."""

    _scores: list[dict[str, float | None]] = field(init=False)
    _promoted: list[set[str]] = field(init=False)

    def __post_init__(self) -> None:
        """Start empty."""
        self._scores = [{} for _ in self.rungs]
        self._promoted = [set() for _ in self.rungs]

    def add(self, recipe: str, epochs: int, score: float | None) -> None:
        """The score of a recipe after `epochs`; None where it failed."""
        self._scores[self.rungs.index(epochs)][recipe] = score

    def promote(self, recipe: str, epochs: int) -> None:
        """Note that a recipe is being trained for `epochs`, from whatever rung."""
        for promoted in self._promoted[: self.rungs.index(epochs)]:
            promoted.add(recipe)

    def reached(self, recipe: str) -> int:
        """Epochs of the highest rung that a recipe has been on; 0: none."""
        return max(
            (epochs for epochs, found in zip(self.rungs, self._scores, strict=True) if recipe in found), default=0
        )

    def promotable(self, protected: frozenset[str] = frozenset(), least: int = 0) -> list[tuple[str, int]]:
        """Recipes and the epochs they may be trained for next, the highest rung first, the best of a rung first.

        The best third of each rung, but `least` of them, and what is `protected` in any case.
        """
        found = []
        for rung in range(len(self.rungs) - 2, -1, -1):
            ranked = self._ranked(rung)
            third = len(ranked) // FACTOR
            most = max(least, min(third, 1) if self._settled(rung) else third)
            chosen = [recipe for place, recipe in enumerate(ranked) if place < most or recipe in protected]
            found += [(recipe, self.rungs[rung + 1]) for recipe in chosen if recipe not in self._promoted[rung]]
        return found

    def _ranked(self, rung: int) -> list[str]:
        scored = {recipe: score for recipe, score in self._scores[rung].items() if score is not None}
        return sorted(scored, key=lambda recipe: (-scored[recipe], recipe))

    def _settled(self, rung: int) -> bool:
        """Whether this rung keeps the order of the one below, for the recipes that are in both."""
        if rung == 0:
            return False
        below, here = self._scores[rung - 1], self._scores[rung]
        pairs = [
            (low, high) for recipe, high in here.items() if high is not None and (low := below.get(recipe)) is not None
        ]
        return len(pairs) > 1 and all(
            (first[0] - second[0]) * (first[1] - second[1]) >= 0 or abs(first[1] - second[1]) < SLACK
            for index, first in enumerate(pairs)
            for second in pairs[:index]
        )
