"""Keeping: which models and predictions stay on disk, of all that trials leave behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from tlbench.benchmark import better, higher_is_better
from tlbench.measurement import PREDICTIONS_KEPT, Measurement
from tlbench.search.arm import Arm
from tlbench.store import Store
from tlbench.trial import Trial


@final
class Keeper:
    """Keeps the models of the finals and of each data set's incumbent, and the predictions of the best trials."""

    def __init__(self, store: Store, metric: str, arms: Iterable[Arm]) -> None:
        """Only results of `arms` can be incumbents: not those of data or competitors that are gone from the file."""
        self._store, self._metric = store, metric
        self._arms = {_facts(arm) for arm in arms}
        self._incumbents: dict[str, Measurement] = {}
        self._best: dict[str, list[Measurement]] = {}
        self.finals: set[str] = set()

    def incumbent_score(self, dataset: str) -> float | None:
        """Validation score of the best trial on a data set so far whose model is kept.

        Of both halves: no sampler is told it, and what is shipped if a search is stopped is chosen with less noise.
        """
        incumbent = self._incumbents.get(dataset)
        return None if incumbent is None else incumbent.score("validation", self._metric)

    def add_final(self, measurement: Measurement) -> None:
        """A final, complete or failed: its model and predictions stay."""
        self.finals.add(measurement.key)

    def add(self, study: str, measurement: Measurement) -> None:
        """A search trial: decide what stays of it and of those it displaces."""
        if measurement.score("search", self._metric) is None:
            return
        self._rank(study, measurement)
        if self._store.recipe_path(measurement.key).exists():
            self._contend(measurement)

    def sweep(self) -> None:
        """Find the incumbents among the models on the disk and drop those of other search trials.

        Models, not results: what was found in the store may have lost its model to a better one long ago.
        """
        for key in self._store.model_keys():
            owner = self._store.get(key)
            if owner is None:  # killed before its result was written
                self._store.drop_model(key)
            elif owner.trial.stage == "search":
                self._contend(owner)

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

    def _contend(self, measurement: Measurement) -> None:
        """Let a search trial with a model challenge the incumbent; the loser's model goes."""
        dataset, score = measurement.trial.dataset.name, measurement.score("validation", self._metric)
        incumbent = self._incumbents.get(dataset)
        if incumbent is not None and incumbent.key == measurement.key:
            return
        best = self.incumbent_score(dataset)
        if score is None or measurement.status != "complete" or _facts(measurement.trial) not in self._arms:
            loser: Measurement | None = measurement
        elif best is None or better(score, best, self._metric):
            loser, self._incumbents[dataset] = incumbent, measurement
        else:
            loser = measurement
        if loser is not None:
            self._store.drop_model(loser.key)


def _facts(of: Arm | Trial) -> tuple[object, ...]:
    """All that must be the same for a score to be comparable, but for the recipe."""
    return of.backbone, of.strategy, of.dataset, of.weights, of.fingerprint, of.split_seed, of.shots
