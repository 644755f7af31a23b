"""Keeping: which models and predictions stay on disk, of all that trials leave behind."""

from __future__ import annotations

from typing import final

from tlbench.benchmark import better, higher_is_better
from tlbench.measurement import Measurement
from tlbench.store import Store

PREDICTIONS_KEPT = 10
"""Search trials per study whose predictions are kept; those of finals always are."""


@final
class Keeper:
    """Keeps the models of the finals and of each data set's incumbent, and the predictions of the best trials."""

    def __init__(self, store: Store, metric: str) -> None:
        self._store, self._metric = store, metric
        self._incumbents: dict[str, Measurement] = {}
        self._best: dict[str, list[Measurement]] = {}
        self.finals: set[str] = set()

    def incumbent_score(self, dataset: str) -> float | None:
        """Search score of the best trial on a data set so far."""
        incumbent = self._incumbents.get(dataset)
        return None if incumbent is None else incumbent.score("search", self._metric)

    def add_final(self, measurement: Measurement) -> None:
        """A final, complete or failed: its model and predictions stay."""
        self.finals.add(measurement.key)

    def add(self, study: str, measurement: Measurement) -> None:
        """A search trial: decide what stays of it and of those it displaces."""
        score = measurement.score("search", self._metric)
        if score is None:
            return
        self._rank(study, measurement)
        if measurement.status == "complete":
            self._contend(measurement, score)

    def sweep(self) -> None:
        """Drop models of search trials that are no incumbents: left by a run that was killed."""
        needed = self.finals | {measurement.key for measurement in self._incumbents.values()}
        for key in set(self._store.model_keys()) - needed:
            owner = self._store.get(key)
            if owner is None or owner.trial.stage == "search":
                self._store.drop_model(key)

    def _rank(self, study: str, measurement: Measurement) -> None:
        best = self._best.setdefault(study, [])
        best.append(measurement)
        best.sort(key=self._badness)
        for dropped in best[PREDICTIONS_KEPT:]:
            self._store.drop_predictions(dropped.key)
        del best[PREDICTIONS_KEPT:]

    def _badness(self, measurement: Measurement) -> float:
        score = measurement.score("search", self._metric)
        assert score is not None
        return -score if higher_is_better(self._metric) else score

    def _contend(self, measurement: Measurement, score: float) -> None:
        dataset = measurement.trial.dataset.name
        incumbent = self.incumbent_score(dataset)
        loser = measurement
        if incumbent is None or better(score, incumbent, self._metric):
            loser, self._incumbents[dataset] = self._incumbents.get(dataset, measurement), measurement
        if loser.key != self._incumbents[dataset].key and loser.key not in self.finals:
            self._store.drop_model(loser.key)
