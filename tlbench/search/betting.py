"""Betting: on which competitor the next new recipe is tried, by what it may gain for what it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import final

HEDGE = 10
"""One bet in so many is on anyone, whatever the record says."""

_SPREAD = 0.02
"""Least spread of a competitor's scores: a few that agree do not say that all will."""

_UNKNOWN = 0.05
"""Spread where nothing is known."""


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a competitor: scores of its recipes on the highest rung of each, and what the next will take."""

    scores: Sequence[float]
    seconds: float | None

    def expected_improvement(self, best: float) -> float:
        """Over `best`, of a normal variable with the mean of the better half of the scores (Mockus 1978)."""
        if not self.scores:
            mean, spread = best, _UNKNOWN
        else:
            upper = sorted(self.scores, reverse=True)[: math.ceil(len(self.scores) / 2)]
            mean, spread = fmean(upper), max(pstdev(self.scores), _SPREAD)
        normal, z = NormalDist(), (mean - best) / spread
        return (mean - best) * normal.cdf(z) + spread * normal.pdf(z)


def bet(records: Mapping[str, Record], time_left: float) -> str:
    """The competitor with the most expected improvement for its cost; `time_left`: part of the time, in [0, 1].

    What it costs counts less and less as time runs out (cost cooling, Lee et al. 2020): at first many cheap looks, in
    the end whatever is best. Equal ones: the first.
    """
    best = max((score for record in records.values() for score in record.scores), default=0.0)
    known = [record.seconds for record in records.values() if record.seconds]
    usual = fmean(known) if known else 1.0

    def worth(name: str) -> float:
        record = records[name]
        return record.expected_improvement(best) / float((record.seconds or usual) ** time_left)

    return max(records, key=worth)
