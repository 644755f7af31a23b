"""A proposal: the benchmark that `tlbench search` runs on one data set, made from what a user says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from tlbench.benchmark import BackboneDeclaration, Benchmark, DatasetDeclaration, Device, Limits, Search
from tlbench.catalog import Catalog
from tlbench.components import Dataset
from tlbench.errors import BenchmarkError, DataError, UnknownNameError, WeightsError, unknown_name
from tlbench.plugins import Plugins

OWNER = "mine"
"""What stands before the slash in names that a proposal gives."""

TRAINING_SAMPLES = 20_000
"""About as many samples, repeats counted, a trial is trained on."""

FEWEST_EPOCHS, MOST_EPOCHS = 3, 15
SHOWN = 3
"""Names in a sentence that may have to name dozens."""


@final
@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user may say of a search; nothing of it is needed."""

    backbones: Sequence[str] = ()
    """Names, patterns or checkpoint folders; none: the pool that plugins propose for the modality."""

    strategies: Sequence[str] = ()
    plan: str = "staged"
    """How to search, one of those that a benchmark file may name."""

    shots: int | None = None
    budget_s: float = 600.0
    trials: int = 100
    epochs: int | None = None
    metric: str = "accuracy"
    limits: Limits = field(default_factory=Limits)
    seeds: int = 3
    seed: int = 0
    name: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """The data set that a user means, by its full name or by a declaration."""

    name: str
    declaration: DatasetDeclaration | None
    dataset: Dataset


def find_target(data: str, plugins: Plugins, shots: int | None) -> Target:
    """The data set that `data` stands for: a file or folder, `plugin/name`, or the id of one on the hub.

    Raises `TlbenchError` in one line where there is none.
    """
    catalog = Catalog(plugins)
    path = Path(data).expanduser()
    if path.exists() or path.is_symlink():
        full_name, where = _template(path, catalog), path.absolute()
    else:
        full_name, where = _named(data, catalog, plugins), None
    if where is None and shots is None:
        return Target(name=full_name, declaration=None, dataset=catalog.dataset(full_name).component)
    name = f"{OWNER}/{slug(path.absolute().name if where else full_name.rpartition('/')[2])}"
    declaration = DatasetDeclaration(name=name, base=full_name, path=where, shots=shots)
    dataset: Dataset = catalog.dataset(full_name).component.derive(name=name, path=where, options={})
    return Target(name=name, declaration=declaration, dataset=dataset)


def propose(
    target: Target, train_size: int, wishes: Wishes, plugins: Plugins, device: Device, offline: str
) -> tuple[Benchmark, list[str]]:
    """The benchmark, and what is to be said of its pool: backbones left out because their weights are out of reach.

    `offline` says why the network cannot be used; where it can, every backbone of the pool is taken.
    """
    catalog = Catalog(plugins)
    declared: list[BackboneDeclaration] = []
    left_out: list[str] = []
    if wishes.backbones:
        backbones = [name_backbone(given, catalog, plugins, declared) for given in wishes.backbones]
    else:
        backbones, left_out = _pool(catalog, target.dataset.modality, offline)
    benchmark = Benchmark(
        name=wishes.name or slug(target.name.rpartition("/")[2]),
        backbones=tuple(dict.fromkeys(backbones)),
        strategies=tuple(wishes.strategies) or tuple(_strategies(catalog, target.dataset.modality)),
        datasets=(target.name,),
        seeds=tuple(range(wishes.seeds)),
        search=Search(
            plan=wishes.plan,
            over=("backbone", "strategy"),
            trials=wishes.trials,
            budget_s=wishes.budget_s,
            epochs=wishes.epochs or min(max(round(TRAINING_SAMPLES / train_size), FEWEST_EPOCHS), MOST_EPOCHS),
            metric=wishes.metric,
            seed=wishes.seed,
        ),
        limits=wishes.limits,
        device=device,
        declared_backbones=tuple(declared),
        declared_datasets=() if target.declaration is None else (target.declaration,),
    )
    return benchmark, left_out


def slug(text: str) -> str:
    """`text` as part of a name: what no name may hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.partition(".")[0] or text).strip("-._") or "data"


def _template(path: Path, catalog: Catalog) -> str:
    """The full name of the template that takes the file or folder. Raises `DataError` where none does."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to what is not there")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read: its permissions are in the way")
    errors: list[DataError] = []
    for entry in catalog.registered("dataset"):
        try:
            if entry.component.recognises(path):
                return entry.full_name
        except DataError as error:
            errors.append(error)
    raise errors[0] if errors else DataError(f"no plugin knows what data is in {path}")


def _named(data: str, catalog: Catalog, plugins: Plugins) -> str:
    """The full name of a data set that is listed, or that a plugin finds under the name as it is."""
    head, slash, _ = data.partition("/")
    if slash and head in plugins.active:
        return catalog.dataset(data).full_name
    if data.startswith(("/", ".", "~")):
        raise DataError(f"no file or folder {data}")
    for plugin in plugins.active.values():
        found = plugin.find_dataset(data)
        if found is not None:
            return f"{plugin.name}/{found.name}"
    known = [entry.full_name for entry in catalog.registered("dataset")]
    advice = f"'{data}' is neither a file or folder here nor a data set"
    raise UnknownNameError(f"{advice}: {unknown_name('data set', data, known, 'tlbench list datasets')}")


def name_backbone(given: str, catalog: Catalog, plugins: Plugins, declared: list[BackboneDeclaration]) -> str:
    """The full name, or pattern, of the backbone that a user means; a checkpoint folder is added to `declared`."""
    path = Path(given).expanduser()
    if path.exists():
        for entry in catalog.registered("backbone"):
            if entry.component.recognises(path):
                name = f"{OWNER}/{slug(path.absolute().name)}"
                declared.append(BackboneDeclaration(name=name, base=entry.full_name, weights=path.absolute()))
                return name
        raise BenchmarkError(f"'{given}' is no checkpoint that a plugin can load: one needs a config.json")
    if given.partition("/")[0] in plugins.active or any(character in given for character in "*?["):
        return given
    for plugin in plugins.active.values():
        found = plugin.find_backbone(given)
        if found is not None:
            return f"{plugin.name}/{found.name}"
    return catalog.backbone(given).full_name  # raises, and says what is close


def _pool(catalog: Catalog, modality: str, offline: str) -> tuple[list[str], list[str]]:
    """The backbones that plugins propose, small ones first, and lines about those that are out of reach."""
    entries = [entry for entry in catalog.registered("backbone") if entry.component.modality == modality]
    pool = [entry for entry in entries if entry.component.default]
    if not pool:
        raise BenchmarkError(f"no plugin proposes a backbone for {modality}: name some with --backbones")
    pool.sort(key=lambda entry: (entry.component.facts.parameters is None, entry.component.facts.parameters or 0))
    missing = {entry.full_name: reason for entry in pool if offline and (reason := _out_of_reach(entry.component))}
    names = [entry.full_name for entry in pool if entry.full_name not in missing]
    if not names:
        raise WeightsError(
            f"none of the {len(pool)} backbones for {modality} has its weights on this machine, and the hub is out of "
            f"reach ({offline}); {missing[pool[0].full_name]}; or give a checkpoint folder with --backbones"
        )
    return names, list(_left_out(missing, offline))


def _out_of_reach(component: object) -> str:
    try:
        component.weights()  # type: ignore[attr-defined]
    except WeightsError as error:
        return str(error)
    return ""


def _left_out(missing: Iterable[str], offline: str) -> Iterator[str]:
    names = list(missing)
    if names:
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        yield f"left out: {shown}: their weights are not on this machine and the hub is out of reach ({offline})"


def _strategies(catalog: Catalog, modality: str) -> list[str]:
    found = [
        entry.full_name
        for entry in catalog.registered("strategy")
        if entry.component.default and (entry.component.modalities is None or modality in entry.component.modalities)
    ]
    if not found:
        raise BenchmarkError(f"no plugin proposes a strategy for {modality}: name some with --strategies")
    return found
