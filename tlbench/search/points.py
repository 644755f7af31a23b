"""Points of a space, spread over it evenly in place of random ones, which lie in heaps and leave holes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, final

from tlbench.evaluation.sobol import sobol

DIMENSIONS = 64
"""Parameters that a point has coordinates for."""


def points(count: int, seed: int) -> Iterator[Point]:
    """Of a scrambled Sobol sequence."""
    return map(Point, sobol(count, DIMENSIONS, seed))


@final
class Point:
    """Answers what a space asks, parameter by parameter, each by its own coordinate in [0, 1)."""

    def __init__(self, coordinates: Sequence[float]) -> None:
        self._coordinates = iter(coordinates)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Uniform between the bounds, or over their logarithms, or over the steps from the lower one."""
        if step is not None:
            return low + step * self._index(math.floor((high - low) / step + 1e-9) + 1)
        return self._between(low, high, log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Likewise, both bounds included."""
        if log:
            return min(math.floor(self._between(low, high + 1, log)), high)
        return low + step * self._index((high - low) // step + 1)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Each choice as often as any other."""
        return choices[self._index(len(choices))]

    def _between(self, low: float, high: float, log: bool) -> float:
        share = next(self._coordinates)
        if not log:
            return low + share * (high - low)
        return min(math.exp(math.log(low) + share * (math.log(high) - math.log(low))), high)

    def _index(self, count: int) -> int:
        return min(int(next(self._coordinates) * count), count - 1)
