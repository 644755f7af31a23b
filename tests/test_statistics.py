"""Intervals against published values, scipy's own and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tlbench import statistics
from tlbench.statistics import paired_bootstrap, student_half_width, wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (90, 100, 0.825634, 0.944771),
        (0, 10, 0.0, 0.277533),
        (900, 1000, 0.879848, 0.917091),
        (3300, 3669, 0.889274, 0.908746),
    ],
)
def test_wilson_of_known_proportions(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-7)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (1, 7), (37, 41), (500, 1000)])
def test_the_closed_form_agrees_with_scipy(correct: int, total: int, confidence: float) -> None:
    interval = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson(correct, total, confidence) == pytest.approx(tuple(interval), abs=1e-12)


def test_a_fractional_number_correct_lies_between_its_neighbours() -> None:
    ends = np.array([wilson(correct, 50) for correct in (40, 40.25, 40.5, 40.75, 41)])
    assert (np.diff(ends, axis=0) > 0).all()
    np.testing.assert_allclose(wilson(40 + 1e-9, 50), wilson(40, 50), atol=1e-9)


def test_wilson_mirrors_and_stays_a_proportion() -> None:
    for correct in np.linspace(0, 12, 37):
        low, high = wilson(correct, 12)
        assert 0 <= low <= correct / 12 <= high <= 1
        assert wilson(12 - correct, 12) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5), (float("nan"), 5)])
def test_wilson_refuses_what_is_no_proportion(correct: float, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, total)


@pytest.mark.parametrize(("n", "factor"), [(2, 8.985), (3, 2.484), (5, 1.242), (10, 0.715)])
def test_student_half_width_in_standard_deviations(n: int, factor: float) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert student_half_width(values.tolist()) == pytest.approx(factor * values.std(ddof=1), rel=1e-3)


def test_student_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3, 2, size=(2000, 4))
    covered = [abs(row.mean() - 3) <= (student_half_width(row.tolist()) or 0) for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_known_spread() -> None:
    assert student_half_width([]) is None
    assert student_half_width([0.9]) is None
    assert student_half_width([0.9, 0.9]) == 0


def test_the_paired_bootstrap_agrees_with_scipy_where_one_seed_leaves_nothing_else_to_resample() -> None:
    from scipy.stats import bootstrap

    differences = np.random.default_rng(5).integers(-1, 2, 400).astype(float)
    theirs = bootstrap((differences,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert paired_bootstrap(differences[None], resamples=20_000) == pytest.approx(tuple(theirs), abs=0.005)


def test_the_paired_bootstrap_covers_a_gain_that_varies_from_seed_to_seed() -> None:
    """Ten seeds whose true gains have a standard deviation of 0.05 around 0.1: nine worlds of ten, at least."""
    generator, covered = np.random.default_rng(0), 0
    for world in range(200):
        chances = np.clip(generator.normal(0.1, 0.05, (10, 1)), 0, 1)
        low, high = paired_bootstrap((generator.random((10, 200)) < chances).astype(float), seed=world, resamples=400)
        covered += low <= 0.1 <= high
    assert covered >= 180


def test_the_paired_bootstrap_depends_on_its_seed_alone_and_never_holds_all_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differences = np.random.default_rng(1).integers(-1, 2, (3, 50)).astype(float)
    expected = paired_bootstrap(differences, seed=4)
    assert paired_bootstrap(differences, seed=4) == expected
    monkeypatch.setattr(statistics, "_AT_ONCE", 50 * 7)
    assert paired_bootstrap(differences, seed=4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("differences", "expected"), [([[0.0, 0.0]], (0, 0)), ([[1.0, 1.0]], (1, 1))])
def test_differences_that_are_all_alike_have_no_spread(
    differences: list[list[float]], expected: tuple[int, int]
) -> None:
    assert paired_bootstrap(np.array(differences)) == pytest.approx(expected, abs=1e-12)
