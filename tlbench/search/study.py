"""A study: Optuna's ask and tell over one cell, every ask seeded by its own number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from tlbench.benchmark import Search
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.finalists import Told, badness, finalists, is_scored
from tlbench.search.sampling import OptunaStudy, fixed_sampler, make_sampler
from tlbench.seeds import derive_seed
from tlbench.trial import Trial, canonical_json

FAILURES_THAT_END = 3
"""Failed trials in a row after which a cell is given up."""


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """One competitor on one data set; a searched axis is None."""

    backbone: str | None
    strategy: str | None
    dataset: str

    @property
    def label(self) -> str:
        """As it is shown."""
        return f"{self.backbone or '*'} {self.strategy or '*'} {self.dataset}"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """A running trial of a study."""

    trial: optuna.Trial
    arm: Arm
    sampler: BaseSampler
    reported: set[int] = field(default_factory=set)
    """Epochs the pruner was told."""


@final
class Study:
    """The search in one cell over its arms: one, or several where backbone or strategy are searched."""

    def __init__(self, cell: Cell, arms: Sequence[Arm], search: Search, evaluator: int, generation: int = 0) -> None:
        """`generation` counts how often this study was begun anew: see `search.replay`.

        Raises `BenchmarkError` for a sampler or pruner that Optuna does not have or that refuses its options.
        """
        self.cell, self.arms, self.search = cell, list(arms), search
        self._evaluator = evaluator
        self.id = _identity(cell, arms, search, evaluator, generation)
        self.told: list[Told] = []
        self.ended: str | None = None
        self._failures = 0
        self._asked: dict[int, _Asked] = {}
        self._next = 0
        self._study = OptunaStudy(self.id, search, make_sampler(search.sampler, self._seed("points"), self._seed(0)))

    @property
    def asked(self) -> int:
        """How many trials were asked so far."""
        return self._next

    @property
    def running(self) -> int:
        """How many of them are not told yet."""
        return len(self._asked)

    def ask(self) -> tuple[int, Trial] | None:
        """The next trial and its number. Depends on what was told before and on the number, on nothing else.

        None where sampler and search space give no recipe: the study has then ended.
        """
        number = self._next
        self._study.sampler = sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number
        try:
            arm = self._choose_arm(trial)
            params = arm.recipe(trial, self._prefix(arm))
        except (Exception, SystemExit) as error:  # of a plugin's space, or of a sampler that does not suit it
            self._study.tell(trial, state=TrialState.FAIL)
            self.ended = f"no recipe for trial {number}: {type(error).__name__}: {error}"
            return None
        self._next = number + 1
        self._asked[number] = _Asked(trial=trial, arm=arm, sampler=sampler)
        return number, self._trial(arm, params)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Whether the pruner stops this trial after `epoch`.

        An epoch reported before is only judged again: its trial began anew after its worker died.
        """
        asked = self._asked[number]
        if epoch not in asked.reported:
            asked.reported.add(epoch)
            asked.trial.report(score, epoch)
        return asked.trial.should_prune() and not self._needed(asked.arm)

    def tell(self, number: int, measurement: Measurement) -> None:
        """What came of a trial: failed ones count towards the end of the cell, all bring their curve."""
        for point in measurement.curve:
            if point.epoch not in self._asked[number].reported and point.search_score is not None:
                # The pruner is asked too: Optuna's write down what they compare when they are (`completed_rung_0`).
                self.report(number, point.epoch, point.search_score)
        asked = self._asked.pop(number)
        self._study.sampler = asked.sampler
        self._tell_optuna(asked.trial, measurement)
        self.told.append(Told(number=number, arm=asked.arm, measurement=measurement))
        self._failures = self._failures + 1 if measurement.status == "failed" else 0
        if self._failures == FAILURES_THAT_END and measurement.failure:
            self.ended = f"{FAILURES_THAT_END} trials in a row failed, last: {measurement.failure.message}"
        elif self._study.exhausted and self.ended is None:
            self.ended = f"every recipe was tried that {self.search.sampler.name} has"

    def finalists(self) -> list[Told]:
        """The recipes to retrain, best first; one where backbone and strategy are given."""
        return finalists(self.told, self.search.metric, several=len(self.arms) > 1)

    def _trial(self, arm: Arm, params: dict[str, Any]) -> Trial:
        return arm.trial(
            params,
            stage="search",
            seed=self.search.seed,
            epochs=self.search.epochs,
            metric=self.search.metric,
            evaluator=self._evaluator,
        )

    def _tell_optuna(self, trial: optuna.Trial, measurement: Measurement) -> None:
        score = measurement.score("search", self.search.metric)
        if measurement.status == "complete" and score is not None:
            self._study.tell(trial, score)
        elif measurement.status == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _needed(self, arm: Arm) -> bool:
        """Whether a search still lacks a complete trial from random weights, and this is one.

        They begin slowly and any pruner would stop them all; without one nobody could say what pretraining brings.
        """
        several = len(self.arms) > 1
        return several and arm.kind == "random" and not any(told.arm.kind == "random" for told in self._complete())

    def _complete(self) -> list[Told]:
        return [told for told in self.told if is_scored(told, self.search.metric)]

    def _opening(self, number: int) -> Arm | None:
        """The arm whose defaults the trial `number` tries; None once the sampler has the word.

        One strategy on every backbone, one on frozen features where there is any, then the others on the backbone that
        is best so far.
        """
        scout = next((arm for arm in self.arms if arm.component.frozen), self.arms[0]).strategy
        scouts = [arm for arm in self.arms if arm.strategy == scout]
        if number < len(scouts):
            return scouts[number]
        best = self._best_backbone()
        others = [arm for arm in self.arms if arm.backbone.name == best and arm.strategy != scout]
        return others[number - len(scouts)] if number - len(scouts) < len(others) else None

    def _best_backbone(self) -> str:
        best = min(
            self._complete(), key=lambda told: (badness(told, "search", self.search.metric), told.number), default=None
        )
        return self.arms[0].backbone.name if best is None else best.arm.backbone.name

    def _choose_arm(self, trial: optuna.Trial) -> Arm:
        chosen = {axis: trial.suggest_categorical(axis, names) for axis, names in self._axes().items()}
        return next(arm for arm in self.arms if all(getattr(arm, axis).name == name for axis, name in chosen.items()))

    def _axes(self) -> dict[str, list[str]]:
        searched = [axis for axis in ("backbone", "strategy") if getattr(self.cell, axis) is None]
        return {axis: list(dict.fromkeys(getattr(arm, axis).name for arm in self.arms)) for axis in searched}

    def _prefix(self, arm: Arm) -> str:
        """What tells parameters apart that share a name but may not share their choices."""
        strategy = arm.strategy.name if self.cell.strategy is None else ""
        backbone = f"{arm.context.kind} {'|'.join(arm.context.pools)}" if self.cell.backbone is None else ""
        return f"{strategy}:{backbone}:" if strategy or backbone else ""

    def _suggestions(self, arm: Arm) -> dict[str, Any]:
        prefix = self._prefix(arm)
        axes = {axis: getattr(arm, axis).name for axis in self._axes()}
        return {**axes, **{prefix + name: value for name, value in arm.defaults().items()}}

    def _sampler(self, number: int) -> BaseSampler:
        """A fresh sampler, seeded by the number: one that went on after a resume would repeat its start-up draws.

        The first trials get one that gives the defaults.
        """
        arm, seed = self._opening(number), self._seed(number)
        if arm is not None:
            return fixed_sampler(self._suggestions(arm), seed)
        return make_sampler(self.search.sampler, self._seed("points"), seed)

    def _seed(self, purpose: object) -> int:
        return derive_seed(self.search.seed, self.cell.label, purpose) % 2**32


def _identity(cell: Cell, arms: Sequence[Arm], search: Search, evaluator: int, generation: int) -> str:
    """Hash of all that decides which trials are asked, but for how many."""
    settings = {name: value for name, value in asdict(search).items() if name not in ("trials", "budget_s")}
    questions = [
        arm.trial(arm.defaults(), stage="search", seed=0, epochs=1, metric="", evaluator=evaluator).key for arm in arms
    ]
    overrides = [asdict(arm.override) for arm in arms]
    text = canonical_json([asdict(cell), questions, overrides, settings, generation])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
