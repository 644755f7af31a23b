"""The staged plan, replayed: its own contest asks, recorded trainings answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from searches.setting import DATASET
from searches.simulation import Simulation
from searches.table import Scores
from tlbench.benchmark import Benchmark, Search, StrategyOverride
from tlbench.components import IMAGE, Facts
from tlbench.measurement import Epoch, Measurement
from tlbench.search.arm import Arm
from tlbench.search.book import Question, open_book
from tlbench.search.contest import Contest
from tlbench.search.ground import Clock, Entrants, Ground
from tlbench.search.keeping import bar
from tlbench.search.study import Cell
from tlbench.spaces import Context
from tlbench.strategies import Strategy
from tlbench.trial import Reference, Trial, canonical_json
from tlbench_basic.fine_tuning import FullFineTuning, ProbeThenFineTuning
from tlbench_basic.probes import LinearProbe
from tlbench_basic.unfreezing import PartialFineTuning

TRIALS = 100
STRATEGIES: tuple[type[Strategy], ...] = (LinearProbe, PartialFineTuning, FullFineTuning, ProbeThenFineTuning)
RESUMED = 2 / 3
"""Part of a rung in `wsd` that the next one does not train again: all but its decay."""


def staged(simulation: Simulation) -> list[str]:
    """Play a contest to its end; the backbones that were worth training to it."""
    simulation.now = simulation.table.seconds("start", "tlbench")
    contest = Contest(_ground(simulation))
    answers = Answers(simulation)
    while (question := contest.next()) is not None:
        contest.answered(question, answers.to(question))
    return contest.looking.best()


@final
@dataclass(kw_only=True)
class _Known:
    """What needs not be computed again."""

    samples: dict[str, int] = field(default_factory=dict)
    """Whose features are known, by backbone."""

    boundaries: set[tuple[str, int]] = field(default_factory=set)
    """Backbones and how much of them is frozen."""

    epochs: dict[str, float] = field(default_factory=dict)
    """That a training went without its decay, by recipe and seed."""

    luck: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    """Of a training that has ended, by recipe and seed and its epochs."""


@final
class Answers:
    """Answers questions from the table, and lets the clock go on by what they take."""

    def __init__(self, simulation: Simulation) -> None:
        self._of, self._known = simulation, _Known()
        self._best: dict[str, tuple[float, bool]] = {}
        """By stage the incumbent's score, and whether it is the defaults', which searches keep within the noise."""

    def to(self, question: Question) -> list[Measurement]:
        """One measurement per trial; the best of them may be the incumbent."""
        first, before = question.trials[0], self._of.now
        self._of.now += self._of.table.seconds(_rest(first), _own_name(first))
        rest_s = self._of.now - before
        found = [self._answer(trial, rest_s) for trial in question.trials]
        for measurement in found:
            if measurement.trial.stage != "screen":
                self._offer(measurement, question.is_default)
        return found

    def _answer(self, trial: Trial, rest_s: float) -> Measurement:
        backbone = _own_name(trial)
        if trial.stage == "screen":
            samples = round(trial.fraction * self._samples["train"])
            cost = self._pass(backbone, samples)
            scores = {"train": {"accuracy": self._of.table.screened[backbone]}}
            return Measurement(trial=trial, status="complete", scores=scores, cost=cost, counts={"train": samples})
        before = self._of.now
        cost = self._train(trial, backbone) if trial.epochs else self._pass(backbone, self._all(trial))
        if trial.stage == "final":
            self._of.now += self._samples["test"] * self._of.table.seconds("feature pass", backbone)
        cost["total_s"] = rest_s + self._of.now - before
        train = round(trial.fraction * self._samples["train"])
        counts = {"train": train, "validation": self._samples["validation"]}
        curve = self._curve(trial)
        return Measurement(
            trial=trial, status="complete", scores=self._scores(trial), curve=curve, cost=cost, counts=counts
        )

    def _scores(self, trial: Trial) -> dict[str, dict[str, float]]:
        found = self._look(trial)
        of_validation, of_test = self._luck(trial) if trial.epochs else (0.0, 0.0)  # a probe has no seed
        told = {part: getattr(found, part) + of_validation for part in ("search", "pick", "validation")}
        told["test"] = found.test + of_test
        return {part: {"accuracy": score} for part, score in told.items()}

    def _luck(self, trial: Trial) -> tuple[float, float]:
        """The same for the same training, whatever it is for."""
        training = _trajectory(trial), trial.epochs
        if training not in self._known.luck:
            self._known.luck[training] = self._of.draw_luck()
        return self._known.luck[training]

    def _look(self, trial: Trial) -> Scores:
        where = _own_name(trial), trial.strategy.name
        if not trial.epochs:
            return self._of.table.look("probe", *where, trial.params["l2"])
        return self._of.table.look("wsd", *where, trial.params["learning_rate"], trial.epochs)

    def _curve(self, trial: Trial) -> list[Epoch]:
        if not trial.epochs:
            return []
        return [Epoch(epoch=trial.epochs, train_loss=None, search_score=None, elapsed_s=self._of.now)]

    def _train(self, trial: Trial, backbone: str) -> dict[str, Any]:
        """What of the epochs was not trained before, at their price, and a validation."""
        recipe = _trajectory(trial)
        known = self._known.epochs.get(recipe, 0.0) if trial.params.get("schedule") == "wsd" else 0.0
        self._known.epochs[recipe] = max(known, RESUMED * trial.epochs)
        ended = (recipe, trial.epochs) in self._known.luck
        epoch_s = self._of.table.seconds(trial.strategy.name, backbone)
        validation_s = self._of.table.seconds(f"{trial.strategy.name} validation", backbone)
        boundary = backbone, trial.params.get("frozen_blocks", 0)
        if trial.strategy.name == "basic/partial" and boundary not in self._known.boundaries:
            self._known.boundaries.add(boundary)
            self._of.now += self._of.table.seconds("boundary pass", backbone)
        left = 0.0 if ended else trial.epochs - min(known, RESUMED * trial.epochs)
        self._of.now += epoch_s * left + validation_s
        return {"train_s": epoch_s * trial.epochs, "validation_s": validation_s}

    def _pass(self, backbone: str, samples: int) -> dict[str, Any]:
        known = self._known.samples.get(backbone, 0)
        self._known.samples[backbone] = max(known, samples)
        forward_s = self._of.table.seconds("feature pass", backbone)
        self._of.now += forward_s * max(0, samples - known)
        return {"features_s": forward_s * samples}

    def _all(self, trial: Trial) -> int:
        """Samples that a probe passes through its backbone."""
        return round(trial.fraction * self._samples["train"]) + self._samples["validation"]

    def _offer(self, found: Measurement, is_default: bool) -> None:
        stage = found.trial.stage
        score, test = found.score("validation", "accuracy"), found.score("test", "accuracy")
        assert score is not None and test is not None  # noqa: PT018
        if stage == "search" and "final" in self._best:
            return
        best, is_preferred = self._best.get(stage, (-1.0, False))
        favour = is_preferred - is_default
        if score > bar(best, self._samples["validation"], "accuracy", favour):
            self._best[stage] = score, is_default
            self._of.offer(score, test, always=True)

    @property
    def _samples(self) -> Mapping[str, int]:
        samples: Mapping[str, int] = self._of.table.facts["samples"]
        return samples


def _ground(simulation: Simulation) -> Ground:
    table, start = simulation.table, simulation.now
    known: Mapping[str, Mapping[str, Any]] = table.facts["backbones"]
    budget_s, epochs, seed = simulation.seconds - start, simulation.epochs, simulation.seed
    search = Search(plan="staged", trials=TRIALS, budget_s=budget_s, epochs=epochs, seed=seed)
    benchmark = Benchmark(name="replay", backbones=(), strategies=(), datasets=(), search=search)
    arms = [_arm(strategy(), name, table.facts) for name in table.backbones for strategy in STRATEGIES]
    facts = {
        f"real/{name}": Facts(accuracy=each["accuracy"], pretraining=each["pretraining"])
        for name, each in known.items()
    }
    reaches = {(f"real/{name}", strategy): reach for name in known for strategy, reach in known[name]["reach"].items()}

    def reach(arm: Arm) -> float:
        return float(reaches.get((arm.backbone.name, arm.strategy.name), 0.0))

    cell = Cell(backbone=None, strategy=None, dataset=DATASET)
    return Ground(
        benchmark=benchmark,
        entrants=Entrants(book=open_book(cell, arms, search, evaluator=1), controls=(), facts=facts, reach=reach),
        evaluator=1,
        clock=Clock(now=lambda: simulation.now - start, start=0.0, end=budget_s),
        is_known=_unknown,
        append=_nothing,
        say=_nothing,
        warn=_nothing,
    )


def _arm(strategy: Strategy, backbone: str, facts: Mapping[str, Any]) -> Arm:
    name, known = f"basic/{strategy.name}", facts["backbones"][backbone]
    return Arm(
        backbone=Reference(name=f"real/{backbone}", version=1),
        strategy=Reference(name=name, version=strategy.version),
        dataset=Reference(name=DATASET, version=1),
        declared=(),
        weights="recorded",
        preprocess={},
        fingerprint="recorded",
        split_seed=0,
        shots=None,
        context=Context(
            modality=IMAGE,
            kind="convolutional",
            layer_groups=known["layer_groups"],
            pools=tuple(known["pools"]),
            classes=10,
            train_size=facts["samples"]["train"],
        ),
        component=strategy,
        override=StrategyOverride(name=name),
    )


def _rest(trial: Trial) -> str:
    """What a job takes besides passes, epochs and validations."""
    if trial.epochs:
        return f"rest of {trial.strategy.name}"
    return "rest of a screen" if trial.stage == "screen" else "rest of a probe"


def _trajectory(trial: Trial) -> str:
    return canonical_json([trial.backbone.name, trial.strategy.name, dict(trial.params), trial.seed])


def _own_name(trial: Trial) -> str:
    return trial.backbone.name.removeprefix("real/")


def _unknown(_: Trial) -> bool:
    """No answer is there before it is asked for."""
    return False


def _nothing(_: object) -> None:
    """Whatever a contest writes down or says."""
