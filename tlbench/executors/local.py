"""The local executor: jobs in this process, or in several on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tlbench import caches
from tlbench.benchmark import Benchmark
from tlbench.catalog import Catalog
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.serving import Serving
from tlbench.executors.events import Doing, EpochFinished, Event, JobFinished, JobStarted, Notice, RunStarted
from tlbench.executors.pool import Pool
from tlbench.measurement import Measurement, best_of
from tlbench.observers import Observers, open_observers
from tlbench.plugins import discover
from tlbench.search.admission import Admission
from tlbench.search.answering import answer_keys
from tlbench.search.opening import open_plan
from tlbench.search.plan import Plan
from tlbench.store import Store
from tlbench.trial import Job

Watch = Callable[[Event], None]


def run(
    benchmark: Benchmark,
    folder: Path,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    retry_failed: bool = False,
    observe: Sequence[str] = (),
    speed: bool = False,
    on_event: Watch | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Run a benchmark into its results folder, or go on with a run that stopped.

    `workers` overrides the file's `device.workers`; `observe` names plugins that observe when asked; `speed`: whether
    to measure how fast the finals' models are, when all is done and the machine is quiet. Once `stopping` says so, what
    runs is finished, nothing is begun. Raises `TlbenchError` for what the user can mend.
    """
    workers, watch = workers or benchmark.device.workers, on_event or (lambda _: None)
    store, plugins = Store(folder), discover()

    def say(text: str) -> None:
        watch(Doing(text=text))

    with store.lock():
        observers = open_observers(plugins, folder, observe)
        catalog = Catalog(plugins, benchmark)
        compute = open_compute(benchmark.device, workers)  # refuses here what every worker would die of
        caches.limit_bytes()  # likewise
        admission = Admission(
            limits=benchmark.limits, store=store, catalog=catalog, plugins=plugins, compute=compute, say=say
        )
        opened = open_plan(
            benchmark,
            catalog,
            store,
            workers=workers,
            skip_bad=skip_bad,
            retry_failed=retry_failed,
            admission=admission,
        )
        store.write_benchmark(benchmark.to_toml())
        watcher = _Watcher(opened.plan, observers, watch, stopping)
        watcher.start()
        if workers == 1:
            _run_here(Evaluator(catalog, store, compute, opened.excluded, say=watcher.notice), watcher)
        else:
            with Pool(benchmark, store, opened.excluded, workers, watcher.notice) as pool:
                _run_pool(pool, watcher)
        watcher.flush()
        if speed and not stopping():
            _measure(Serving(store=store, plugins=plugins, compute=compute, say=say), opened.plan, stopping)


def _measure(serving: Serving, plan: Plan, stopping: Callable[[], bool]) -> None:
    """The speed of what the run keeps, the answer on each data set first; with the budget spent, of these alone."""
    metric = plan.benchmark.search.metric
    answers = answer_keys(plan.journal.events(), plan.store, metric)
    models = serving.unknown(metric, answers)
    budget_s = plan.benchmark.search.budget_s
    if models:
        serving.say(f"measuring the speed of {len(models)} model{'s' * (len(models) != 1)}")
    for model in models:
        spent = budget_s is not None and plan.spent_s > budget_s
        if stopping() or (spent and model.trial.key not in answers):
            break
        serving.measure(model)


class _Watcher:
    """Tells observers and whoever watches what the plan learns."""

    def __init__(self, plan: Plan, observers: Observers, on_event: Watch, stopping: Callable[[], bool]) -> None:
        self._plan, self._observers, self._on_event, self._stopping = plan, observers, on_event, stopping
        self._noticed: set[str] = set()

    def start(self) -> None:
        """The run begins."""
        plan = self._plan
        self._on_event(
            RunStarted(
                cells=plan.cells,
                jobs_total=plan.jobs_total,
                jobs_done=plan.jobs_done,
                budget_s=plan.benchmark.search.budget_s,
                spent_s=plan.spent_before_s,
            )
        )

    def ask(self) -> Job | None:
        """The next job, unless the run is to stop."""
        if self._stopping():
            self._plan.stop()
        return self._plan.ask()

    def job(self, job: Job) -> None:
        """A worker takes a job."""
        self.flush()
        self._on_event(JobStarted(job=job, stage=self._plan.stage))

    def epoch(self, job: Job, epoch: int, score: float) -> bool:
        """An epoch ended; answers whether to stop the trial."""
        self._on_event(EpochFinished(job=job, epoch=epoch, score=score))
        return self._plan.report(job.key, epoch, score)

    def results(self, job: Job, measurements: Sequence[Measurement]) -> None:
        """A job ended and its results are stored."""
        for measurement in measurements:
            self._plan.tell(measurement)
            self._observers.trial_finished(measurement)
        self._finished(best_of(measurements), rows=len(measurements), job_key=job.key)
        self.flush()

    def notice(self, text: str) -> None:
        """Pass on a line that a worker has to say; once, however many say it."""
        if text not in self._noticed:
            self._noticed.add(text)
            self._on_event(Notice(text=text))

    def flush(self) -> None:
        """Pass on what the plan found in the store and has to say."""
        while self._plan.answers:
            self._finished(self._plan.answers.popleft())
        while self._plan.doings:
            self._on_event(Doing(text=self._plan.doings.popleft()))
        while self._plan.notices:
            self._on_event(Notice(text=self._plan.notices.popleft()))

    def _finished(self, measurement: Measurement, rows: int = 1, job_key: str | None = None) -> None:
        """Without the key of a job the measurement was found."""
        self._on_event(
            JobFinished(
                measurement=measurement,
                rows=rows,
                job_key=job_key,
                reused=job_key is None,
                jobs_done=self._plan.jobs_done,
                jobs_total=self._plan.jobs_total,
            )
        )


def _run_here(evaluator: Evaluator, watcher: _Watcher) -> None:
    while (job := watcher.ask()) is not None:
        watcher.job(job)
        watcher.results(job, evaluator.evaluate(job, partial(watcher.epoch, job)))


def _run_pool(pool: Pool, watcher: _Watcher) -> None:
    while True:
        while pool.idle and (job := watcher.ask()) is not None:
            watcher.job(job)
            pool.submit(job)
        watcher.flush()
        if not pool.busy:
            return
        pool.wait(watcher.epoch, watcher.results)
