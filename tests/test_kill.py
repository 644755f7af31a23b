"""SIGKILL at random moments: in the end, everything is as in a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from commands import Runs, is_running, wait_for, workers_of

pytestmark = pytest.mark.long

TOML = """
backbones = ["tiny/net"]
strategies = ["tiny/full", "tiny/slow", "tiny/means"]
datasets = ["tiny/blobs"]
seeds = [0, 1]
[search]
trials = 4
epochs = 3
{search}
[device]
kind = "cpu"
threads = 1
"""
KILLS = 5


@pytest.fixture(autouse=True)
def installed(tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_PLUGINS", "tiny")
    monkeypatch.setenv("TLBENCH_PLUGIN_TIMEOUT", "200")  # the machine may be busy
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TINY_SLEEP_S", "0.1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "killed.toml"
    path.write_text(TOML.format(search=""))
    return path


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))])
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(file: Path, tmp_path: Path, seed: int) -> None:
    """Five kills in one folder, one while the run opens; the others fall into search, finals, or after the end."""
    undisturbed = Runs(file, tmp_path / "undisturbed")
    undisturbed.finish()
    in_all = len(undisturbed.events("told"))
    each_s = max(event["spent_s"] for event in undisturbed.events("told")) / in_all
    runs, moments, told = Runs(file, tmp_path / "killed"), random.Random(seed), [0]
    for kill in range(KILLS):
        process = runs.start()
        if kill == seed % KILLS:
            time.sleep(moments.uniform(0.0, 0.5))
        else:
            opened = len(runs.events("opened"))
            wait_for(lambda opened=opened: len(runs.events("opened")) > opened)  # type: ignore[misc]
            least = min(told[-1] + moments.randrange(3), in_all)
            wait_for(lambda least=least: len(runs.events("told")) >= least)  # type: ignore[misc]
            time.sleep(moments.uniform(0.0, 2 * each_s))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        told.append(len(runs.events("told")))
    assert told == sorted(told)
    assert len(set(told)) >= 3, "most kills must come while there is something to lose"
    runs.finish()
    assert runs.outcome() == undisturbed.outcome()


def test_with_two_workers_nothing_finished_is_repeated_and_no_worker_is_left(tmp_path: Path) -> None:
    file = tmp_path / "pair.toml"
    file.write_text(TOML.format(search='sampler = { name = "RandomSampler" }\npruner = { name = "NopPruner" }'))
    runs = Runs(file, tmp_path / "out")
    process = runs.start(workers=2)
    wait_for(lambda: len(runs.events("told")) >= 3)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.join()
    wait_for(lambda: not any(map(is_running, workers)), patience_s=10.0)
    before = runs.mtimes()
    process = runs.start(workers=2)
    wait_for(lambda: len(runs.events("told")) >= len(before) + 3)
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    then = runs.mtimes()
    runs.finish()
    after = runs.mtimes()
    assert before.items() <= then.items() <= after.items()
    assert len(after) == 3 * 4 + 3 * 2
    told = runs.outcome()["told"]
    assert len(told) == 3
    for asked in told.values():
        assert sorted(number for number, _, _ in asked if number is not None) == [0, 1, 2, 3]
