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
@dataclass(frozen=True, kw_only=True)
class Validated:
    """What a final says of its recipe without test data."""

    fold: int
    score: float
    samples: int
    """Validation samples of the fold."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Contender(Generic[T]):
    """A finalist, as far as its place among the others goes."""

    of: T
    validations: Sequence[Validated]
    """Of every seed; at least one."""

    names: tuple[str, str]
    """The backbone's and the strategy's."""

    is_default: bool
    """Whether it is what would have been trained without a search."""

    @property
    def samples(self) -> int:
        """Validation samples of all its folds."""
        return sum({one.fold: one.samples for one in self.validations}.values())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Placed(Generic[T]):
    """A finalist in its place."""

    of: T
    validation: float
    """Mean score over the seeds, as if all finalists had validated on the same folds."""

    is_default: bool


def in_order(contenders: Iterable[Contender[T]], metric: str) -> list[Placed[T]]:
    """The finalists on one data set, best validation score first, equal ones by name: test data chooses nothing.

    The defaults of a staged search come before what is better than they are by less than a standard error.
    """
    several = list(contenders)
    sign = -1 if higher_is_better(metric) else 1
    pairs = zip(several, _levels(several), strict=True)
    found = sorted(pairs, key=lambda pair: (sign * round(pair[1], 9), pair[0].names))
    default = next((pair for pair in found if pair[0].is_default), None)
    if default is not None:
        least = bar(default[1], default[0].samples, metric, 1)
        ahead = [pair for pair in found if better(pair[1], least, metric)]
        found = [*ahead, default, *(pair for pair in found if pair is not default and pair not in ahead)]
    return [Placed(of=one.of, validation=level, is_default=one.is_default) for one, level in found]


def _levels(contenders: Sequence[Contender[T]]) -> list[float]:
    """Mean validation scores; where folds differ, as some are easier than others, those of an additive model.

    A score is then taken for the sum of what is its finalist's and what is its fold's, fitted by least squares (the
    unbalanced two-way layout: Scheffe 1959, The Analysis of Variance, section 4.4), and a finalist's level is on the
    average of all folds.
    """
    folds = sorted({one.fold for contender in contenders for one in contender.validations})
    alike = len({tuple(sorted(one.fold for one in contender.validations)) for contender in contenders}) <= 1
    if alike or len(folds) == 1:
        return [fmean(one.score for one in contender.validations) for contender in contenders]
    import numpy as np  # for runs on small data alone: commands that list should start without it

    scores = [
        (place, folds.index(one.fold), one.score)
        for place, contender in enumerate(contenders)
        for one in contender.validations
    ]
    design = np.zeros((len(scores), len(contenders) + len(folds)))
    for row, (place, fold, _) in zip(design, scores, strict=True):
        row[[place, len(contenders) + fold]] = 1.0
    effects = np.linalg.lstsq(design, [score for _, _, score in scores])[0]
    return [float(level) for level in effects[: len(contenders)] + effects[len(contenders) :].mean()]


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
    return set[str]().union(*(in_order(several, metric)[0].of for several in found.values()))


def _is_candidate(measurement: Measurement, metric: str) -> bool:
    """Whether it may be a part of an answer: that has a backbone."""
    scored = all(measurement.score(part, metric) is not None for part in ("validation", "test"))
    return measurement.status == "complete" and scored and measurement.trial.backbone != NO_BACKBONE


def _contender(done: Sequence[Measurement], defaults: set[str], metric: str) -> Contender[set[str]]:
    trial, keys = done[0].trial, {one.key for one in done}
    return Contender(
        of=keys,
        validations=[
            Validated(fold=one.trial.fold, score=score, samples=int(one.counts.get("validation") or 0))
            for one in done
            if (score := one.score("validation", metric)) is not None
        ],
        names=(trial.backbone.name, trial.strategy.name),
        is_default=not defaults.isdisjoint(keys),
    )
