"""Answering: which of the finalists on a data set is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Generic, TypeVar, final

from tlbench.benchmark import better, higher_is_better
from tlbench.measurement import Measurement
from tlbench.search.keeping import bar
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, canonical_json

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Contender(Generic[T]):
    """A finalist, as far as its place among the others goes."""

    of: T
    validation: float
    """Mean over the seeds."""

    names: tuple[str, str]
    """The backbone's and the strategy's."""

    samples: int
    """Validation samples."""

    is_default: bool
    """Whether it is what would have been trained without a search."""


def in_order(contenders: Iterable[Contender[T]], metric: str) -> list[T]:
    """The finalists on one data set, best validation score first, equal ones by name: test data chooses nothing.

    The defaults of a staged search come before what is better than they are by less than a standard error.
    """
    sign = -1 if higher_is_better(metric) else 1
    found = sorted(contenders, key=lambda one: (sign * one.validation, one.names))
    default = next((one for one in found if one.is_default), None)
    if default is not None:
        least = bar(default.validation, default.samples, metric, 1)
        ahead = [one for one in found if better(one.validation, least, metric)]
        found = [*ahead, default, *(one for one in found if one is not default and one not in ahead)]
    return [one.of for one in found]


def answer_keys(events: Iterable[Mapping[str, Any]], store: Store, metric: str) -> set[str]:
    """Keys of the finals, of every seed, of what a run's journal and store give as the answer on each data set."""
    studies: dict[str, str] = {}
    finals: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event["event"] == "opened":
            studies[canonical_json(event["cell"])] = event["study"]
        elif event["event"] == "finals":
            finals[event["study"]] = event
    found: dict[str, list[Contender[set[str]]]] = {}
    for event in (finals[study] for study in studies.values() if study in finals):
        defaults = set(event.get("defaults", ()))
        for keys in event["keys"]:
            done = [one for key in keys if (one := store.get(key)) is not None and _is_candidate(one, metric)]
            if done:
                found.setdefault(done[0].trial.dataset.name, []).append(_contender(done, defaults, metric))
    return set[str]().union(*(in_order(several, metric)[0] for several in found.values()))


def _is_candidate(measurement: Measurement, metric: str) -> bool:
    """Whether it may be a part of an answer: that has a backbone."""
    scored = all(measurement.score(part, metric) is not None for part in ("validation", "test"))
    return measurement.status == "complete" and scored and measurement.trial.backbone != NO_BACKBONE


def _contender(done: Sequence[Measurement], defaults: set[str], metric: str) -> Contender[set[str]]:
    trial, keys = done[0].trial, {one.key for one in done}
    return Contender(
        of=keys,
        validation=fmean(score for one in done if (score := one.score("validation", metric)) is not None),
        names=(trial.backbone.name, trial.strategy.name),
        samples=min(int(one.counts.get("validation") or 0) for one in done),
        is_default=not defaults.isdisjoint(keys),
    )
