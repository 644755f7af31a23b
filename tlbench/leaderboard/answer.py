"""The answer: what a search found on one data set, in words, with how sure that is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tlbench.benchmark import better
from tlbench.leaderboard.course import Course, courses
from tlbench.leaderboard.finalists import Finalist, Finalists, first_of, gap_words, score_words, seeds_words
from tlbench.leaderboard.gain import transfer_gain
from tlbench.spaces import RESERVED


@final
@dataclass(frozen=True, kw_only=True)
class Answer:
    """The best finalist of a data set, chosen on validation data, against everything it has to be compared with."""

    dataset: str
    best: Finalist
    finalists: Finalists
    course: Course | None = None
    """Of a staged search."""

    @property
    def key(self) -> str:
        """Of the final whose model is the one to use."""
        key: str = self.best.row["key"]
        return key

    def lines(self) -> list[str]:
        """A sentence each: the winner, how sure it is, what pretraining and fine-tuning brought, the controls."""
        known = self.finalists.on(self.dataset)
        rivals = [one for one in known if one is not self.best and one.row["key"] != self.key]
        return [
            f"best for {self.dataset}: {self.best.name}",
            f"recipe: {self._recipe()}",
            self._score(),
            *self._kept(rivals),
            *self._runner_up(rivals),
            *self._controls(rivals),
            *self._gain(),
            *self._kinds(known),
            *self._course(),
        ]

    def _recipe(self) -> str:
        """Every parameter of the strategy's own, and the engine's where they differ from its defaults."""
        params = json.loads(self.best.row["recipe"])
        told = ((name, value) for name, value in params.items() if name not in RESERVED or value != RESERVED[name])
        words = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in told)
        return ", ".join(words) or "the defaults"

    def _score(self) -> str:
        row = self.best.row
        text = f"test {row['metric'].replace('_', ' ')}: {score_words(self.best.test, row['metric'])}"
        if row["test_low"] is not None and row["test_low"] == row["test_low"]:
            text += f" [{100 * row['test_low']:.1f}, {100 * row['test_high']:.1f}] (95 % interval)"
        seeds = len(self.best.seeds)
        spread = f", standard deviation {gap_words(row['seeds_std'], row['metric'])}" if seeds > 1 else ""
        return f"{text}, {seeds} seed{'s' * (seeds != 1)}{spread}; chosen on validation data, not on these"

    def _kept(self, rivals: list[Finalist]) -> Iterator[str]:
        """Why not the best validation score, where the defaults stay."""
        own, metric = self.best.validation, self.best.row["metric"]
        ahead = (one for one in rivals if one.kind != "control" and better(one.validation, own, metric))
        best = next(ahead, None) if self.best.is_default else None
        if best is not None:
            gap = gap_words(best.validation - own, metric)
            yield (
                f"why not the best on validation: these are the defaults, and {best.name} is {gap} better there, "
                "less than a standard error"
            )

    def _runner_up(self, rivals: list[Finalist]) -> Iterator[str]:
        runner_up = first_of(rivals, "frozen", "trained")
        if runner_up is not None:
            yield f"how sure: {self._compared(runner_up)}"

    def _controls(self, rivals: list[Finalist]) -> Iterator[str]:
        control = first_of(rivals, "control")
        if control is not None:
            yield f"without any backbone: {self._compared(control)}"

    def _gain(self) -> Iterator[str]:
        gain = transfer_gain(self.finalists, self.dataset)
        if gain is not None:
            yield f"what pretraining brings: {gain.sentence}"

    def _kinds(self, known: list[Finalist]) -> Iterator[str]:
        """Fine-tuning against feature extraction, the best of each."""
        frozen, trained = first_of(known, "frozen"), first_of(known, "trained")
        if frozen is not None and trained is not None:
            yield f"fine-tuning against frozen features: {self._compared(frozen, trained)}"

    def _course(self) -> list[str]:
        return [] if self.course is None else self.course.lines()

    def _compared(self, other: Finalist, one: Finalist | None = None) -> str:
        """How much better `one`, the best unless given, is than `other`, and whether that may be chance."""
        first = self.best if one is None else one
        metric = first.row["metric"]
        difference = self.finalists.difference(first, other)
        words = f"{gap_words(difference.value, metric)} {'ahead of' if difference.value > 0 else 'behind'}"
        place = words if difference.value else "level with"
        text = f"{first.name} is {place} {other.name} ({score_words(other.test, metric)})"
        over = seeds_words(difference.shared)
        if difference.low is None or difference.high is None:
            return f"{text}{over}"
        low, high = 100 * difference.low, 100 * difference.high
        sure = "" if low > 0 or high < 0 else ", which may be chance"
        return f"{text}: difference {100 * difference.value:+.1f} [{low:.1f}, {high:.1f}]{over}{sure}"


def answers(folder: Path) -> list[Answer]:
    """The answer for each data set of the run in `folder` that has a final with a backbone."""
    finalists = Finalists(folder)
    found = (
        (dataset, first_of(finalists.on(dataset), "frozen", "trained", "random")) for dataset in finalists.datasets
    )
    known = {course.dataset: course for course in courses(folder)}
    return [
        Answer(dataset=dataset, best=best, finalists=finalists, course=known.get(dataset))
        for dataset, best in found
        if best is not None
    ]
