"""Closing: the finals of a contest, and the time that is kept for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from tlbench.search.book import Book, Question
from tlbench.search.finalists import Told, essential, finalists, is_scored, stays_first
from tlbench.search.ground import Ground
from tlbench.search.training import Training
from tlbench.trial import Trial

FINALS_SHARE = 1 / 3
"""Most of the time that is kept for finals beyond those that an answer cannot do without."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Final:
    book: Book
    told: Told
    trial: Trial
    round: int
    """The winner's first is 0; then the best of each kind, then the rest, seed by seed."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Closing:
    """Finals of the search and of the controls."""

    ground: Ground
    training: Training

    def finals(self) -> Iterator[Question | None]:
        """The finalists, retrained once per seed, as far as time allows; the winner once in any case."""
        ground = self.ground
        chosen = {book.id: self._finalists(book) for book in self._books}
        ground.begin("finals", f"{len(chosen[ground.book.id])} finalists, {len(ground.benchmark.seeds)} seeds")
        for book in self._books:
            self._note(book, chosen[book.id])
        planned = sorted(
            (one for book in self._books for one in self._planned(book, chosen[book.id])), key=lambda one: one.round
        )
        for place, one in enumerate(planned):
            seconds = self._seconds(one.told)
            question = Question(
                book=one.book,
                trials=(one.trial,),
                arms=(one.told.arm,),
                seconds=seconds,
                is_default=self._is_default(one.told),
            )
            if place == 0 or ground.is_known(one.trial) or ground.in_time(question.seconds, ground.clock.end):
                yield question
        yield from ground.settle()

    def reserve(self) -> float:
        """Seconds kept for finals: those an answer cannot do without, and the others up to a part of the time."""
        clock = self.ground.clock
        if clock.end is None:
            return 0.0
        chosen = [told for book in self._books for told in self._finalists(book)]
        whole = sum(map(self._seconds, chosen)) * len(self.ground.benchmark.seeds)
        needed = sum(map(self._seconds, essential(chosen)))
        return max(needed, min(whole, FINALS_SHARE * (clock.end - clock.start)))

    def _seconds(self, told: Told) -> float:
        """What a final is expected to take: all epochs, and of frozen features those of test samples.

        A rung's own seconds lack the epochs of the rung that it went on from. Test samples are about as many as
        validate.
        """
        measurement = told.measurement
        cost = measurement.cost
        whole_s = float(cost.get("train_s") or 0.0) + float(cost.get("validation_s") or 0.0)
        if told.arm.folds > 1:  # activations at a cut are not kept for the samples of another fold
            whole_s += float(cost.get("boundary_s") or 0.0)
        validation = int(measurement.counts.get("validation") or 0)
        pass_s = self.ground.prices.features(told.arm.backbone.name, validation) or 0.0
        return max(float(cost.get("total_s") or 0.0), whole_s, pass_s)

    @property
    def _books(self) -> list[Book]:
        return [self.ground.book, *self.ground.entrants.controls]

    def _finalists(self, book: Book) -> list[Told]:
        """Those that the scores choose, and the defaults of fine-tuning, however they did.

        The defaults, as long as they were trained, are first unless another is better by a standard error.
        """
        metric = self.ground.benchmark.search.metric
        chosen = finalists(book.whole, metric, several=len(book.arms) > 1)
        own = [told for told in book.whole if is_scored(told, metric) and self._is_default(told)]
        longest = max(own, key=lambda told: told.measurement.trial.epochs, default=None)
        if longest is None:
            return chosen
        others = [told for told in chosen if not self._is_default(told)]
        return [longest, *others] if stays_first(longest, others, metric) else [*others, longest]

    def _is_default(self, told: Told) -> bool:
        protected = self.training.protected
        return protected is not None and told.arm is protected.arm and told.measurement.trial.params == protected.params

    def _planned(self, book: Book, chosen: list[Told]) -> Iterator[_Final]:
        kinds = essential(chosen)
        for told in chosen:
            for number, trial in enumerate(self._trials(told)):
                first = told is chosen[0] and number == 0 and book is self.ground.book
                place = 0 if first else 1 + number + (told not in kinds)
                yield _Final(book=book, told=told, trial=trial, round=place)

    def _trials(self, told: Told) -> list[Trial]:
        """A finalist's recipe, trained for as long as it was, once per seed."""
        return told.arm.finals(told.measurement.trial, self.ground.benchmark.seeds)

    def _note(self, book: Book, chosen: list[Told]) -> None:
        self.ground.append(
            {
                "event": "finals",
                "study": book.id,
                "keys": [[trial.key for trial in self._trials(told)] for told in chosen],
                "selected": [told.measurement.key for told in chosen],
                "defaults": [trial.key for told in chosen if self._is_default(told) for trial in self._trials(told)],
            }
        )
