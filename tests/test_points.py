"""Points spread over a space by a scrambled Sobol sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from tlbench.search.points import DIMENSIONS, Point, points

COUNT = 64


def drawn(ask: Callable[[Point], Any], seed: int = 0) -> list[Any]:
    return [ask(point) for point in points(COUNT, seed)]


def test_floats_are_spread_evenly() -> None:
    """More evenly than random ones: of those the largest gap of the distributions is 0.17, of every twentieth set."""
    uniform = drawn(lambda point: point.suggest_float("a", -2.0, 3.0))
    logarithmic = drawn(lambda point: point.suggest_float("a", 1e-6, 10.0, log=True))
    for values, low, high in ((uniform, -2.0, 3.0), (np.log10(logarithmic), -6.0, 1.0)):
        assert kstest(values, "uniform", (low, high - low)).statistic < 0.04
        assert low <= min(values) <= max(values) <= high


def test_every_step_choice_and_integer_has_its_turn() -> None:
    asked: dict[str, tuple[Callable[[Point], Any], list[Any]]] = {
        "choices": (lambda point: point.suggest_categorical("a", ("x", None, 3)), ["x", None, 3]),
        "integers": (lambda point: point.suggest_int("a", 3, 6), [3, 4, 5, 6]),
        "by steps": (lambda point: point.suggest_int("a", 2, 8, step=3), [2, 5, 8]),
        "floats by steps": (lambda point: point.suggest_float("a", 0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        "alone": (lambda point: point.suggest_int("a", 7, 7), [7]),
    }
    for name, (ask, expected) in asked.items():
        values = drawn(ask)
        counts = Counter(round(value, 9) if isinstance(value, float) else value for value in values)
        assert set(counts) == set(expected), name
        assert {type(value) for value in values} == {type(value) for value in expected}, name
        assert min(counts.values()) >= COUNT // len(expected) - 1, name
        assert name == "choices" or max(values) <= expected[-1], name


def test_integers_over_their_logarithms() -> None:
    """Twice as large, half as often."""
    counts = Counter(drawn(lambda point: point.suggest_int("a", 1, 7, log=True)))
    assert set(counts) == set(range(1, 8))
    for number, count in counts.items():
        assert count == pytest.approx(COUNT * np.log((number + 1) / number) / np.log(8), abs=1.5)


def test_a_name_that_is_asked_again_has_the_same_answer() -> None:
    def twice(point: Point) -> tuple[str, str]:
        return point.suggest_categorical("a", ("x", "y")), point.suggest_categorical("a", ("x", "y"))

    assert set(drawn(twice)) == {("x", "x"), ("y", "y")}


@pytest.mark.parametrize(
    "ask",
    [
        lambda point: point.suggest_float("a", 10.0, 1e-6, log=True),
        lambda point: point.suggest_float("a", 0.0, 1.0, log=True),
        lambda point: point.suggest_float("a", 1.0, 2.0, step=0.1, log=True),
        lambda point: point.suggest_float("a", 1.0, 2.0, step=0),
        lambda point: point.suggest_int("a", 3, 2),
        lambda point: point.suggest_categorical("a", ()),
    ],
)
def test_what_optuna_refuses_is_refused(ask: Callable[[Point], Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        drawn(ask)


def test_bounds_are_kept_to_the_last_bit() -> None:
    assert set(drawn(lambda point: point.suggest_float("a", 5.0, 5.0, log=True))) == {5.0}
    whole = drawn(lambda point: point.suggest_float("a", 0, 10, step=2))
    assert {type(value) for value in whole} == {float}


def test_beyond_the_dimensions_parameters_are_random() -> None:
    def many(point: Point) -> list[float]:
        return [point.suggest_float(str(number), 0.0, 1.0) for number in range(DIMENSIONS + 20)]

    values = np.array(drawn(many))
    np.testing.assert_array_equal(values, np.array(drawn(many)))
    assert len(np.unique(values)) == values.size
    assert np.abs(values[:, DIMENSIONS:].mean(axis=0) - 0.5).max() < 0.15


def test_parameters_are_independent_and_seeds_give_other_points() -> None:
    def whole(point: Point) -> list[float]:
        return [point.suggest_float(str(number), 0.0, 1.0) for number in range(DIMENSIONS)]

    first, again, other = (np.array(drawn(whole, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.2
    correlations = np.corrcoef(first[:, :8].T) - np.eye(8)
    assert np.abs(correlations).max() < 0.3
