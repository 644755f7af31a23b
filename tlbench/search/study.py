"""A study: Optuna's ask and tell over one cell, every ask seeded by its own number."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import optuna

from tlbench.benchmark import NamedOptions, Search, better, higher_is_better
from tlbench.errors import BenchmarkError
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.seeds import derive_seed
from tlbench.trial import Trial, canonical_json

FAILURES_THAT_END = 3
"""Failed trials in a row after which a cell is given up."""

FINALISTS = 5
"""Most finalists of a study that searches backbones or strategies."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
class Told:
    """A finished trial of a study."""

    number: int
    arm: Arm
    measurement: Measurement


@final
class Study:
    """The search in one cell over its arms: one, or several where backbone or strategy are searched."""

    def __init__(self, cell: Cell, arms: Sequence[Arm], search: Search, evaluator: int, generation: int = 0) -> None:
        """`generation` counts how often failed trials of this study were asked anew."""
        self.cell, self.arms, self.search = cell, list(arms), search
        self._evaluator = evaluator
        self.id = _identity(cell, arms, search, evaluator, generation)
        self.told: list[Told] = []
        self.ended: str | None = None
        self._failures = 0
        self._asked: dict[int, tuple[optuna.Trial, Arm]] = {}
        self._next = 0
        self._study = optuna.create_study(
            direction="maximize" if higher_is_better(search.metric) else "minimize",
            pruner=_pruner(search.pruner),
            sampler=self._sampler(0),
        )
        for arm in self._first_arms():
            self._study.enqueue_trial(self._suggestions(arm))

    @property
    def asked(self) -> int:
        """How many trials were asked so far."""
        return self._next

    @property
    def running(self) -> int:
        """How many of them are not told yet."""
        return len(self._asked)

    def ask(self) -> tuple[int, Trial]:
        """The next trial and its number. Depends on what was told before and on the number, on nothing else."""
        number, self._next = self._next, self._next + 1
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number
        arm = self._choose_arm(trial)
        params = arm.recipe(trial, self._prefix(arm))
        self._asked[number] = (trial, arm)
        return number, self._trial(arm, params)

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Whether the pruner stops this trial after `epoch`."""
        trial, _ = self._asked[number]
        trial.report(score, epoch)
        return trial.should_prune()

    def tell(self, number: int, measurement: Measurement) -> None:
        """What came of a trial: failed ones count towards the end of the cell, pruned ones bring their curve."""
        trial, arm = self._asked.pop(number)
        reported = self._study.trials[number].intermediate_values
        for point in measurement.curve:
            if point.epoch not in reported and point.search_score is not None:
                trial.report(point.search_score, point.epoch)
        self._tell_optuna(trial, measurement)
        self.told.append(Told(number=number, arm=arm, measurement=measurement))
        self._failures = self._failures + 1 if measurement.status == "failed" else 0
        if self._failures == FAILURES_THAT_END and measurement.failure:
            self.ended = f"{FAILURES_THAT_END} trials in a row failed, last: {measurement.failure.message}"

    def finalists(self) -> list[Told]:
        """The recipes to retrain, best first: five by search score, ordered by the `pick` half they did not compete on.

        One where backbone and strategy are given, else one per arm.
        """
        several = len(self.arms) > 1
        complete = sorted(
            (told for told in self.told if told.measurement.status == "complete"),
            key=lambda told: (self._badness(told, "search"), told.number),
        )
        candidates = _one_per_arm(complete) if several else complete
        picked = sorted(candidates[:FINALISTS], key=lambda told: (self._badness(told, "pick"), told.number))
        return picked if several else picked[:1]

    def final_trials(self, told: Told, seeds: Sequence[int]) -> list[Trial]:
        """A finalist's recipe, once per seed."""
        params = told.measurement.trial.params
        return [
            told.arm.trial(
                params,
                stage="final",
                seed=seed,
                epochs=self.search.epochs,
                metric=self.search.metric,
                evaluator=self._evaluator,
            )
            for seed in seeds
        ]

    def better(self, score: float, than: float) -> bool:
        """Whether a score beats another on the metric searched."""
        return better(score, than, self.search.metric)

    def _badness(self, told: Told, part: str) -> float:
        """The score, negated where higher is better; `search` stands in for a `pick` half that is empty."""
        score = told.measurement.score(part, self.search.metric)
        if score is None:
            score = told.measurement.score("search", self.search.metric)
        assert score is not None
        return -score if higher_is_better(self.search.metric) else score

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
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _first_arms(self) -> list[Arm]:
        """The arms whose defaults come first: the only one, or every strategy on the first backbone."""
        first = self.arms[0].backbone.name
        return [arm for arm in self.arms if arm.backbone.name == first]

    def _choose_arm(self, trial: optuna.Trial) -> Arm:
        chosen = {axis: trial.suggest_categorical(axis, names) for axis, names in self._axes().items()}
        return next(arm for arm in self.arms if all(getattr(arm, axis).name == name for axis, name in chosen.items()))

    def _axes(self) -> dict[str, list[str]]:
        searched = [axis for axis in ("backbone", "strategy") if getattr(self.cell, axis) is None]
        return {axis: list(dict.fromkeys(getattr(arm, axis).name for arm in self.arms)) for axis in searched}

    def _prefix(self, arm: Arm) -> str:
        return f"{arm.strategy.name}:" if self.cell.strategy is None else ""

    def _suggestions(self, arm: Arm) -> dict[str, Any]:
        prefix = self._prefix(arm)
        axes = {axis: getattr(arm, axis).name for axis in self._axes()}
        return {**axes, **{prefix + name: value for name, value in arm.defaults().items()}}

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A fresh sampler, seeded by the number: one that went on after a resume would repeat its start-up draws."""
        seed = derive_seed(self.search.seed, self.cell.label, number) % 2**32
        sampler: optuna.samplers.BaseSampler = _make(optuna.samplers, "sampler", self.search.sampler, seed=seed)
        return sampler


def _one_per_arm(ordered: Sequence[Told]) -> list[Told]:
    first: dict[tuple[str, str], Told] = {}
    for told in ordered:
        first.setdefault((told.arm.backbone.name, told.arm.strategy.name), told)
    return list(first.values())


def _pruner(choice: NamedOptions) -> optuna.pruners.BasePruner:
    pruner: optuna.pruners.BasePruner = _make(optuna.pruners, "pruner", choice)
    return pruner


def _make(module: Any, kind: str, choice: NamedOptions, **more: Any) -> Any:
    """The class of `module` that a benchmark file names, with its options."""
    known = [name for name in dir(module) if name.lower().endswith(kind) and not name.startswith("Base")]
    if choice.name not in known:
        raise BenchmarkError(f"search.{kind}.name = '{choice.name}': Optuna has {', '.join(known)}")
    kept = {
        name: value
        for name, value in more.items()
        if name in inspect.signature(getattr(module, choice.name)).parameters
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return getattr(module, choice.name)(**{**kept, **choice.options})
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"search.{kind} = {choice.name}: {error}") from error


def _identity(cell: Cell, arms: Sequence[Arm], search: Search, evaluator: int, generation: int) -> str:
    """Hash of all that decides which trials are asked, but for how many."""
    settings = {name: value for name, value in asdict(search).items() if name not in ("trials", "budget_s")}
    questions = [
        arm.trial(arm.defaults(), stage="search", seed=0, epochs=1, metric="", evaluator=evaluator).key for arm in arms
    ]
    overrides = [asdict(arm.override) for arm in arms]
    text = canonical_json([asdict(cell), questions, overrides, settings, generation])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
