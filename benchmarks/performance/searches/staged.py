"""The search of tlbench, its incumbents copied as it finds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import final

from searches.assignment import Assignment
from searches.incumbents import Incumbents
from searches.setting import Setting
from tlbench.api import run_benchmark
from tlbench.benchmark import Search
from tlbench.catalog import Catalog
from tlbench.executors.events import Event, JobFinished, JobStarted
from tlbench.leaderboard.course import courses
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.search.keeping import bar
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE

TRIALS = 100
"""As `tlbench search` has them unless told otherwise."""


def staged(given: Assignment) -> None:
    """As `tlbench search` asks it: the strategies that it takes by itself, finals of three seeds inside the budget."""
    setting, incumbents = given.setting, given.incumbents
    budget_s = given.seconds - incumbents.elapsed_s
    search = Search(plan="staged", trials=TRIALS, budget_s=budget_s, epochs=setting.epochs, seed=given.seed)
    benchmark = setting.benchmark("search", search=search)
    out = incumbents.folder.parent / "results"
    watch = _Watch(out / benchmark.name, incumbents)
    run_benchmark(benchmark, out, speed=False, on_event=watch.on_event)


def look(setting: Setting) -> None:
    """All that comes before the first question: plugins, the data, the shapes of the backbones."""
    benchmark = setting.benchmark("search", search=Search(plan="staged"))
    Survey(benchmark, Catalog(discover(), benchmark), skip_bad=False)


@final
class _Watch:
    """Copies the model of whatever is the search's answer at the time.

    Until there are finals that is the search trial whose model it keeps; from the first final on it is the final with
    the best validation score, but that the defaults stay unless it is better by a standard error, as the leaderboard
    has it.
    """

    def __init__(self, folder: Path, incumbents: Incumbents) -> None:
        self._folder, self._store, self._incumbents = folder, Store(folder), incumbents
        self._best_final: tuple[float, bool] | None = None

    def on_event(self, event: Event) -> None:
        """Look at every job that ends."""
        if isinstance(event, JobStarted):
            self._incumbents.count_trial()
        elif isinstance(event, JobFinished):
            self._look(event.measurement)

    def _look(self, found: Measurement) -> None:
        is_final, score = found.trial.stage == "final", found.score("validation", found.trial.metric)
        if score is None or found.trial.backbone == NO_BACKBONE or not self._store.model_path(found.key).exists():
            return
        if self._best_final is not None and not is_final:
            return
        if is_final:
            is_default = any(found.key in course.defaults for course in courses(self._folder))
            best, is_preferred = self._best_final or (-1.0, False)
            samples = int(found.counts["validation"])
            if score <= bar(best, samples, found.trial.metric, is_preferred - is_default):
                return
            self._best_final = score, is_default
        what = f"{found.trial.backbone.name} {found.trial.strategy.name} {found.trial.epochs} {found.trial.stage}"
        self._incumbents.offer(score, _copying(self._store, found.key), what, always=True)


def _copying(store: Store, key: str) -> Callable[[Path], None]:
    """Saves a model with its recipe as a folder, which `tlbench.load_model` takes as it is."""

    def save(path: Path) -> None:
        path.mkdir()
        shutil.copy(store.model_path(key), path / "model.safetensors")
        shutil.copy(store.recipe_path(key), path / "recipe.json")

    return save
