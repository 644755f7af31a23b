"""Serving: the speed of every model that a run keeps, measured once for models that compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import final

from tlbench.benchmark import higher_is_better
from tlbench.catalog import Catalog
from tlbench.errors import TlbenchError
from tlbench.evaluation.deployed import expected, libraries, subject_of
from tlbench.evaluation.device import Compute
from tlbench.evaluation.saved import read_recipe
from tlbench.evaluation.speed import BRIEF, measured
from tlbench.evaluation.variant import Source, Variant, serving
from tlbench.plugins import Plugins
from tlbench.speed import SpeedRecord, cost_key
from tlbench.store import Store
from tlbench.trial import Trial


@final
@dataclass(frozen=True, kw_only=True)
class Kept:
    """A model whose speed is not known yet."""

    trial: Trial
    path: Path

    @property
    def name(self) -> str:
        """Its backbone's."""
        return self.trial.backbone.name


@final
@dataclass(frozen=True, kw_only=True)
class Serving:
    """Measures what a results folder keeps, as a run computes it."""

    store: Store
    plugins: Plugins
    compute: Compute
    say: Callable[[str], None] = field(default=lambda _: None)

    @property
    def variant(self) -> Variant:
        """The way of running that a run's models are served in."""
        return serving(self.compute.dtype_name)

    def finals(self) -> list[Kept]:
        """One kept final of each architecture and head."""
        return list(dict(self._finals()).values())

    def unknown(self, metric: str, first: Collection[str] = ()) -> list[Kept]:
        """Those of them that have no record yet in this setting, best validation score first.

        Before all others the finals whose keys are in `first`.
        """
        known = {record.key for record in self.store.speeds()}
        scores: dict[str, list[float]] = {}
        finals = list(self._finals())
        for _, kept in finals:
            scores.setdefault(_competitor(kept.trial), []).append(self._score(kept, metric))

        def place(pair: tuple[str, Kept]) -> tuple[bool, float, str, str]:
            trial = pair[1].trial
            return trial.key not in first, -fmean(scores[_competitor(trial)]), trial.backbone.name, trial.strategy.name

        best: dict[str, Kept] = {}
        for key, kept in sorted(finals, key=place):
            best.setdefault(key, kept)
        return [kept for key, kept in best.items() if key not in known]

    def measure(self, model: Kept) -> SpeedRecord | None:
        """Measure one and keep the record; that it cannot be measured is said."""
        try:
            record = measured(Source(saved=str(model.path)), self.variant, self.compute, BRIEF, self.plugins)
        except TlbenchError as error:
            self.say(f"the speed of {model.name} was not measured: {error}")
            return None
        self.store.put_speed(record)
        return record

    def _score(self, kept: Kept, metric: str) -> float:
        """Larger is better."""
        measurement = self.store.get(kept.trial.key)
        score = None if measurement is None else measurement.score("validation", metric)
        return -math.inf if score is None else score if higher_is_better(metric) else -score

    def _finals(self) -> Iterator[tuple[str, Kept]]:
        """Every kept final with its cost key; heads that only their plugin can rebuild are left out."""
        here, versions = expected(self.variant, self.compute), libraries()
        for key in self.store.model_keys():
            path = self.store.model_path(key)
            try:
                recipe, trial, origins = read_recipe(path)
                backbone = Catalog(self.plugins, saved=origins).backbone(trial.backbone.name).component
            except TlbenchError as error:
                self.say(f"the speed of model {key} was not measured: {error}")
                continue
            if trial.stage == "final" and recipe["head"] is not None:
                subject = subject_of(trial, recipe["head"], backbone)
                yield cost_key(subject, here, versions), Kept(trial=trial, path=path)


def _competitor(trial: Trial) -> str:
    """What the finals of one recipe have in common."""
    return replace(trial, seed=0, fold=0).key
