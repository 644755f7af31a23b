"""One measurement as trackers take it: names, parameters and numbers, each flat."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlbench.measurement import Measurement


Scalar = str | int | float | bool | None

CURVE = ("train_loss", "search_score")
"""What a curve has at every epoch, as far as it is known."""


def own_folder(folder: Path, name: str = "") -> Path:
    """Where observers write in a run's results folder, or one of this name does: made if it is not there."""
    path = folder.absolute() / "observers" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def cell(measurement: Measurement) -> str:
    """Backbone, strategy and data set, in one line."""
    trial = measurement.trial
    return f"{trial.backbone.name} {trial.strategy.name} {trial.dataset.name}"


def recipe(measurement: Measurement) -> dict[str, Scalar]:
    """The parameters; one that is no scalar as JSON."""
    return {name: _scalar(value) for name, value in measurement.trial.params.items()}


def facts(measurement: Measurement) -> dict[str, Scalar]:
    """What was tried, beside the recipe, and how it ended. Unknown is left out."""
    trial, failure = measurement.trial, measurement.failure
    known: dict[str, Scalar] = {
        "key": measurement.key,
        "status": measurement.status,
        "stage": trial.stage,
        "backbone": trial.backbone.name,
        "strategy": trial.strategy.name,
        "dataset": trial.dataset.name,
        "weights": trial.weights,
        "metric": trial.metric,
        "seed": trial.seed,
        "split_seed": trial.split_seed,
        "shots": trial.shots,
        "fraction": trial.fraction,
        "fold": trial.fold,
        "epochs": trial.epochs,
        "device": measurement.provenance.get("device"),
    }
    if failure is not None:
        known |= {"failure_kind": failure.kind, "failure_stage": failure.stage}
        known["failure"] = f"{failure.type}: {failure.message}"
    return {name: value for name, value in known.items() if value is not None}


def numbers(measurement: Measurement) -> dict[str, float]:
    """Scores, costs and counts by path, as in `test/accuracy` or `cost/total_s`: what is a finite number."""
    groups = {**measurement.scores, "cost": measurement.cost, "counts": measurement.counts}
    return dict(_numbers(groups, ""))


def curve(measurement: Measurement) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Per epoch its number, the seconds since the trial began and the finite numbers of `CURVE`."""
    for point in measurement.curve:
        values = {name: getattr(point, name) for name in CURVE}
        finite = {name: float(value) for name, value in values.items() if _is_finite(value)}
        yield point.epoch, point.elapsed_s, finite


def started(measurement: Measurement) -> datetime:
    """When the trial began, in UTC; a worker that was lost could not say, and then it is now."""
    return _time(measurement, "started_utc")


def ended(measurement: Measurement) -> datetime:
    """When the trial ended, likewise."""
    return _time(measurement, "ended_utc")


def _time(measurement: Measurement, name: str) -> datetime:
    text = measurement.provenance.get(name)
    return datetime.fromisoformat(text) if text else datetime.now(UTC)


def _numbers(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _numbers(item, f"{prefix}{name}/")
        elif _is_finite(item):
            yield prefix + name, float(item)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)
