"""The staged plan over a store: resuming, killing, books, and what is left on the disk."""

from __future__ import annotations

import time
from dataclasses import replace

import pandas as pd
import pytest

from pieces import trial
from searching import Folder, Killed, benchmark, complete, dying_at, failed, formula
from tlbench.benchmark import Benchmark, NamedOptions
from tlbench.errors import BenchmarkError
from tlbench.leaderboard.table import read_leaderboard
from tlbench.measurement import Measurement
from tlbench.trial import SCREEN, Trial


def read_leaderboard_of(folder: Folder, benchmark: Benchmark) -> pd.DataFrame:
    (folder.path / "benchmark.toml").write_text(benchmark.to_toml())
    return read_leaderboard(folder.path)


STAGED = benchmark(["means", "head", "full"], plan="staged", trials=3, epochs=3)


def test_a_run_ends_with_a_board_and_finals(folder: Folder) -> None:
    folder.run(STAGED)
    stages = {trial.stage for trial in folder.evaluated}
    assert stages == {"search", "final"}
    (folder.path / "benchmark.toml").write_text(STAGED.to_toml())
    frame = read_leaderboard(folder.path)
    final = frame[frame["state"] == "final"]
    assert set(final["strategy"]) >= {"tiny/means", "tiny/head", "tiny/full"}
    assert (final["seeds"] == 2).all()
    told = [key for events in folder.told().values() for _, key, _ in events]
    assert len(told) == len(set(told))


def test_run_again_computes_nothing(folder: Folder) -> None:
    folder.run(STAGED)
    before = folder.outcome()
    assert folder.run(STAGED) == []
    assert folder.outcome() == before


def test_run_again_after_its_time_computes_nothing_and_loses_nothing(folder: Folder) -> None:
    """What a budget stopped is asked in the same order again: all of it is known, whatever the clock says."""
    budgeted = replace(STAGED, search=replace(STAGED.search, budget_s=3600.0, trials=12))
    folder.run(budgeted)
    before, frame = folder.outcome(), read_leaderboard_of(folder, budgeted)
    folder.clock = lambda: time.monotonic() - 7200.0
    assert folder.run(budgeted) == []
    assert folder.outcome() == before
    pd.testing.assert_frame_equal(read_leaderboard_of(folder, budgeted), frame)


@pytest.mark.parametrize("jobs", [1, 2, 4, 7])
def test_what_was_stopped_goes_on_and_repeats_nothing(folder: Folder, jobs: int) -> None:
    folder.run(STAGED, jobs=jobs)
    folder.run(STAGED)
    keys = [trial.key for trial in folder.evaluated]
    assert len(keys) == len(set(keys))
    undisturbed = folder.beside("undisturbed")
    undisturbed.run(STAGED)
    assert folder.outcome() == undisturbed.outcome()


def test_killed_at_any_of_twenty_writes_it_ends_the_same(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.run(STAGED)
    expected = folder.outcome()
    for write in range(1, 40, 4):
        for before in (True, False):
            killed = folder.beside(f"{write}{before}")
            with dying_at(write, before, monkeypatch), pytest.raises(Killed):
                killed.run(STAGED)
            killed.run(STAGED)
            found = killed.outcome()
            assert found["results"] == expected["results"]
            assert found["finals"] == expected["finals"]
            assert found["models"] == expected["models"]


def test_failed_trials_are_tried_again_when_asked(folder: Folder) -> None:
    def breaking(trial: Trial, stop: object) -> Measurement:
        return failed(trial) if trial.strategy.name == "tiny/full" and trial.stage == "search" else complete(trial)

    folder.run(STAGED, breaking)
    assert folder.run(STAGED) == []
    again = folder.run(STAGED, retry_failed=True)
    assert {trial.strategy.name for trial in again if trial.stage == "search"} >= {"tiny/full"}


def test_failed_looks_are_taken_again_when_asked(folder: Folder) -> None:
    look = failed(trial(strategy=SCREEN, params={}, epochs=0, stage="screen"))
    folder.store.put(look)
    folder.open(STAGED)
    assert folder.store.get(look.key) is not None
    folder.open(STAGED, retry_failed=True)
    assert folder.store.get(look.key) is None


def test_what_was_tried_again_and_did_not_fail_stays(folder: Folder) -> None:
    def breaking(trial: Trial, stop: object) -> Measurement:
        return failed(trial) if trial.strategy.name == "tiny/full" else complete(trial)

    folder.run(STAGED, breaking)
    assert folder.run(STAGED, retry_failed=True)
    assert folder.run(STAGED, retry_failed=True) == []


def test_a_sampler_that_does_not_suit_is_told_and_the_rest_goes_on(folder: Folder) -> None:
    grid = NamedOptions(name="GridSampler", options={"search_space": {"other": [1, 2]}})
    unsuited = benchmark(["means", "full"], plan="staged", trials=3, epochs=3, sampler=grid)
    folder.run(unsuited)
    (notice,) = folder.notices
    assert notice.startswith("left out tiny/net tiny/full: no recipe: ValueError: ")
    assert {found.strategy.name for found in folder.evaluated if found.stage == "final"} == {"tiny/means", "tiny/full"}
    assert folder.run(unsuited) == []


def test_a_sampler_that_optuna_lacks_is_refused_before_anything_runs(folder: Folder) -> None:
    with pytest.raises(BenchmarkError, match=r"search\.sampler\.name = 'NoSampler'"):
        folder.open(benchmark(["full"], plan="staged", sampler=NamedOptions(name="NoSampler")))
    assert folder.events() == []


def test_several_workers(folder: Folder) -> None:
    folder.run(STAGED, formula, workers=3)
    assert folder.run(STAGED, formula, workers=3) == []


def test_the_models_of_finals_and_the_incumbent_are_kept(folder: Folder) -> None:
    folder.run(STAGED)
    finals = {trial.key for trial in folder.evaluated if trial.stage == "final"}
    kept = set(folder.store.model_keys())
    assert finals <= kept
    assert len(kept - finals) == 1


def test_a_part_of_the_axes_is_refused(folder: Folder) -> None:
    with pytest.raises(BenchmarkError, match=r"searches backbones and strategies together"):
        folder.open(benchmark(["full"], plan="staged", over=("backbone",)))
