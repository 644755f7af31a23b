"""The book of a cell: what the staged plan asked in it and was told, as journal and leaderboard know it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

from tlbench.benchmark import Search
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.finalists import Told
from tlbench.search.recipes import Recipe
from tlbench.search.study import Cell
from tlbench.trial import Trial, canonical_json


@final
@dataclass(kw_only=True, eq=False)
class Book:
    """One cell: its arms and all that came of them."""

    cell: Cell
    arms: Sequence[Arm]
    id: str
    told: list[Told] = field(default_factory=list)
    finals: dict[str, Measurement] = field(default_factory=dict)
    """By key."""

    @property
    def whole(self) -> list[Told]:
        """The trials that had all training samples: only they can be finalists."""
        return [told for told in self.told if told.measurement.trial.fraction == 1.0]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One job's worth of trials, all of one cell."""

    book: Book
    trials: tuple[Trial, ...]
    arms: tuple[Arm, ...]
    """The arm of each trial."""

    seconds: float | None
    """What it is expected to take; None: unknown."""

    recipe: Recipe | None = None
    """Of a rung of the ladder."""

    is_default: bool = False
    """Whether it asks for what would be shipped without a search: that gives way only to what is better by more than
    noise."""


def open_book(cell: Cell, arms: Sequence[Arm], search: Search, evaluator: int) -> Book:
    """An empty book, whose id is a hash of all that decides which trials are asked."""
    settings = {name: value for name, value in asdict(search).items() if name not in ("trials", "budget_s")}
    questions = [
        arm.trial(arm.defaults(), stage="search", seed=0, epochs=1, metric="", evaluator=evaluator).key for arm in arms
    ]
    overrides: list[Mapping[str, Any]] = [asdict(arm.override) for arm in arms]
    text = canonical_json(["staged", asdict(cell), questions, overrides, settings])
    return Book(cell=cell, arms=arms, id=hashlib.sha256(text.encode()).hexdigest()[:16])
