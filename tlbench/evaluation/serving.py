"""Serving: the speed of every model that a run keeps, measured once for models that compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from tlbench.benchmark import higher_is_better
from tlbench.catalog import Catalog
from tlbench.errors import TlbenchError
from tlbench.evaluation.deployed import libraries, setting, subject_of, use
from tlbench.evaluation.device import Compute
from tlbench.evaluation.saved import read_recipe
from tlbench.evaluation.speed import BRIEF, measure
from tlbench.evaluation.variant import Source, Variant, serving
from tlbench.plugins import Plugins
from tlbench.speed import SpeedRecord, cost_key
from tlbench.store import Store


@final
@dataclass(frozen=True, kw_only=True)
class Kept:
    """A model whose speed is not known yet."""

    key: str
    """The trial's."""

    path: Path
    name: str
    """Its backbone's."""


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

    def unknown(self, metric: str) -> list[Kept]:
        """Those of them that have no record yet in this setting, the best by validation score first."""
        known = {record.key for record in self.store.speeds()}
        finals = sorted(self._finals(), key=lambda pair: self._score(pair[1], metric))
        best_last = {key: kept for key, kept in finals if key not in known}
        return sorted(best_last.values(), key=lambda kept: self._score(kept, metric), reverse=True)

    def measure(self, model: Kept) -> SpeedRecord | None:
        """Measure one and keep the record; that it cannot be measured is said."""
        try:
            record = measure(Source(saved=str(model.path)), self.variant, self.compute, BRIEF, self.plugins)
        except TlbenchError as error:
            self.say(f"the speed of {model.name} was not measured: {error}")
            return None
        self.store.put_speed(record)
        return record

    def _score(self, kept: Kept, metric: str) -> float:
        """Larger is better."""
        measurement = self.store.get(kept.key)
        score = None if measurement is None else measurement.score("validation", metric)
        return -math.inf if score is None else score if higher_is_better(metric) else -score

    def _finals(self) -> Iterator[tuple[str, Kept]]:
        """Every kept final with its cost key; heads that only their plugin can rebuild are left out."""
        use(self.variant, self.compute)
        here, versions = setting(self.variant, self.compute), libraries()
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
                yield cost_key(subject, here, versions), Kept(key=key, path=path, name=trial.backbone.name)
