"""Finalists: of everything a search has tried, what is retrained and scored on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tlbench.benchmark import better, higher_is_better
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.keeping import bar

FINALISTS = 5
"""Most finalists of a search over backbones or strategies, those of kinds they lack aside."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """A finished trial of a search."""

    number: int
    arm: Arm
    measurement: Measurement


def is_scored(told: Told, metric: str) -> bool:
    """Whether a trial is complete and has a search score."""
    return told.measurement.status == "complete" and told.measurement.score("search", metric) is not None


def badness(told: Told, part: str, metric: str) -> float:
    """The score, negated where higher is better; `search` stands in for a `pick` half that is empty."""
    score = _score(told, part, metric)
    return -score if higher_is_better(metric) else score


def finalists(tried: Sequence[Told], metric: str, *, several: bool) -> list[Told]:
    """The recipes to retrain, best first: five by search score, ordered by the `pick` half they did not compete on.

    One in all where there is but one arm; of `several`, one per arm, and after them the best of each kind of transfer
    (frozen features, trained, from random weights) that the five lack, so that the kinds can be compared.
    """
    complete = sorted(
        (told for told in tried if is_scored(told, metric)),
        key=lambda told: (badness(told, "search", metric), told.number),
    )
    candidates = _one_per_arm(complete) if several else complete
    picked = sorted(candidates[:FINALISTS], key=lambda told: (badness(told, "pick", metric), told.number))
    if not several:
        return picked[:1]
    kinds = {told.arm.kind for told in picked}
    return [*picked, *(told for kind, told in _first_of_kinds(candidates).items() if kind not in kinds)]


def essential(chosen: Sequence[Told]) -> list[Told]:
    """Of finalists, best first, those that an answer cannot do without: the best of each kind of transfer."""
    return list(_first_of_kinds(chosen).values())


def stays_first(default: Told, others: Sequence[Told], metric: str) -> bool:
    """Whether none of the others, best first, is better than the defaults by more than noise on the `pick` half."""
    if not others:
        return True
    samples = int(default.measurement.counts.get("validation") or 0) // 2
    least = bar(_score(default, "pick", metric), samples, metric, 1)
    return not better(_score(others[0], "pick", metric), least, metric)


def _score(told: Told, part: str, metric: str) -> float:
    score = told.measurement.score(part, metric)
    if score is None:
        score = told.measurement.score("search", metric)
    assert score is not None
    return score


def _one_per_arm(ordered: Sequence[Told]) -> list[Told]:
    first: dict[tuple[str, str], Told] = {}
    for told in ordered:
        first.setdefault((told.arm.backbone.name, told.arm.strategy.name), told)
    return list(first.values())


def _first_of_kinds(ordered: Sequence[Told]) -> dict[str, Told]:
    """The first of each kind of transfer."""
    first: dict[str, Told] = {}
    for told in ordered:
        first.setdefault(told.arm.kind, told)
    return first
