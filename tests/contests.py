"""Contests without training: made-up backbones whose scores and times follow a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import searching
import tiny
from tlbench.benchmark import Benchmark, Search
from tlbench.components import Facts
from tlbench.measurement import Epoch, Failure, Measurement
from tlbench.search.arm import Arm
from tlbench.search.book import Question, open_book
from tlbench.search.contest import Contest
from tlbench.search.ground import Clock, Entrants, Ground
from tlbench.search.screening import SIZES
from tlbench.search.study import Cell
from tlbench.strategies import Strategy
from tlbench.trial import Reference, Trial

STRATEGIES = (tiny.Means, tiny.Head, tiny.Full)
SAMPLES = 4000


@dataclass
class World:
    """Backbones with a quality each, and how long their jobs take; answers are made up from both."""

    qualities: Mapping[str, float]
    forward_s: float = 0.001
    gains: Mapping[str, float] = field(
        default_factory=lambda: {"tiny/means": 0.0, "tiny/head": 0.02, "tiny/full": 0.05}
    )
    facts: Mapping[str, Facts] = field(default_factory=dict)
    now: float = 0.0
    asked: list[tuple[str, Trial]] = field(default_factory=list)
    """Stage of the contest and trial, in the order computed."""

    events: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    broken: frozenset[str] = frozenset()
    """Strategies that fail."""

    unseen: frozenset[str] = frozenset()
    """Backbones whose screen fails."""

    advantage: float = 0.0
    """What a screen's accuracy gains by more samples than those of the first round."""

    seen: dict[str, float] = field(default_factory=dict)
    """Samples whose features are known, by backbone."""

    luck: float = 0.02
    """Most that a score differs from what its recipe is worth."""

    reached: list[tuple[str, str]] = field(default_factory=list)
    """Backbones and strategies whose reach was asked, in order."""

    def arms(self, strategies: Sequence[type[Strategy]] = STRATEGIES) -> list[Arm]:
        made = [searching.arm(strategy(), name) for name in self.qualities for strategy in strategies]
        return [replace(one, context=replace(one.context, train_size=SAMPLES)) for one in made]

    def ground(self, strategies: Sequence[type[Strategy]] = STRATEGIES, **search: Any) -> Ground:
        settings = Search(**{"plan": "staged", "trials": 6, "epochs": 9, **search})
        benchmark = Benchmark(name="made", backbones=(), strategies=(), datasets=(), seeds=(0, 1), search=settings)
        arms = self.arms(strategies)
        facts = {name: self.facts.get(name, Facts()) for name in self.qualities}
        book = open_book(Cell(backbone=None, strategy=None, dataset="tiny/blobs"), arms, settings, 1)
        return Ground(
            benchmark=benchmark,
            entrants=Entrants(book=book, controls=(), facts=facts, reach=self.reach),
            evaluator=1,
            clock=Clock(now=lambda: self.now, start=0.0, end=settings.budget_s),
            is_known=lambda trial: False,
            append=lambda event: self.events.append(dict(event)),
            say=self.said.append,
            warn=self.warned.append,
        )

    def reach(self, arm: Arm) -> float:
        self.reached.append((arm.backbone.name, arm.strategy.name))
        return float(arm.strategy.name == "tiny/head")

    def answer(self, trial: Trial) -> Measurement:
        """What a job brings; the world's clock goes on by what it takes."""
        is_screen = trial.stage == "screen"
        if trial.strategy.name in self.broken or (is_screen and trial.backbone.name in self.unseen):
            failure = Failure(kind="error", stage="train", type="ValueError", message="broken")
            return Measurement(trial=trial, status="failed", failure=failure, cost={"total_s": 0.5})
        quality, train = self.qualities[trial.backbone.name], round(trial.fraction * SAMPLES)
        if is_screen:
            cost = self._features(trial.backbone.name, train)
            scores = {"train": {"accuracy": quality + self.advantage * (train > SIZES[0])}}
            return Measurement(trial=trial, status="complete", scores=scores, cost=cost, counts={"train": train})
        luck = self.luck * searching.luck(trial, "search")
        score = quality + self.gains[trial.strategy.name] + luck - (0.15 / trial.epochs if trial.epochs else 0.0)
        curve = []
        if trial.epochs:
            epoch_s = 3.2 * self.forward_s * SAMPLES
            self.now += epoch_s * trial.epochs
            cost = {"train_s": epoch_s * trial.epochs, "validation_s": 0.5, "total_s": epoch_s * trial.epochs + 0.5}
            curve = [Epoch(epoch=trial.epochs, train_loss=0.1, search_score=score, elapsed_s=1.0)]
        else:
            cost = self._features(trial.backbone.name, round(1.25 * train))
        parts = {part: {"accuracy": score} for part in ("search", "pick", "validation")}
        if trial.stage == "final":
            parts["test"] = {"accuracy": score}
        counts = {"train": train, "validation": SAMPLES // 4}
        return Measurement(trial=trial, status="complete", scores=parts, curve=curve, cost=cost, counts=counts)

    def _features(self, backbone: str, samples: int) -> dict[str, Any]:
        before = self.seen.get(backbone, 0)
        self.now += self.forward_s * max(0, samples - before)
        self.seen[backbone] = max(before, samples)
        return {"features_s": self.forward_s * samples, "total_s": 1.0}


def play(
    world: World,
    contest: Contest,
    workers: int = 1,
    until: Callable[[Question], bool] = lambda question: False,
) -> list[Question]:
    """Answer questions to the end, or to the first that `until` names; several workers end in another order."""
    asked: list[Question] = []
    running: list[Question] = []
    while True:
        while len(running) < workers and (question := contest.next()) is not None:
            asked.append(question)
            running.append(question)
            world.asked += [(contest.ground.stage, trial) for trial in question.trials]
            if until(question):
                return asked
        if not running:
            return asked
        question = running.pop(len(asked) % len(running))
        contest.answered(question, [world.answer(trial) for trial in question.trials])


def names(asked: Sequence[tuple[str, Trial]], stage: str) -> list[str]:
    """Backbones asked in a stage, in order, each once."""
    return list(dict.fromkeys(trial.backbone.name for found, trial in asked if found == stage))


def strategy_of(trial: Trial) -> str:
    """The strategy's own name."""
    return trial.strategy.name.partition("/")[2] or trial.strategy.name


REFERENCE = Reference(name="tiny/full", version=1)
