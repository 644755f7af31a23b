"""Betting: expected improvement against a sum, and how cost and time sway it."""

from __future__ import annotations

import numpy as np
import pytest

from tlbench.search.betting import Record, bet


@pytest.mark.parametrize(("scores", "best"), [((0.5, 0.6, 0.7), 0.7), ((0.2, 0.3), 0.7), ((0.8,), 0.6)])
def test_expected_improvement_is_the_mean_over_draws(scores: tuple[float, ...], best: float) -> None:
    upper = sorted(scores, reverse=True)[: -(-len(scores) // 2)]
    spread = max(float(np.std(scores)), 0.02)
    draws = np.random.default_rng(0).normal(np.mean(upper), spread, 2_000_000)
    expected = float(np.maximum(draws - best, 0).mean())
    assert Record(scores=scores, seconds=1.0).expected_improvement(best) == pytest.approx(expected, rel=0.02, abs=1e-6)


def test_the_better_one_is_bet_on() -> None:
    records = {"good": Record(scores=(0.8, 0.82), seconds=1.0), "bad": Record(scores=(0.5, 0.52), seconds=1.0)}
    assert bet(records, 1.0) == "good"


def test_cost_counts_while_there_is_time() -> None:
    records = {"dear": Record(scores=(0.80,), seconds=100.0), "cheap": Record(scores=(0.79,), seconds=1.0)}
    assert bet(records, 1.0) == "cheap"
    assert bet(records, 0.0) == "dear"


def test_the_unknown_is_tried() -> None:
    records = {"known": Record(scores=(0.8, 0.8), seconds=1.0), "unknown": Record(scores=(), seconds=1.0)}
    assert bet(records, 1.0) == "unknown"
    assert bet({"one": Record(scores=(), seconds=None)}, 0.5) == "one"
