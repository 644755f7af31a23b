"""Survey: what has to be known of data sets and backbones before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from tlbench.benchmark import Benchmark, StrategyOverride
from tlbench.catalog import Catalog, Entry
from tlbench.components import Backbone, Dataset, Problem
from tlbench.errors import BenchmarkError, DataError, PluginError, TlbenchError, unknown_name
from tlbench.evaluation.data import load_data
from tlbench.evaluation.deployed import declared_as
from tlbench.evaluation.model import Shape, shape
from tlbench.evaluation.reach import reach
from tlbench.search.admission import Admission
from tlbench.search.arm import Arm
from tlbench.spaces import VALIDATED_ONCE, Context, Params, check
from tlbench.strategies import ControlStrategy, Strategy, TrainedStrategy
from tlbench.trial import NO_BACKBONE, Reference

SHOWN_PROBLEMS = 5


@final
@dataclass(frozen=True, kw_only=True)
class SurveyedData:
    """A data set, opened and checked."""

    reference: Reference
    modality: str
    fingerprint: str
    """Samples left out included."""

    split_seed: int
    shots: int | None
    folds: int
    classes: int
    train_size: int
    excluded: frozenset[str]


@final
@dataclass(frozen=True, kw_only=True)
class SurveyedBackbone:
    """A backbone, looked at without its weights."""

    entry: Entry
    shape: Shape


@final
class Survey:
    """Everything a benchmark names, resolved; arms are made from it."""

    def __init__(
        self, benchmark: Benchmark, catalog: Catalog, skip_bad: bool, admission: Admission | None = None
    ) -> None:
        """Raises `TlbenchError` for names that nobody answers to and for data that cannot be used."""
        self.catalog, self._admission = catalog, admission
        strategies = [catalog.strategy(name) for name in catalog.expand("strategy", benchmark.strategies)]
        self.strategies = [entry for entry in strategies if not _is_control(entry)]
        self.controls = [entry for entry in catalog.registered("strategy") if _is_control(entry)]
        backbones = [catalog.backbone(name) for name in catalog.expand("backbone", benchmark.backbones)]
        names = catalog.expand("dataset", benchmark.datasets)
        self._overrides = {catalog.strategy(override.name).full_name: override for override in benchmark.overrides}
        self.datasets = [_survey_data(benchmark, catalog.dataset(name), skip_bad) for name in names]
        self._check_used(benchmark, backbones)
        self.declined: dict[str, str] = {}
        self.backbones = [surveyed for entry in backbones if (surveyed := self._admitted(entry)) is not None]
        self._weights: dict[str, str] = {}

    @property
    def excluded(self) -> dict[str, frozenset[str]]:
        """Sample ids left out, by data set."""
        return {data.reference.name: data.excluded for data in self.datasets}

    def arms(self, data: SurveyedData) -> Iterator[Arm]:
        """Every backbone of the data's modality with every strategy that takes it, the controls before them.

        They cost next to nothing, and a budget that runs out leaves them on the board.
        """
        compared = [
            (backbone, strategy)
            for backbone in self.backbones
            for strategy in self.strategies
            if backbone.entry.component.modality == data.modality and _takes(strategy.component, data)
        ]
        for strategy in self.controls if compared else ():
            if _takes(strategy.component, data):
                with _blaming(f"control '{strategy.full_name}'"):
                    arm = self._control(strategy, data)
                    _check_recipe(arm)
                yield arm
        for backbone, strategy in compared:
            with _blaming(f"strategy '{strategy.full_name}' with backbone '{backbone.entry.full_name}'"):
                arm = self._arm(backbone, strategy, data)
                _check_recipe(arm)
            yield arm

    def reach(self, arm: Arm) -> float:
        """The part of the backbone's layers below those that the arm's defaults train; 0 where none is frozen.

        Also where the strategy fails at it: its trials will tell.
        """
        strategy = arm.component
        if not isinstance(strategy, TrainedStrategy) or not strategy.pretrained:
            return 0.0
        backbone = next(found.entry.component for found in self.backbones if found.entry.full_name == arm.backbone.name)
        try:
            return reach(backbone, strategy, arm.defaults(), arm.context.classes)
        except (Exception, SystemExit):  # of a plugin
            return 0.0

    def _admitted(self, entry: Entry) -> SurveyedBackbone | None:
        """The backbone, looked at; None, with the reason in `declined`, where it breaks a limit."""
        classes = next((data.classes for data in self.datasets if data.modality == entry.component.modality), 2)
        with _blaming(f"backbone '{entry.full_name}'"):
            seen = self._admission.look(entry, classes) if self._admission else shape(entry.component)
        if isinstance(seen, str):
            self.declined[entry.full_name] = seen
            return None
        return SurveyedBackbone(entry=entry, shape=seen)

    def _check_used(self, benchmark: Benchmark, backbones: Sequence[Entry]) -> None:
        """Refuse what is named, not matched by a pattern, and would not be run: it is for no data set's modality."""
        modalities = {data.modality for data in self.datasets}
        there = f"the data sets are of {' and '.join(sorted(modalities))}"
        for backbone in backbones:
            name, modality = backbone.full_name, backbone.component.modality
            if name in benchmark.backbones and modality not in modalities:
                raise BenchmarkError(f"backbone '{name}' is for {modality}, but {there}: take it out")
        for entry in (*self.strategies, *self.controls):
            takes = entry.component.modalities
            if entry.full_name in benchmark.strategies and takes is not None and not takes & modalities:
                raise BenchmarkError(
                    f"strategy '{entry.full_name}' is for {' and '.join(sorted(takes))}, but {there}: take it out"
                )
        if not self.strategies:
            raise BenchmarkError("the strategies named are controls alone, which every board has: name one to compare")

    def _arm(self, backbone: SurveyedBackbone, strategy: Entry, data: SurveyedData) -> Arm:
        component: Backbone = backbone.entry.component
        name = strategy.full_name
        return Arm(
            backbone=Reference(name=backbone.entry.full_name, version=component.version),
            strategy=Reference(name=name, version=strategy.component.version),
            dataset=data.reference,
            declared=declared_as(self.catalog, backbone.entry.full_name),
            weights=self._weights_of(backbone.entry) if strategy.component.pretrained else component.random_weights(),
            preprocess=component.preprocess.identity,
            fingerprint=data.fingerprint,
            split_seed=data.split_seed,
            shots=data.shots,
            folds=data.folds,
            context=Context(
                modality=data.modality,
                kind=component.facts.kind,
                layer_groups=backbone.shape.layer_groups,
                pools=tuple(component.pools),
                classes=data.classes,
                train_size=data.train_size,
                drop_path=component.drop_path,
            ),
            component=strategy.component,
            override=self._overrides.get(name, StrategyOverride(name=name, fixed={}, ranges={})),
        )

    def _control(self, strategy: Entry, data: SurveyedData) -> Arm:
        name = strategy.full_name
        return Arm(
            backbone=NO_BACKBONE,
            strategy=Reference(name=name, version=strategy.component.version),
            dataset=data.reference,
            declared=(),
            weights=NO_BACKBONE.name,
            preprocess={},
            fingerprint=data.fingerprint,
            split_seed=data.split_seed,
            shots=data.shots,
            folds=data.folds,
            context=Context(
                modality=data.modality,
                kind=None,
                layer_groups=0,
                pools=(),
                classes=data.classes,
                train_size=data.train_size,
            ),
            component=strategy.component,
            override=self._overrides.get(name, StrategyOverride(name=name, fixed={}, ranges={})),
        )

    def _weights_of(self, entry: Entry) -> str:
        if entry.full_name not in self._weights:
            self._weights[entry.full_name] = entry.component.weights()
        return self._weights[entry.full_name]


def _is_control(entry: Entry) -> bool:
    return isinstance(entry.component, ControlStrategy)


def _takes(strategy: Strategy, data: SurveyedData) -> bool:
    return strategy.modalities is None or data.modality in strategy.modalities


def _check_recipe(arm: Arm) -> None:
    """Refuse a first recipe that the engine cannot use and, in the file, parameters and pools that do not exist."""
    known = {*arm.component.reserved, *arm.component.defaults(arm.context)}
    for name in (*arm.override.fixed, *arm.override.ranges):
        if name not in known:
            raise unknown_name(f"parameter of strategy '{arm.strategy.name}' called", name, known)
    first, pools = arm.defaults(), arm.context.pools
    check(first)
    _check_values(arm, first)
    for name, limits in arm.override.ranges.items():
        for value in limits.get("choices", (limits.get("low"), limits.get("high"))):
            _check_values(arm, {**first, name: value})
    given = (first["pool"],) if "pool" in first else ()
    for pool in (*given, *arm.override.ranges.get("pool", {}).get("choices", ())):
        if pool not in pools:
            raise BenchmarkError(f"backbone '{arm.backbone.name}' has no pool '{pool}': {', '.join(pools)}")
    _check_together(arm, first)


def _check_values(arm: Arm, params: Params) -> None:
    """Refuse what the strategy itself cannot use, and say which one."""
    try:
        arm.component.check(params, arm.context)
    except BenchmarkError as error:
        raise BenchmarkError(f"{_named(arm)}: {error}") from error


def _check_together(arm: Arm, first: Params) -> None:
    """Refuse what could not be built in any trial, or in those that draw it from the file's ranges."""

    def possible(name: str) -> Sequence[Any]:
        limits = arm.override.ranges.get(name, {"choices": (first.get(name),)})
        values: Sequence[Any] = limits["choices"] if "choices" in limits else (limits["low"], limits["high"])
        return values

    others = [head for head in possible("head") if head != "linear"]
    if "probe" in possible("head_start") and others:
        raise BenchmarkError(f"{_named(arm)}: head_start = 'probe' needs head = 'linear', not '{others[0]}'")
    if any(possible("drop_path")) and not arm.context.drop_path:
        raise BenchmarkError(f"{_named(arm)}: the backbone has no stochastic depth: drop_path = 0 is needed")
    if "wsd" in possible("schedule") and (set(possible("patience")) != {None} or set(possible("average")) != {1}):
        raise BenchmarkError(f"{_named(arm)}: {VALIDATED_ONCE}")


def _named(arm: Arm) -> str:
    of = "" if arm.backbone == NO_BACKBONE else f" with backbone '{arm.backbone.name}'"
    return f"strategy '{arm.strategy.name}'{of}"


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever a plugin's own code raises into an error that names the component."""
    try:
        yield
    except (TlbenchError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be used: {type(error).__name__}: {error}") from error


def _survey_data(benchmark: Benchmark, entry: Entry, skip_bad: bool) -> SurveyedData:
    with _blaming(f"data set '{entry.full_name}'"):
        return _open_data(benchmark, entry, skip_bad)


def _open_data(benchmark: Benchmark, entry: Entry, skip_bad: bool) -> SurveyedData:
    dataset: Dataset = entry.component
    declared = next((given for given in benchmark.declared_datasets if given.name == entry.full_name), None)
    split_seed, shots = (declared.split_seed, declared.shots) if declared else (0, None)
    problems = dataset.problems()
    if problems and not skip_bad:
        raise DataError(_describe(entry.full_name, problems))
    excluded = frozenset(problem.sample_id for problem in problems)
    data = load_data(dataset, split_seed=split_seed, shots=shots, excluded=excluded)
    if not data.search.any():
        raise BenchmarkError(f"data set '{entry.full_name}' leaves no validation sample to search on")
    return SurveyedData(
        reference=Reference(name=entry.full_name, version=dataset.version),
        modality=dataset.modality,
        fingerprint=_without(dataset.fingerprint, excluded),
        split_seed=split_seed,
        shots=shots,
        folds=data.folds,
        classes=len(data.class_names),
        train_size=len(data.train.ids),
        excluded=excluded,
    )


def _without(fingerprint: str, excluded: frozenset[str]) -> str:
    if not excluded:
        return fingerprint
    left_out = hashlib.sha256("\n".join(sorted(excluded)).encode()).hexdigest()
    return f"{fingerprint} without {left_out[:16]}"


def _describe(name: str, problems: Sequence[Problem]) -> str:
    shown = "; ".join(map(str, problems[:SHOWN_PROBLEMS]))
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    count = f"{len(problems)} sample{'s' if len(problems) > 1 else ''}"
    return f"data set '{name}': {count} cannot be used ({shown}{more}); --skip-bad goes on without them"
