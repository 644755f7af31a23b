"""Screening: which backbones stay in the search after a look at their frozen features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tlbench.components import Facts
from tlbench.statistics import wilson

SIZES = (512, 2000)
"""Training samples looked at in the first rounds; all of them are looked at when the probes are fitted."""

SURVIVORS = 8
"""Backbones that are never too many."""


@final
@dataclass(frozen=True, kw_only=True)
class Standing:
    """A backbone after a round: how many of `samples` its probe got right when each was left out in turn."""

    backbone: str
    accuracy: float
    samples: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the accuracy."""
        return wilson(self.accuracy * self.samples, self.samples)


@final
@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a round leaves: names best first, and the reason for each that is dropped."""

    kept: tuple[str, ...]
    dropped: Mapping[str, str]


def sizes(train_size: int) -> list[int]:
    """Training samples of each round: the fixed sizes that are well below all there are."""
    return [size for size in SIZES if size <= 0.7 * train_size] or [train_size]


def cut(standings: Iterable[Standing], protected: frozenset[str]) -> Cut:
    """Keep the better half, but `SURVIVORS` at least, the protected ones, and whatever is not clearly worse.

    Clearly worse: its interval lies below that of the last one kept.
    """
    ranked = sorted(standings, key=lambda one: (-one.accuracy, one.backbone))
    last = max(SURVIVORS, (len(ranked) + 1) // 2)
    if len(ranked) <= last:
        return Cut(kept=tuple(one.backbone for one in ranked), dropped={})
    line = ranked[last - 1]
    below = {
        one.backbone: f"left-one-out accuracy {one.accuracy:.3f} on {one.samples} samples, "
        f"clearly below {line.accuracy:.3f} of '{line.backbone}'"
        for one in ranked[last:]
        if one.interval[1] < line.interval[0] and one.backbone not in protected
    }
    return Cut(kept=tuple(one.backbone for one in ranked if one.backbone not in below), dropped=below)


def published(names: Iterable[str], facts: Mapping[str, Facts]) -> list[str]:
    """Those whose accuracy is published, the best first, equal ones in the order given."""
    known = [name for name in names if facts[name].accuracy is not None]
    return sorted(known, key=lambda name: -(facts[name].accuracy or 0.0))


def champions(facts: Mapping[str, Facts], standings: Sequence[Standing]) -> frozenset[str]:
    """The backbone of the best published accuracy, and of each kind of pretraining the best one so far.

    No score of frozen features is right about every family: masked image models look worse than they fine-tune.
    """
    seen = {one.backbone for one in standings}
    best = published((name for name in facts if name in seen), facts)[:1]
    families: dict[str | None, str] = {}
    for one in sorted(standings, key=lambda one: (-one.accuracy, one.backbone)):
        families.setdefault(facts[one.backbone].pretraining, one.backbone)
    return frozenset([*best, *families.values()])
