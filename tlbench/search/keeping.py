"""Keeping: which models and predictions stay on disk, of all that trials leave behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
        self._preferred: set[str] = set()
        self._best: dict[str, list[Measurement]] = {}
        self.finals: set[str] = set()

    def prefer(self, key: str) -> None:
        """Let what is known to be good before any search keep its place against what is better by noise alone."""
        self._preferred.add(key)

    def threshold(self, dataset: str, key: str) -> float | None:
        """Validation score that a trial has to beat for its model to be kept; None: there is no incumbent.

        Of both halves: no sampler is told it, and what is shipped if a search is stopped is chosen with less noise.
        """
        incumbent = self._incumbents.get(dataset)
        best = None if incumbent is None else incumbent.score("validation", self._metric)
        if incumbent is None or best is None:
            return None
        favour = (incumbent.key in self._preferred) - (key in self._preferred)
        return bar(best, int(incumbent.counts.get("validation") or 0), self._metric, favour)

    def add_final(self, measurement: Measurement) -> None:
        """A final, complete or failed: its model and predictions stay."""
        self.finals.add(measurement.key)

    def add(self, study: str, *measurements: Measurement) -> None:
        """Search trials, of a job all at once: decide what stays of them and of those they displace."""
        scored = [each for each in measurements if each.score("search", self._metric) is not None]
        self._rank(study, scored)
        for measurement in scored:
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

    def _rank(self, study: str, measurements: Sequence[Measurement]) -> None:
        best = sorted([*self._best.get(study, ()), *measurements], key=self._badness)
        self._best[study], dropped = best[:PREDICTIONS_KEPT], best[PREDICTIONS_KEPT:]
        if dropped:
            self._store.drop_predictions(*(each.key for each in dropped))

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
        best = self.threshold(dataset, measurement.key)
        if score is None or measurement.status != "complete" or _facts(measurement.trial) not in self._arms:
            loser: Measurement | None = measurement
        elif best is None or better(score, best, self._metric):
            loser, self._incumbents[dataset] = incumbent, measurement
        else:
            loser = measurement
        if loser is not None:
            self._store.drop_model(loser.key)


def bar(best: float, samples: int, metric: str, favour: int) -> float:
    """What beats `best`, the score of validation `samples`: with `favour` 1 one standard error more, with -1 one less.

    The one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3): the best of
    dozens of recipes is partly the luckiest. The error is a share's, for other scores between 0 and 1 about as much;
    of others none is known.
    """
    if not samples or not higher_is_better(metric):
        return best
    return best + favour * math.sqrt(max(0.0, best * (1.0 - best)) / samples)


def _facts(of: Arm | Trial) -> tuple[object, ...]:
    """All that must be the same for a score to be comparable, but for the recipe."""
    return of.backbone, of.strategy, of.dataset, of.weights, of.fingerprint, of.split_seed, of.shots
