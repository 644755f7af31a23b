"""Rows: the measurements of a job of many trials, and what is kept of the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tlbench.benchmark import higher_is_better
from tlbench.errors import TrialFailure
from tlbench.evaluation.data import Data
from tlbench.evaluation.fitting import Fitted
from tlbench.evaluation.outcome import (
    Parts,
    all_scores,
    complexity_counts,
    complexity_provenance,
    data_counts,
    failure,
    many_scores,
    predictions,
)
from tlbench.evaluation.probing import Failed, Outcome
from tlbench.measurement import PREDICTIONS_KEPT, Measurement, Predictions
from tlbench.trial import Trial

_SHARED = ("total_s", "energy_j")
"""Costs of a job that its rows share."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A trial, what became of it and, where it is complete, its scores."""

    trial: Trial
    outcome: Outcome
    scores: Mapping[str, Any]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """All rows of a job."""

    data: Data
    rows: Sequence[Row]
    best: Sequence[Row]
    """The complete ones of the best search scores, whose predictions and confusions are kept."""

    @classmethod
    def of(cls, trials: Sequence[Trial], outcomes: Sequence[Outcome], data: Data) -> Rows:
        """Score what was fitted; where logits are not finite the row has failed."""
        scored = iter(many_scores([each.validation_logits for each in outcomes if isinstance(each, Fitted)], data))
        rows = []
        for trial, outcome in zip(trials, outcomes, strict=True):
            scores = next(scored) if isinstance(outcome, Fitted) else {}
            if isinstance(scores, TrialFailure):
                outcome, scores = Failed(stage="score", error=scores), {}
            rows.append(Row(trial=trial, outcome=outcome, scores=scores))
        sign = -1 if higher_is_better(trials[0].metric) else 1
        metric = trials[0].metric
        complete = sorted((row for row in rows if row.scores), key=lambda row: sign * row.scores["search"][metric])
        best = {id(row): cls._whole(row, data) for row in complete[:PREDICTIONS_KEPT]}
        return cls(data=data, rows=[best.get(id(row), row) for row in rows], best=list(best.values()))

    @staticmethod
    def _whole(row: Row, data: Data) -> Row:
        return Row(trial=row.trial, outcome=row.outcome, scores=all_scores(_parts(row, data), data.search))

    def without_best(self, failed: Failed) -> Rows:
        """All rows, of which the best one has failed after all."""
        best = self.best[0]
        lost = Row(trial=best.trial, outcome=failed, scores={})
        return Rows(data=self.data, rows=[lost if row is best else row for row in self.rows], best=self.best[1:])

    def predictions(self) -> dict[str, Predictions]:
        """Those of the best, by key."""
        return {row.trial.key: predictions(_parts(row, self.data)) for row in self.best}

    def measurements(self, cost: Mapping[str, Any], observed: Sequence[Mapping[str, Any]]) -> list[Measurement]:
        """A measurement per row, from what the whole job cost and from the provenance of each."""
        count = len(self.rows)
        shares = {name: cost[name] / count for name in _SHARED if cost.get(name) is not None}
        share, counts = {**cost, **shares}, {**data_counts(self.data), "job_rows": count}
        return [_measurement(row, share, counts, each) for row, each in zip(self.rows, observed, strict=True)]


def _parts(row: Row, data: Data) -> Parts:
    assert isinstance(row.outcome, Fitted)
    return {"validation": (data.validation, row.outcome.validation_logits)}


def _measurement(
    row: Row, cost: Mapping[str, Any], counts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Measurement:
    outcome = row.outcome
    if isinstance(outcome, Failed):
        return Measurement(
            trial=row.trial,
            status="failed",
            failure=failure(outcome.error, outcome.stage),
            cost=cost,
            counts={"job_rows": counts["job_rows"]},
            provenance=provenance,
        )
    return Measurement(
        trial=row.trial,
        status="complete",
        scores=row.scores,
        cost={**outcome.cost, **cost},
        counts={**counts, **outcome.counts, **complexity_counts(outcome.complexity)},
        frozen=outcome.frozen,
        provenance={**provenance, **complexity_provenance(outcome.complexity)},
    )
