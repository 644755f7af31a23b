"""Statistics: intervals around a proportion, a mean and a difference of paired scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 4_000_000  # resampled values in memory: 32 MB


def wilson(correct: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval (Wilson 1927) of the proportion `correct` / `total`: its ends, in [0, 1].

    `correct` may be fractional, as the mean number correct over several seeds is. scipy's takes whole numbers alone,
    and half a millisecond for each.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no proportion")
    proportion, z2 = correct / total, NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / total
    centre = (proportion + z2 / 2) / (1 + z2)
    half_width = math.sqrt(z2 * (proportion * (1 - proportion) + z2 / 4)) / (1 + z2)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def student_half_width(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t interval of the mean of `values`; None for fewer than two: no spread is known."""
    if len(values) < 2:
        return None
    from scipy.stats import sem, t

    return float(t.ppf(0.975, len(values) - 1) * sem(values))


def paired_bootstrap(differences: np.ndarray, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `differences` [seeds, samples], both of which are resampled.

    A difference is what two competitors scored on the same sample after training from the same seed: what makes a
    sample hard for both cancels out (Efron and Tibshirani 1993, chapters 8 and 13). The interval depends on `seed`
    alone.
    """
    import numpy as np

    seeds, samples = differences.shape
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    rows = max(1, _AT_ONCE // samples)
    means = []
    for start in range(0, resamples, rows):
        chosen = of_seeds[start : start + rows]
        of_samples = generator.multinomial(samples, np.full(samples, 1 / samples), len(chosen)) / samples
        means.append(np.einsum("rn,rn->r", chosen @ differences, of_samples))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)
