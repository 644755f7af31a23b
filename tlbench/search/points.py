"""Points of a space, spread over it evenly in place of random ones, which lie in heaps and leave holes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tlbench.evaluation.sobol import sobol

DIMENSIONS = 64
"""Parameters of a point that are spread; what a space asks beyond them is random."""


def points(count: int, seed: int) -> Iterator[Point]:
    """Of a scrambled Sobol sequence."""
    for number, coordinates in enumerate(sobol(count, DIMENSIONS, seed)):
        yield Point(chain(coordinates, iter(random.Random(f"{seed} {number}").random, None)))  # noqa: S311


@final
class Point:
    """Answers what a space asks as a trial of Optuna's does, parameter by parameter, each by its own coordinate."""

    def __init__(self, coordinates: Iterable[float]) -> None:
        self._coordinates = iter(coordinates)
        self._answers: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Uniform between the bounds, or over their logarithms, or over the steps from the lower one."""
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Likewise, both bounds included."""
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Each choice as often as any other."""
        return self._answer(name, CategoricalDistribution(choices))

    def _answer(self, name: str, of: BaseDistribution) -> Any:
        """The same whenever a name is asked again."""
        if name not in self._answers:
            self._answers[name] = _at(of, next(self._coordinates))
        return self._answers[name]


def _at(of: BaseDistribution, share: float) -> Any:
    """The value that has this share of the distribution below it."""
    if isinstance(of, CategoricalDistribution):
        return of.choices[_index(share, len(of.choices))]
    assert isinstance(of, FloatDistribution | IntDistribution)
    if of.step is not None and not of.log:
        value: float = of.low + of.step * _index(share, round((of.high - of.low) / of.step) + 1)
    elif not of.log:
        value = of.low + share * (of.high - of.low)
    elif isinstance(of, IntDistribution):
        value = math.floor(_geometric(of.low, of.high + 1, share))
    else:
        value = _geometric(of.low, of.high, share)
    return min(max(value, of.low), of.high)


def _geometric(low: float, high: float, share: float) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def _index(share: float, count: int) -> int:
    return min(int(share * count), count - 1)
