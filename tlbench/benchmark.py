"""A benchmark: what is compared, on which data, with which search. Read from a TOML file, checked, and written back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from tlbench import readers
from tlbench.errors import BenchmarkError
from tlbench.table import Document, Schema, Table
from tlbench.toml import dump

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "macro_precision",
    "macro_recall",
    "nll",
    "calibration_error",
)
"""Every validation metric a search may decide by."""

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
_DECLARED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*/[A-Za-z0-9][A-Za-z0-9._@:-]*")


@dataclass(frozen=True, kw_only=True)
class BackboneDeclaration:
    """A backbone of the user's own: the architecture of another one with other weights, options or preprocessing."""

    name: str
    base: str
    weights: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetDeclaration:
    """A data set of the user's own: a kind of data set at a place, with a number of labels to train on."""

    name: str
    base: str
    path: Path | None = None
    shots: int | None = None
    """Labels per class to train on; None: all."""

    split_seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StrategyOverride:
    """Parameters fixed, and ranges given, wherever a strategy is used."""

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By parameter: `low`, `high` and perhaps `log` or `step`; or `choices`."""


@dataclass(frozen=True, kw_only=True)
class NamedOptions:
    """A class of Optuna by its name, and the arguments to make it with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _sampler() -> NamedOptions:
    return NamedOptions(name="TPESampler", options={"multivariate": True, "group": True})


def _pruner() -> NamedOptions:
    return NamedOptions(name="SuccessiveHalvingPruner", options={"min_resource": 1, "reduction_factor": 3})


@dataclass(frozen=True, kw_only=True)
class Search:
    """How recipes are searched."""

    plan: str = "plain"
    """`plain`: Optuna per cell. `staged`: backbones and strategies searched together, ever dearer stages."""

    over: tuple[str, ...] = ()
    """Axes searched instead of compared: `backbone`, `strategy`."""

    trials: int = 20
    """Trials of each study."""

    budget_s: float | None = None
    """Wall clock of the whole run, finals included; None: no limit."""

    epochs: int = 9
    """Highest fidelity of a trial."""

    metric: str = "accuracy"
    """The validation metric that decides, one of `METRICS`."""

    seed: int = 0
    sampler: NamedOptions = field(default_factory=_sampler)
    pruner: NamedOptions = field(default_factory=_pruner)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a backbone with its head may cost where it serves, on the device of the run. None: anything."""

    max_latency_ms: float | None = None
    """Of a single sample, 90th percentile."""

    min_throughput_per_s: float | None = None
    """Of batches of 8."""

    max_params: float | None = None
    max_memory_mib: float | None = None
    """On a CPU what a fresh process holds beyond its libraries, on a GPU what is allocated at batch 1."""

    max_macs: float | None = None
    """Of one sample."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where and how the trials are computed."""

    kind: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:` and a number."""

    dtype: str = "auto"
    """`auto`, `float32` without TF32, `bfloat16` or `float16`."""

    threads: int | None = None
    """Per worker; None: the cores divided by the workers."""

    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A checked benchmark. Its lists may hold patterns over the registered components, as in `zoo/*`."""

    name: str
    """Also the name of the results folder."""

    backbones: tuple[str, ...]
    strategies: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    """One final trial each."""

    search: Search = field(default_factory=Search)
    limits: Limits = field(default_factory=Limits)
    device: Device = field(default_factory=Device)
    declared_backbones: tuple[BackboneDeclaration, ...] = ()
    declared_datasets: tuple[DatasetDeclaration, ...] = ()
    overrides: tuple[StrategyOverride, ...] = ()

    def to_toml(self) -> str:
        """The benchmark as resolved: defaults and absolute paths written out. Loading it gives an equal value."""
        document = asdict(self)
        budget_s = document["search"].pop("budget_s")
        if budget_s is not None:
            document["search"]["budget"] = f"{Decimal(repr(budget_s)):f}s"  # repr is exact, "f" has no exponent
        document["backbone"] = document.pop("declared_backbones")
        document["dataset"] = document.pop("declared_datasets")
        document["strategy"] = document.pop("overrides")
        if self.limits == Limits():
            del document["limits"]
        return dump({name: value for name, value in document.items() if value != ()})


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of `metric` is the better one."""
    return metric not in ("nll", "calibration_error")


def better(score: float, than: float, metric: str) -> bool:
    """Whether `score` beats `than` on `metric`."""
    return score > than if higher_is_better(metric) else score < than


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `30m`, `2h` or `1h30m`. Raises `BenchmarkError`."""
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = hours * 3600 + minutes * 60 + seconds
    if not 0 < total < math.inf:
        raise BenchmarkError(f"'{text}' is not a duration: write one such as 90s, 30m, 2h or 1h30m")
    return total


def load_benchmark(path: Path) -> Benchmark:
    """The benchmark in the file `path`. Raises `BenchmarkError` with file, line and key for whatever does not fit."""
    document = Document(path)
    values = {"name": path.stem, **document.values}
    fields = Table(document, (), values, _BENCHMARK, ("backbones", "strategies", "datasets")).read()
    renamed = {"backbone": "declared_backbones", "dataset": "declared_datasets", "strategy": "overrides"}
    return Benchmark(**{renamed.get(name, name): value for name, value in fields.items()})


def _duration_s(table: Table, name: str) -> float:
    text = table.take(name, 'a duration such as "90s", "30m" or "1h30m"', readers.is_text)
    try:
        return parse_duration(text)
    except BenchmarkError as error:
        raise table.error(name, f"cannot be read: {error}") from error


def _search(*, budget: float | None = None, **fields: Any) -> Search:
    return Search(budget_s=budget, **fields)


_TEXT = readers.matching("text that is not empty", readers.is_text)
_FULL_NAMES = readers.listed("full names or patterns", readers.is_text, least=1)
_DECLARED_NAME = readers.matching(
    'a full name with exactly one /, such as "mine/net"',
    lambda value: isinstance(value, str) and _DECLARED.fullmatch(value) is not None,
)
_NAMED_OPTIONS = readers.section(NamedOptions, {"name": _TEXT, "options": readers.mapping}, ("name",))

_LIMIT = readers.matching("a number above 0", lambda value: readers.is_number(value) and value > 0)

_SEARCH: Schema = {
    "plan": readers.one_of("plain", "staged"),
    "over": readers.listed('"backbone" and "strategy"', lambda value: value in ("backbone", "strategy")),
    "trials": readers.whole(1),
    "budget": _duration_s,
    "epochs": readers.whole(1),
    "metric": readers.one_of(*METRICS),
    "seed": readers.whole(0),
    "sampler": _NAMED_OPTIONS,
    "pruner": _NAMED_OPTIONS,
}
_DEVICE_SCHEMA: Schema = {
    "kind": readers.matching(
        "auto, cpu, cuda or cuda:0 (any number)",
        lambda value: isinstance(value, str) and _DEVICE.fullmatch(value) is not None,
    ),
    "dtype": readers.one_of("auto", "float32", "bfloat16", "float16"),
    "threads": readers.whole(1),
    "workers": readers.whole(1),
}
_BACKBONE: Schema = {
    "name": _DECLARED_NAME,
    "base": _TEXT,
    "weights": readers.file_path,
    "options": readers.mapping,
    "preprocess": readers.mapping,
}
_DATASET: Schema = {
    "name": _DECLARED_NAME,
    "base": _TEXT,
    "path": readers.file_path,
    "shots": readers.whole(1),
    "split_seed": readers.whole(0),
    "options": readers.mapping,
}
_BENCHMARK: Schema = {
    "name": readers.folder_name,
    "backbones": _FULL_NAMES,
    "strategies": _FULL_NAMES,
    "datasets": _FULL_NAMES,
    "seeds": readers.listed("whole numbers of at least 0", readers.is_whole, least=1),
    "search": readers.section(_search, _SEARCH),
    "limits": readers.section(Limits, {field.name: _LIMIT for field in fields(Limits)}),
    "device": readers.section(Device, _DEVICE_SCHEMA),
    "backbone": readers.sections(BackboneDeclaration, _BACKBONE, ("name", "base")),
    "dataset": readers.sections(DatasetDeclaration, _DATASET, ("name", "base")),
    "strategy": readers.sections(
        StrategyOverride, {"name": _TEXT, "fixed": readers.fixed, "ranges": readers.ranges}, ("name",)
    ),
}
