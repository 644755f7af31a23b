"""Statistics: intervals around a proportion and around a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson(correct: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval (Wilson 1927) of the proportion `correct` / `total`: its ends, in [0, 1].

    `correct` may be fractional, as the mean number correct over several seeds is.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no proportion")
    if float(correct).is_integer():
        from scipy.stats import binomtest

        interval = binomtest(int(correct), total).proportion_ci(confidence, method="wilson")
        return float(interval.low), float(interval.high)
    return _wilson_of_fraction(correct / total, total, confidence)


def student_half_width(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t interval of the mean of `values`; None for fewer than two: no spread is known."""
    if len(values) < 2:
        return None
    from scipy.stats import sem, t

    return float(t.ppf(0.975, len(values) - 1) * sem(values))


def _wilson_of_fraction(proportion: float, total: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + confidence) / 2)) ** 2 / total
    centre = (proportion + z2 / 2) / (1 + z2)
    half_width = math.sqrt(z2 * (proportion * (1 - proportion) + z2 / 4)) / (1 + z2)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)
