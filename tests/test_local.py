"""The local executor and its pool, with real training: equal results, lost workers, interrupts, events."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import searching
from commands import PATIENCE_S, Runs, is_running, wait_for, workers_of
from pieces import trial
from tlbench.benchmark import Benchmark, Device, NamedOptions
from tlbench.errors import BenchmarkError, QuantityError, StoreError
from tlbench.evaluation.saved import load_model
from tlbench.executors.events import EpochFinished, Event, JobFinished, JobStarted, Notice, RunStarted
from tlbench.executors.local import _Watcher, run
from tlbench.executors.pool import Pool
from tlbench.measurement import Measurement, best_of
from tlbench.store import Store
from tlbench.stream import Stream
from tlbench.trial import Job, Reference

RANDOM: dict[str, Any] = {"sampler": NamedOptions(name="RandomSampler"), "pruner": NamedOptions(name="NopPruner")}


@pytest.fixture(autouse=True)
def installed(tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_PLUGINS", "tiny")
    monkeypatch.setenv("TLBENCH_PLUGIN_TIMEOUT", "200")  # the machine may be busy
    monkeypatch.setenv("TINY_SLEEP_S", "0.2")


def on_cpu(*arguments: Any, **options: Any) -> Benchmark:
    return replace(searching.benchmark(*arguments, **options), device=Device(kind="cpu", dtype="float32", threads=1))


def results(folder: Path) -> dict[str, Any]:
    """Status, scores and predictions of every result, arrays as bytes."""
    store, found = Store(folder), {}
    for one in store.measurements():
        predictions = store.predictions(one.key)
        arrays = predictions and (predictions.sample_id, predictions.predicted.tobytes(), predictions.logits.tobytes())
        found[one.key] = (one.status, one.failure, one.scores, arrays)
    return found


def by_stage(folder: Path, stage: str) -> list[Measurement]:
    return [found for found in Store(folder).measurements() if found.trial.stage == stage]


# Equal questions, equal answers


def test_a_run_here_and_one_in_two_processes_bring_the_same(tmp_path: Path) -> None:
    search = on_cpu(("full", "means", "diverges"), trials=3, epochs=2, **RANDOM)
    events: list[Event] = []
    run(search, tmp_path / "here", on_event=events.append)
    here = results(tmp_path / "here")
    assert Counter(status for status, *_ in here.values()) == {"complete": 2 * 3 + 2 * 2, "failed": 3}
    _check_events(events)
    run(search, tmp_path / "again")
    assert results(tmp_path / "again") == here
    run(search, tmp_path / "pool", workers=2)
    assert results(tmp_path / "pool") == here
    threads = {found.provenance["threads"] for found in by_stage(tmp_path / "pool", "final")}
    assert threads == {1}


def _check_events(events: list[Event]) -> None:
    first, *rest = events
    assert first == RunStarted(cells=3, jobs_total=3 * 3 + 3 * 2, jobs_done=0)
    counts = Counter(type(event) for event in rest)
    assert counts[JobStarted] == counts[JobFinished] == 13
    assert counts[EpochFinished] == 2 * (3 + 2), "two epochs of every job of tiny/full, none of the others"
    assert [event.text for event in rest if isinstance(event, Notice)] == [
        "tiny/net tiny/diverges tiny/blobs: 3 trials in a row failed, last: the training loss became nan after 0 steps"
    ]
    assert rest[-1].jobs_done == rest[-1].jobs_total == 13  # type: ignore[union-attr]


def test_finals_and_the_incumbent_can_be_loaded_and_answer_as_they_did(tmp_path: Path) -> None:
    import tiny

    run(on_cpu(("full",), seeds=(0,), trials=2, epochs=2, **RANDOM), tmp_path)
    store = Store(tmp_path)
    stages = {found.key: found.trial.stage for found in store.measurements()}
    assert sorted(stages[key] for key in store.model_keys()) == ["final", "search"]
    validation = tiny.Blobs().load(0).validation
    assert validation is not None
    for key in store.model_keys():
        kept = store.predictions(key)
        assert kept is not None
        part = [row for row, name in enumerate(kept.split) if name == "validation"]
        samples = [validation[list(validation.ids).index(kept.sample_id[row])] for row in part]
        probabilities = load_model(store.model_path(key))(samples)
        logits = torch.tensor(kept.logits[part], dtype=torch.float32)
        np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), atol=2e-3)


# What cannot be kept


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cache_that_cannot_be_used_is_one_line_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "cache"))
    events: list[Event] = []
    run(on_cpu(("means",), trials=3, **RANDOM), tmp_path / "run", workers=workers, on_event=events.append)
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice.startswith("no cache (cannot make the cache")
    assert {found.status for found in Store(tmp_path / "run").measurements()} == {"complete"}
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "plenty")
    with pytest.raises(QuantityError, match="TLBENCH_CACHE_LIMIT: 'plenty' is not a size"):
        run(on_cpu(("means",), trials=4, **RANDOM), tmp_path / "run", workers=workers)


# Lost workers


@pytest.mark.slow
def test_a_worker_that_always_dies_is_no_answer_and_one_that_dies_once_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = on_cpu(("dies", "means"), seeds=(0,), trials=1, epochs=1, **RANDOM)
    run(search, tmp_path / "run", workers=2)
    (lost,) = [found for found in by_stage(tmp_path / "run", "search") if found.status == "failed"]
    assert lost.failure is not None
    assert (lost.failure.kind, lost.failure.type) == ("infrastructure", "LostWorker")
    assert lost.failure.message == "2 workers died, exit status -9"
    assert [found.trial.strategy.name for found in by_stage(tmp_path / "run", "final")] == ["tiny/means"]

    marker = tmp_path / "died"
    monkeypatch.setenv("TINY_DIES_ONCE", str(marker))
    before = (tmp_path / "run" / "measurements").stat().st_mtime_ns
    run(search, tmp_path / "run", workers=2)
    assert marker.exists()
    assert (tmp_path / "run" / "measurements").stat().st_mtime_ns > before
    assert {found.status for found in Store(tmp_path / "run").measurements()} == {"complete"}
    assert len(by_stage(tmp_path / "run", "final")) == 2


def test_a_pool_listens_to_the_pruner_and_survives_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Measurement] = []
    stopped: list[int] = []

    def answer(pool: Pool, strategy: str, seed: int, last_epoch: int = 9) -> Measurement:
        def on_epoch(job: Job, epoch: int, score: float) -> bool:
            stopped.append(epoch)
            return epoch == last_epoch

        question = trial(strategy=Reference(name=strategy, version=1), seed=seed, epochs=3)
        pool.submit(Job(trial=question))
        while pool.busy:
            pool.wait(on_epoch, lambda job, results: told.extend(results))
        assert told[-1].trial == question
        assert Store(tmp_path).get(question.key) == told[-1]
        return told[-1]

    marker = tmp_path / "died"
    with Pool(on_cpu(("full", "dies")), Store(tmp_path), {}, 1) as pool:
        worker = pool._workers[0]
        worker.process.kill()  # while it has nothing to do
        worker.process.join()
        pruned = answer(pool, "tiny/full", seed=0, last_epoch=2)
        assert (pruned.status, stopped, len(pruned.curve)) == ("pruned", [1, 2], 2)

        monkeypatch.setenv("TINY_DIES_ONCE", str(marker))  # read by the workers to come; this one dies at once
        failure = answer(pool, "tiny/dies", seed=1).failure
        assert failure is not None
        assert (failure.kind, failure.type) == ("infrastructure", "LostWorker")
        assert failure.message == "2 workers died, exit status -9"

        marker.unlink()
        assert answer(pool, "tiny/dies", seed=2).status == "complete"
        assert marker.exists()
        assert len(told) == 3
        last = worker.process
    assert not last.is_alive()


def probes(count: int) -> Job:
    means = Reference(name="tiny/means", version=1)
    params = [{"pool": pool, "temperature": 1.0 + heat} for heat in range(count) for pool in ("native", "max")]
    trials = [trial(strategy=means, params=each, epochs=0) for each in params]
    return Job(trial=trials[0], more=tuple(trials[1:]))


def test_a_pool_answers_jobs_of_many_rows_and_a_lost_worker_fails_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Job, Sequence[Measurement]]] = []
    job, lost = probes(3), probes(2)
    store = Store(tmp_path)

    def answer(asked: Job) -> Sequence[Measurement]:
        with Pool(on_cpu(("means",)), store, {}, 1) as pool:
            pool.submit(asked)
            while pool.busy:
                pool.wait(lambda job, epoch, score: False, lambda *results: told.append(results))
        (answered, results) = told.pop()
        assert answered == asked
        assert [result.trial for result in results] == list(asked.trials)
        assert [store.get(result.key) for result in results] == results
        return results

    assert {result.status for result in answer(job)} == {"complete"}
    assert len(store.model_keys()) == 1
    monkeypatch.setenv("TINY_MEANS_DIE", "1")
    failures = [result.failure for result in answer(lost)]
    assert {(each.kind, each.type) for each in failures if each} == {("infrastructure", "LostWorker")}
    assert len(failures) == 4
    assert not any(
        result is not None and result.answers for result in map(store.get, (each.key for each in lost.trials))
    )


class _Plan:
    """A plan that takes note of what it is told."""

    jobs_done = jobs_total = 1

    def __init__(self) -> None:
        self.told: list[Measurement] = []
        self.answers: deque[Measurement] = deque()
        self.notices: deque[str] = deque()
        self.doings: deque[str] = deque()

    def tell(self, measurement: Measurement) -> None:
        self.told.append(measurement)


def test_a_job_of_many_rows_is_told_row_by_row_and_shown_once() -> None:
    job, plan, seen, events = probes(2), _Plan(), [], list[Event]()
    scores = (0.25, None, 0.75, 0.5)
    results = [
        Measurement(
            trial=each, status="failed" if score is None else "complete", scores={"search": {"accuracy": score}}
        )
        for each, score in zip(job.trials, scores, strict=True)
    ]
    observers: Any = SimpleNamespace(trial_finished=seen.append)
    _Watcher(plan, observers, events.append, lambda: False).results(job, results)  # type: ignore[arg-type]
    assert plan.told == seen == results
    (event,) = events
    assert isinstance(event, JobFinished)
    assert (event.key, event.rows, event.measurement, event.reused) == (job.key, 4, results[2], False)
    text = io.StringIO()
    Stream(text)(event)
    line = json.loads(text.getvalue())
    assert (line["key"], line["rows"], line["best"], line["search_score"]) == (job.key, 4, results[2].key, 0.75)
    losers = [replace(result, status="failed") for result in results]
    assert best_of(losers) is losers[0]
    lower = [
        replace(result, trial=replace(result.trial, metric="nll"), scores={"search": {"nll": score}})
        for result, score in zip(results, scores, strict=True)
    ]
    assert best_of(lower) is lower[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_that_is_not_there_is_refused_before_any_job(tmp_path: Path, workers: int) -> None:
    search = replace(on_cpu(("full",)), device=Device(kind="cuda"))
    with pytest.raises(BenchmarkError, match="torch sees no GPU"):
        run(search, tmp_path, workers=workers)
    assert Store(tmp_path).keys() == []


# Stops


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path).lock(), pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        run(on_cpu(("full",)), tmp_path)


@pytest.mark.parametrize("stop", [JobStarted, EpochFinished, JobFinished])
def test_an_interrupt_leaves_a_run_that_goes_on(tmp_path: Path, stop: type[Event]) -> None:
    search = on_cpu(("full", "means"), seeds=(0,), trials=2, epochs=2)
    run(search, tmp_path / "whole")

    seen: list[Event] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, stop):
            seen.append(event)
            if len(seen) in (1, 4):
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(search, tmp_path / "run", on_event=interrupt)
    run(search, tmp_path / "run")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_with_130_one_line_and_a_run_that_goes_on(tmp_path: Path, workers: int, times: int) -> None:
    search = replace(on_cpu(("slow", "means"), seeds=(0,), trials=4, epochs=3, **RANDOM), name="stopped")
    file = tmp_path / "stopped.toml"
    file.write_text(search.to_toml())
    runs = Runs(file, tmp_path / "out")
    with runs.start_command(workers) as process:
        wait_for(lambda: len(runs.events("told")) >= 2)
        started = workers_of(process.pid)
        wait_for(lambda: len(runs.events("asked")) > len(runs.events("told")))
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
            time.sleep(0.05)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    assert "what runs is finished first; once more stops it now" in output
    assert "to go on: tlbench run" in output
    if times == 1:  # what ran is there, and what was found so far is shown
        assert len(runs.events("asked")) == len(runs.events("told"))
        assert "tiny/net" in output.partition("once more")[2]
    assert "Traceback" not in output
    assert len(started) == (0 if workers == 1 else 2)
    assert not any(map(is_running, started))
    before = runs.mtimes()
    run(search, runs.folder)
    after = runs.mtimes()
    assert before.items() <= after.items()
    assert len(after) == 2 * 4 + 2
    assert {status for status, *_ in results(runs.folder).values()} == {"complete"}
