"""The pool: worker processes on this machine, sent names and the benchmark's own declarations."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, final

from tlbench.benchmark import Benchmark
from tlbench.catalog import Catalog
from tlbench.errors import StoreError
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.evaluate import Evaluator
from tlbench.measurement import Failure, Measurement
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Job

LOST_WORKERS = 2
"""Workers that one job may cost before it counts as failed."""

OnResults = Callable[[Job, Sequence[Measurement]], None]

_spawn = multiprocessing.get_context("spawn")


@final
@dataclass
class _Worker:
    """A worker process and the job it is at."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None
    lost: int = 0
    """Workers this job has cost already."""

    def send(self, message: Any) -> None:
        """Send, or not where the process has died: then `Pool.wait` finds its connection at an end."""
        with suppress(ConnectionError):
            self.connection.send(message)


@final
class Pool:
    """A fixed number of worker processes; one that dies is replaced and its job tried once more."""

    def __init__(
        self,
        benchmark: Benchmark,
        store: Store,
        excluded: Mapping[str, frozenset[str]],
        workers: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say` is told, in one line, what a worker has to say beside its results."""
        self._say = say
        self._arguments = (benchmark, store.path, dict(excluded), workers)
        self._store = store
        self._workers = [self._start() for _ in range(workers)]

    def __enter__(self) -> Pool:
        """The pool, ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker, at whatever it is: what it has not stored is asked again in the next run."""
        for worker in self._workers:
            worker.connection.close()
            if worker.job is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return any(worker.job is None for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether a worker has something to do."""
        return any(worker.job is not None for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job, worker.lost = job, 0
        worker.send(job)

    def wait(self, on_epoch: Callable[[Job, int, float], bool], on_results: OnResults) -> None:
        """Handle what the workers send next. Raises `StoreError` where one could not write its results."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for ready in multiprocessing.connection.wait(list(busy)):
            worker = busy[ready]  # type: ignore[index]
            try:
                kind, *content = worker.connection.recv()
            except (EOFError, ConnectionError):
                self._replace(worker, on_results)
                continue
            job = worker.job
            assert job is not None
            if kind == "epoch":
                worker.send(on_epoch(job, *content))
            elif kind == "notice":
                self._say(*content)
            elif kind == "results":
                worker.job = None
                on_results(job, [Measurement.from_json(each) for each in content[0]])
            else:
                raise StoreError(content[0])

    def _replace(self, worker: _Worker, on_results: OnResults) -> None:
        """A new worker for one that died: killed for its memory, or crashed in native code."""
        worker.process.join()
        status, job, lost = worker.process.exitcode, worker.job, worker.lost + 1
        fresh = self._start()
        worker.process, worker.connection, worker.lost, worker.job = fresh.process, fresh.connection, lost, None
        assert job is not None
        if lost < LOST_WORKERS:
            worker.job = job
            worker.send(job)
            return
        failure = Failure(
            kind="infrastructure", stage="run", type="LostWorker", message=f"{lost} workers died, exit status {status}"
        )
        measurements = [Measurement(trial=trial, status="failed", failure=failure) for trial in job.trials]
        if job.more:
            self._store.put_many(job.key, measurements, {})
        else:
            self._store.put(measurements[0])
        on_results(job, measurements)

    def _start(self) -> _Worker:
        here, there = _spawn.Pipe()
        process = _spawn.Process(target=_work, args=(there, *self._arguments), daemon=True)
        with _without_interrupts():
            process.start()
        there.close()
        return _Worker(process, here)


def _work(
    connection: Connection, benchmark: Benchmark, folder: Any, excluded: dict[str, frozenset[str]], workers: int
) -> None:
    """A worker's life: job in, results out, until the connection closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = Store(folder)

    def say(text: str) -> None:
        with suppress(OSError):
            connection.send(("notice", text))

    evaluator = Evaluator(
        Catalog(discover(), benchmark), store, open_compute(benchmark.device, workers), excluded, workers, say
    )

    def report(epoch: int, score: float) -> bool:
        try:
            connection.send(("epoch", epoch, score))
            return bool(connection.recv())
        except (EOFError, OSError):
            os._exit(1)  # nobody waits for this result: an exception would be stored as the trial's failure

    with suppress(EOFError, ConnectionError):  # the parent needs no more
        while True:
            job = connection.recv()
            try:
                connection.send(("results", [each.to_json() for each in evaluator.evaluate(job, report)]))
            except StoreError as error:
                connection.send(("error", str(error)))


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone: another run may have taken over the results folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes started inside ignore Ctrl-C from their first moment on: the parent decides what to do."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals, and only it gets Ctrl-C
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
