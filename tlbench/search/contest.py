"""A contest: the stages of the staged plan on one data set, each cheaper than what it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import final

from tlbench.measurement import Measurement
from tlbench.search.book import Question
from tlbench.search.closing import Closing
from tlbench.search.finalists import Told
from tlbench.search.ground import Ground
from tlbench.search.looking import Looking
from tlbench.search.recipes import of_probes
from tlbench.search.training import Training


@final
class Contest:
    """Hands out questions in the order of the stages and is told the answers."""

    def __init__(self, ground: Ground) -> None:
        """Begin with the first stage."""
        self.ground = ground
        self.looking = Looking(ground=ground)
        self.training = Training(ground=ground, looking=self.looking)
        self._closing = Closing(ground=ground, training=self.training)
        ground.reserve = self._closing.reserve
        self.done = False
        self._script = self._stages()

    def next(self) -> Question | None:
        """The next question; None while answers are needed first, and when all is done."""
        question = None if self.done else next(self._script, None)
        self.ground.running += question is not None
        return question

    def answered(self, question: Question, measurements: Sequence[Measurement]) -> None:
        """What came of a question, trial by trial."""
        self.ground.running -= 1
        for arm, measurement in zip(question.arms, measurements, strict=True):
            self.ground.prices.learn(measurement, self.ground.reach(arm) if measurement.trial.epochs else 0.0)
            if measurement.trial.stage == "screen":
                self.looking.take(measurement)
            elif measurement.trial.stage == "search":
                told = question.book.told
                told.append(Told(number=len(told), arm=arm, measurement=measurement))
                self.training.take(question, measurement)

    def _stages(self) -> Iterator[Question | None]:
        yield from self._head_start()
        yield from self.looking.screen()
        yield from self.looking.probe()
        if self.training.protected is None:
            yield from self.training.defaults(self.looking.champion, begins=self.looking.ends)
        yield from self._controls()
        yield from self.training.stages()
        self._recall()
        self.looking.judge()
        yield from self._closing.finals()
        self.done = True

    def _head_start(self) -> Iterator[Question | None]:
        """The favourite is looked at first; where looking at all others takes longer than its defaults, these are next.

        They are what would be done without a search, and among the finalists in any case. What takes less time goes
        first: so the best model so far is as good as it can be for most of the time.
        """
        looking, training = self.looking, self.training
        if looking.favourite is None:
            return
        yield from looking.introduce(looking.favourite)
        look_s, train_s = looking.seconds_of_others(looking.favourite), training.seconds_of_defaults(looking.favourite)
        if look_s is not None and train_s is not None and look_s > train_s:
            yield from looking.probe_of(looking.favourite)
            yield from training.defaults(looking.favourite, begins=0.0)
            looking.begins = max(looking.ends, training.share_of_defaults)

    def _recall(self) -> None:
        """Let what earlier runs found count, too, where this one had no time or no reason to ask for it again."""
        book = self.ground.book
        arms = {(arm.backbone, arm.strategy): arm for arm in book.arms}
        for measurement in self.ground.found({told.measurement.key for told in book.told}):
            trial = measurement.trial
            arm = arms.get((trial.backbone, trial.strategy))
            if arm is not None and self.ground.trial(arm, trial.params, trial.epochs) == replace(trial, fraction=1.0):
                book.told.append(Told(number=len(book.told), arm=arm, measurement=measurement))

    def _controls(self) -> Iterator[Question | None]:
        """What transfer has to beat: a few recipes of each control."""
        ground = self.ground
        for book in ground.entrants.controls:
            (arm,) = book.arms
            for params in ground.drawn(book, arm, lambda arm: of_probes(arm, ground.benchmark.search)) or ():
                yield Question(book=book, trials=(ground.trial(arm, params),), arms=(arm,), seconds=None)
        yield from ground.settle()
