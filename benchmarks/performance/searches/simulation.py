"""A simulation: a search on recorded trainings, with a clock that moves by what they took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from searches.report import Run
from searches.table import Scores, Table


@final
@dataclass(kw_only=True)
class Simulation:
    """One search: what was spent, and the test accuracy of its incumbent over time."""

    table: Table
    seconds: float
    """That the search has, starting included."""

    seed: int
    now: float = 0.0
    times: list[float] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)
    best: float = -1.0

    def __post_init__(self) -> None:
        """Draw from a generator of its own."""
        self._generator = np.random.default_rng(self.seed)

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self.now >= self.seconds

    @property
    def epochs(self) -> int:
        """Of the longest training."""
        return int(self.table.facts["setting"]["epochs"])

    def draw_luck(self) -> tuple[float, float]:
        """What another seed of a training would have changed: validation and test."""
        validation, test = self._generator.normal(0.0, self.table.facts["luck"], 2)
        return float(validation), float(test)

    def offer(self, validation: float, test: float, *, always: bool = False) -> None:
        """Let a model be the incumbent if its validation score is the best, or `always`, while there is time."""
        if (validation > self.best or always) and not self.is_over:
            self.best = validation
            self.times.append(self.now)
            self.tests.append(test)

    def run(self, method: str) -> Run:
        """What came of it."""
        return Run(method=method, seed=self.seed, seconds=self.seconds, times=self.times, tests=self.tests)


@final
class Replayed:
    """A recorded training on a cosine, an epoch at a time."""

    def __init__(self, of: Simulation, backbone: str, strategy: str, rate: float, pipeline: str) -> None:
        self._of, self._where, self._rate = of, (backbone, strategy), rate
        self._epoch_s = of.table.seconds(f"{pipeline} {strategy}", backbone)
        of.now += of.table.seconds(f"{pipeline} build", backbone)
        self._luck = of.draw_luck()
        self.epoch = 0

    def run_epoch(self) -> float:
        """Let an epoch pass; its validation score."""
        self.epoch += 1
        self._of.now += self._epoch_s
        scores: Scores = self._of.table.look("cosine", *self._where, self._rate, self.epoch)
        validation = scores.validation + self._luck[0]
        self._of.offer(validation, scores.test + self._luck[1])
        return validation
