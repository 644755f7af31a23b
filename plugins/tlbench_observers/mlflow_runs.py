"""MLflow: a run per trial, in `observers/mlflow` or wherever MLFLOW_TRACKING_URI points."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tlbench.hookspecs import hookimpl
from tlbench_observers import record

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tlbench.measurement import Measurement

Item = TypeVar("Item")

STATES = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "excluded": "KILLED"}
"""How MLflow says how a trial ended; the tag `status` says it in tlbench's words."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # results go where they were asked to go, and nothing else goes anywhere
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is not there is told after seconds, not after minutes
}
"""What MLflow reads from the environment, where the user has not set it."""

VALUE_LENGTH = 5000
"""Characters of a tag's or a parameter's value; MLflow refuses 8,000 and more."""

BATCH = 100
"""Entries of each kind in one request; MLflow takes 100 parameters and 1,000 metrics."""


@hookimpl
def start_observing(folder: Path) -> None:
    """Import MLflow and open the experiment, which has the results folder's name."""
    _experiment(folder.absolute())


@hookimpl
def trial_finished(measurement: Measurement, folder: Path) -> None:
    """Write a run with the trial's recipe, curve, scores, costs and outcome."""
    client, experiment = _experiment(folder.absolute())
    start_ms, end_ms = _ms(record.started(measurement)), _ms(record.ended(measurement))
    tags = {name: str(value)[:VALUE_LENGTH] for name, value in record.facts(measurement).items()}
    run = client.create_run(experiment, start_ms, tags, run_name=record.cell(measurement)).info.run_id
    params = [(name, str(value)[:VALUE_LENGTH]) for name, value in record.recipe(measurement).items()]
    for some in _batches(params):
        client.log_batch(run, params=[_entity("Param", *param) for param in some])
    for points in _batches(list(_metrics(measurement, start_ms, end_ms))):
        client.log_batch(run, metrics=[_entity("Metric", *point) for point in points])
    client.set_terminated(run, STATES[measurement.status], end_ms)


def _metrics(measurement: Measurement, start_ms: int, end_ms: int) -> Iterator[tuple[str, float, int, int]]:
    for epoch, elapsed_s, values in record.curve(measurement):
        for name, value in values.items():
            yield f"epoch/{name}", value, start_ms + int(elapsed_s * 1000), epoch
    for name, value in record.numbers(measurement).items():
        yield name, value, end_ms, 0


@cache
def _experiment(folder: Path) -> tuple[MlflowClient, str]:
    """The client and the experiment's id."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    address, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if not address:
        own = record.own_folder(folder, "mlflow")
        address, artifacts = f"sqlite:///{own / 'mlflow.db'}", (own / "artifacts").as_uri()
    client = MlflowClient(address)
    found = client.get_experiment_by_name(folder.name)
    return client, found.experiment_id if found else client.create_experiment(folder.name, artifact_location=artifacts)


def _entity(kind: str, *values: Any) -> Any:
    from mlflow import entities

    return getattr(entities, kind)(*values)


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    left = iter(items)
    while batch := list(islice(left, BATCH)):
        yield batch


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
