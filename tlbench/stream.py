"""The stream: the events of a run as lines of JSON, for programs that watch it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any, final

from tlbench.executors.events import Doing, EpochFinished, Event, JobFinished, JobStarted, Notice, RunStarted
from tlbench.trial import Job, Trial


@final
class Stream:
    """Writes one object per event to a text file; its `event` says which kind it is. Unknown values are null."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, event: Event) -> None:
        """Write one event of the run."""
        match event:
            case RunStarted():
                self.write("run_started", asdict(event))
            case JobStarted():
                self.write("job_started", _job(event.job))
            case EpochFinished():
                self.write("epoch_finished", {**_job(event.job), "epoch": event.epoch, "search_score": event.score})
            case JobFinished():
                self.write("job_finished", _finished(event))
            case Notice():
                self.write("notice", {"text": event.text})
            case Doing():
                self.write("doing", {"text": event.text})

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write one line at once, so that a reader at the other end of a pipe is never behind."""
        self._file.write(json.dumps({"event": kind, **content}, allow_nan=False) + "\n")
        self._file.flush()


def _job(job: Job) -> dict[str, Any]:
    return {"key": job.key, **_names(job.trial)}


def _names(trial: Trial) -> dict[str, Any]:
    names = {kind: getattr(trial, kind).name for kind in ("dataset", "backbone", "strategy")}
    return {"stage": trial.stage, **names, "seed": trial.seed, "epochs": trial.epochs}


def _finished(event: JobFinished) -> dict[str, Any]:
    measurement = event.measurement
    metric = measurement.trial.metric
    return {
        "key": event.key,
        "rows": event.rows,
        "best": measurement.key,
        **_names(measurement.trial),
        "params": dict(measurement.trial.params),
        "status": measurement.status,
        "failure": None if measurement.failure is None else asdict(measurement.failure),
        "metric": metric,
        "search_score": measurement.score("search", metric),
        "total_s": measurement.cost.get("total_s"),
        "reused": event.reused,
        "jobs_done": event.jobs_done,
        "jobs_total": event.jobs_total,
    }
