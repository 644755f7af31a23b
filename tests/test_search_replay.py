"""The search on recorded trainings: it is as soon as good as it was measured to be, next to what people use instead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import optuna
import pytest

from replay import METHODS, aims, best_backbone, replay
from searches.contested import staged
from searches.report import Run, by_method, median_time, ratio
from searches.rungs import Rungs, rungs_up_to
from searches.simulation import Simulation
from searches.table import Table, read_table

FOLDER = Path(__file__).parents[1] / "benchmarks" / "performance"
SEEDS = range(8)
LIMIT_S = 300.0

# What was measured on the table that is committed, less a margin: a plan that gets better needs no change here, and a
# table that is recorded anew needs new bounds.
LATEST_S = {"best linear probe": 8.8, "99 % of the best": 47.0}  # measured: 8.0, 42.8
LEAST_RATIOS = {
    "best linear probe": {"optuna": 10.2, "random": 10.2, "asha": 3.9, "one-epoch": 15.9},  # 12.8, 12.8, 4.8, 19.3
    "99 % of the best": {"optuna": 6.4, "random": 6.4, "asha": 6.4, "one-epoch": 6.4},  # 7.0: never in the time
}
LEAST_LAST = 0.692  # measured: 0.698


@dataclass(frozen=True)
class Replays:
    """All methods on the table."""

    table: Table
    runs: dict[str, list[Run]]
    aims: dict[str, float]
    took_s: float

    def median(self, method: str, aim: str) -> float:
        return median_time(self.runs[method], self.aims[aim]).middle


@pytest.fixture(scope="module")
def replays() -> Iterator[Replays]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table, start = read_table(FOLDER), time.process_time()
    runs = replay(table, SEEDS, LIMIT_S)
    yield Replays(table, by_method(runs), aims(table, runs), time.process_time() - start)
    optuna.logging.set_verbosity(before)


def made(times: list[float], tests: list[float], method: str = "made") -> Run:
    return Run(method=method, seed=0, seconds=100.0, times=times, tests=tests)


def test_a_run_knows_its_incumbents() -> None:
    run = made([10.0, 20.0, 50.0], [0.5, 0.7, 0.6])
    assert [run.at(moment) for moment in (5.0, 10.0, 30.0, 100.0)] == [0.0, 0.5, 0.7, 0.6]
    assert [run.reaches(target) for target in (0.4, 0.6, 0.7, 0.71)] == [10.0, 20.0, 20.0, None]


def test_runs_that_never_get_there_are_counted() -> None:
    runs = [made([10.0], [0.8]), made([30.0], [0.8]), made([10.0], [0.2])]
    found = median_time(runs, 0.8)
    assert (found.middle, found.censored) == (30.0, 1)
    assert found.restricted_mean == pytest.approx((10 + 30 + 100) / 3)
    assert found.low <= found.middle <= found.high
    never = median_time([made([10.0], [0.2])] * 3, 0.8)
    assert never.middle > 100.0
    assert never.restricted_mean == 100.0
    assert "> 100" in never.text(100.0)


def test_a_ratio_to_runs_that_never_get_there_is_a_least_one() -> None:
    soon, never = [made([5.0], [0.8])] * 3, [made([5.0], [0.1])] * 3
    assert ratio(never, soon, 0.8) == (20.0, 20.0, 20.0, True)
    assert ratio(soon, soon, 0.8) == (1.0, 1.0, 1.0, False)


def test_rungs_promote_the_best_third_once() -> None:
    assert rungs_up_to(9) == (1, 3, 9)
    rungs = Rungs(epochs=(1, 3, 9))
    assert rungs.next() is None
    rungs.scores[0].update({0: 0.1, 1: 0.3, 2: 0.2})
    assert rungs.next() == (1, 1)
    assert rungs.next() is None
    rungs.scores[0].update({3: 0.4, 4: 0.0, 5: 0.0})
    assert rungs.next() == (3, 1)
    rungs.scores[1].update({1: 0.5, 3: 0.4, 9: 0.3})
    assert rungs.next() == (1, 2)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_replay_keeps_to_its_time_and_repeats_itself(method: str, replays: Replays) -> None:
    for run in replays.runs[method]:
        assert run.times
        assert 0 < run.times[0] <= run.times[-1] <= LIMIT_S
        assert all(earlier <= later for earlier, later in pairwise(run.times))
    assert replay(replays.table, [3], LIMIT_S, [method]) == [replays.runs[method][3]]


def test_the_table_is_that_of_real_trainings(replays: Replays) -> None:
    """More epochs help at rates that break nothing where no probe is at the start; fine-tuning beats the best probe."""
    table = replays.table
    assert len(table.backbones) == 5
    tests = {where: scores.test for where, scores in table.all("wsd").items() if where[2] <= 3e-4}
    tests = {where: test for where, test in tests.items() if where[1] == "basic/full"}
    assert all(tests[*where, 9] > tests[*where, 1] for where in {where[:3] for where in tests})
    assert 0.4 < replays.aims["best linear probe"] < replays.aims["99 % of the best"] < 1.0


@pytest.mark.parametrize("aim", LATEST_S)
def test_the_search_is_there_as_soon_as_it_was(aim: str, replays: Replays) -> None:
    assert replays.median("tlbench", aim) <= LATEST_S[aim]


@pytest.mark.parametrize(("aim", "other"), [(aim, other) for aim, others in LEAST_RATIOS.items() for other in others])
def test_others_take_as_many_times_as_long(aim: str, other: str, replays: Replays) -> None:
    found = ratio(replays.runs[other], replays.runs["tlbench"], replays.aims[aim])[0]
    assert found >= LEAST_RATIOS[aim][other]


@pytest.mark.parametrize("moment_s", [60.0, 120.0, LIMIT_S])
def test_it_is_no_worse_than_no_search(moment_s: float, replays: Replays) -> None:
    mine, without = ([run.at(moment_s) for run in replays.runs[name]] for name in ("tlbench", "defaults"))
    error = np.sqrt((np.var(mine, ddof=1) + np.var(without, ddof=1)) / len(mine))
    assert np.mean(mine) >= np.mean(without) - 0.5 * error  # measured: 1.3, 1.3 and 1.6 errors better


def test_what_it_ends_with_is_no_worse_than_what_other_searches_do(replays: Replays) -> None:
    last = {method: [run.at(LIMIT_S) for run in runs] for method, runs in replays.runs.items() if method != "defaults"}
    mine = last.pop("tlbench")
    assert np.mean(mine) >= LEAST_LAST
    for others in last.values():
        error = np.sqrt((np.var(mine, ddof=1) + np.var(others, ddof=1)) / len(mine))
        assert np.mean(mine) >= np.mean(others) - error


def test_it_takes_seconds(replays: Replays) -> None:
    assert replays.took_s < 50.0


def test_the_best_backbone_is_trained_whatever_the_seed(replays: Replays) -> None:
    best = f"real/{best_backbone(replays.table)}"
    for seed in SEEDS[:2]:
        assert best in staged(Simulation(table=replays.table, seconds=LIMIT_S, seed=seed))
