"""One measurement: what came of a trial. Unknown is None."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from tlbench.benchmark import higher_is_better
from tlbench.errors import FailureKind, StoreError
from tlbench.trial import Trial

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 2
"""Version of the stored form: 2 has folds."""

PREDICTIONS_KEPT = 10
"""Search trials, the best of their study or of their job, whose predictions are kept; those of finals always are."""

Status = Literal["complete", "pruned", "failed", "excluded"]
Scores = Mapping[str, Any]
"""Metrics of one split by name, as `evaluation.scores` computes them."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial has no result."""

    kind: FailureKind
    stage: str
    """What was being done: `load`, `features`, `train`, `test`, ..."""

    type: str
    """Name of the exception's class."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One point of the training curve."""

    epoch: int
    """1 for the first."""

    train_loss: float | None
    search_score: float | None
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A trial with its status, scores, curve, costs, counts, freeze check and provenance."""

    trial: Trial
    status: Status
    failure: Failure | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By part: `validation`, `search`, `pick`; `test` for finals only. Of a screen `train` alone.

    `confusion` is None for what was answered together with many others and is not among the best of them.
    """

    curve: Sequence[Epoch] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Of the trial; of one of many in a job (`counts["job_rows"]`) `train_s`, `total_s` and `energy_j` are the job's
    divided by its rows, and features are charged to each as if it had been alone."""

    counts: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, Any] = field(default_factory=dict)
    """`parameters_changed`, `buffers_changed`: whether anything declared frozen moved."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.trial.key

    @property
    def answers(self) -> bool:
        """Whether this result answers its question for every study and every later run.

        A pruned trial answers only the study that pruned it; a lost worker or a full disk answers nothing.
        """
        if self.status == "failed":
            return self.failure is not None and self.failure.kind != "infrastructure"
        return self.status in ("complete", "excluded")

    def score(self, part: str, metric: str) -> float | None:
        """The metric on one part, or None where it was not measured."""
        value = self.scores.get(part, {}).get(metric)
        return None if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """JSON of everything, the key included so that a reader can check it."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        curve, failure = [asdict(point) for point in self.curve], self.failure and asdict(self.failure)
        written = {"trial": self.trial.to_json(), "curve": curve, "failure": failure}
        return {"schema": self.schema, "key": self.key, **parts, **written}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        """The measurement that `to_json` wrote. Raises `StoreError` for a newer schema or a key that does not fit."""
        if value["schema"] > SCHEMA:
            raise StoreError(f"written by a newer tlbench (schema {value['schema']}; this one reads up to {SCHEMA})")
        fields = {name: item for name, item in value.items() if name != "key"}
        fields["trial"] = Trial.from_json(value["trial"])
        fields["failure"] = value["failure"] and Failure(**value["failure"])
        fields["curve"] = tuple(Epoch(**point) for point in value["curve"])
        measurement = cls(**fields)
        if measurement.key != value["key"]:
            raise StoreError(f"the key {value['key']} does not fit its trial ({measurement.key})")
        return measurement

    def row(self) -> dict[str, Any]:
        """A flat row: names joined by `_`; what is no scalar (recipe, curve, confusion) as it is."""
        return flat(self.to_json())


_WHOLE = frozenset({"params", "preprocess", "curve", "confusion"})


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """The flat row of a measurement's JSON, or of a part of it."""
    return dict(_flatten(value, ""))


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict) and name not in _WHOLE:
            yield from _flatten(item, f"{prefix}{name}_")
        else:
            yield prefix + name, item


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Per-sample outcomes of one measurement, in the order of the split."""

    sample_id: Sequence[str]
    split: Sequence[str]
    """`validation` or `test`, per sample."""

    label: np.ndarray
    """int64 [n]."""

    predicted: np.ndarray
    """int64 [n]."""

    logits: np.ndarray
    """float16 [n, classes]."""


def best_of(measurements: Sequence[Measurement]) -> Measurement:
    """Of one job's results the complete one with the best search score; the first where there is none."""
    metric = measurements[0].trial.metric
    complete = (each for each in measurements if each.status == "complete")
    scored = [(score, each) for each in complete if (score := each.score("search", metric)) is not None]
    choose = max if higher_is_better(metric) else min
    return choose(scored, key=lambda pair: pair[0])[1] if scored else measurements[0]
