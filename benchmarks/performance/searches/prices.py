"""Prices: what epochs, feature passes and starting take, measured round by round in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, final

from searches.feeds import ArrayFeed, FileFeed
from searches.setting import UNCHANGING, Samples, Setting
from searches.training import STRATEGIES, Feed, Recipe, Training
from tlbench.benchmark import Benchmark, Search
from tlbench.catalog import Catalog
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, Evaluator
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.search.arm import Arm
from tlbench.search.recipes import of_probes
from tlbench.search.screening import SIZES
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, SCREEN, Job, Trial

Result = TypeVar("Result")

STARTS = {
    "files": "import optuna, searches.feeds, searches.training, timm",
    "arrays": "import optuna, searches.feeds, searches.training, timm",
    "tlbench": "from tlbench.cli import collect_rarely; collect_rarely(); from searches.staged import look; "
    "from searches.setting import Setting; look(Setting(**{setting}))",
}
"""What a process does before its first trial, as `search_live.py` starts it; decoding arrays is measured apart."""

_AT_ONCE = "; import os; os._exit(0)"
"""What a process takes to clean up is no part of its start."""


def of_scripts(
    setting: Setting, parts: Mapping[str, Samples], classes: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds by what is done and backbone, the least of some rounds; validation is part of an epoch."""
    found = _Found()
    for _ in range(rounds):
        feeds: dict[str, Feed] = {"files": FileFeed(setting, parts)}
        decoding_s, feeds["arrays"] = _timed(partial(ArrayFeed, setting, parts))
        for name, program in STARTS.items():
            seconds, _ = _timed(partial(_run, program.replace("{setting}", repr(vars(setting)))))
            found.add("start", name, seconds + decoding_s * (name == "arrays"))
        for backbone in setting.backbones:
            for pipeline, feed in feeds.items():
                for strategy in STRATEGIES:
                    recipe = Recipe(backbone=backbone, strategy=strategy, learning_rate=1e-4)
                    seconds, training = _timed(partial(Training, setting, recipe, feed, classes, 0))
                    found.add(f"{pipeline} build", backbone, seconds)
                    found.add(f"{pipeline} {strategy}", backbone, _timed(training.run_epoch)[0])
    return found.least()


def of_engine(benchmark: Benchmark, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of tlbench's own: passes to features and to a boundary, epochs, validations, and the rest of each job.

    A pass to features is per sample. A probe comes after a screen, as in a search, whose samples it has.
    Epochs are two, for what is frozen is computed once and used in each.
    """
    found = _Found()
    catalog = Catalog(discover(), benchmark)
    arms = list(arms_of(Survey(benchmark, catalog, skip_bad=False)))
    compute = open_compute(benchmark.device, 1)
    for round_ in range(rounds):
        with TemporaryDirectory() as folder, _cache_in(folder):
            evaluator = Evaluator(catalog, Store(Path(folder) / "store"), compute, {})
            for arm in arms:
                for what, seconds in _of_arm(arm, evaluator, 1000 + round_):
                    found.add(what, arm.backbone.name.removeprefix("real/"), seconds)
    return found.least()


def arms_of(survey: Survey) -> Iterator[Arm]:
    """Every backbone with every strategy, controls left out."""
    (data,) = survey.datasets
    for arm in survey.arms(data):
        if arm.backbone != NO_BACKBONE:
            yield arm


def screen_of(arm: Arm, seed: int) -> Trial:
    """The first look at a backbone."""
    trial = arm.trial({}, stage="search", seed=seed, epochs=0, metric="accuracy", evaluator=EVALUATOR_VERSION)
    fraction = min(1.0, SIZES[0] / arm.context.train_size)
    return replace(trial, strategy=SCREEN, params={}, stage="screen", fraction=fraction)


def _of_arm(arm: Arm, evaluator: Evaluator, seed: int) -> Iterator[tuple[str, float]]:
    strategy = arm.strategy.name
    shared: dict[str, Any] = {"stage": "search", "metric": "accuracy", "evaluator": EVALUATOR_VERSION}
    if arm.component.frozen:
        seconds, (screened,) = _evaluated(Job(trial=screen_of(arm, seed)), evaluator)
        screened_s = screened.cost["features_s"]
        yield "rest of a screen", seconds - screened_s
        trials = [arm.trial(recipe, seed=seed, epochs=0, **shared) for recipe in of_probes(arm, Search(plan="staged"))]
        seconds, measured = _evaluated(Job(trial=trials[0], more=tuple(trials[1:])), evaluator)
        cost, counts = measured[0].cost, measured[0].counts
        yield "feature pass", cost["features_s"] / (counts["train"] + counts["validation"])
        yield "rest of a probe", seconds - (cost["features_s"] - screened_s)
        return
    params = {**arm.defaults(), **(UNCHANGING if strategy == "basic/partial" else {})}
    seconds, (trained,) = _evaluated(Job(trial=arm.trial(params, seed=seed, epochs=2, **shared)), evaluator)
    cost = trained.cost
    yield strategy, cost["train_s"] / 2
    yield f"{strategy} validation", cost["validation_s"] / 2
    boundary_s = cost["boundary_s"] or 0.0
    if strategy == "basic/partial":
        yield "boundary pass", boundary_s
    yield f"rest of {strategy}", seconds - cost["train_s"] - cost["validation_s"] - boundary_s


def _evaluated(job: Job, evaluator: Evaluator) -> tuple[float, list[Measurement]]:
    return _timed(lambda: evaluator.evaluate(job, lambda *_: False))


@final
class _Found:
    """Seconds by what took them and with which backbone."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, list[float]]] = {}

    def add(self, what: str, name: str, seconds: float) -> None:
        """One measurement."""
        self._seconds.setdefault(what, {}).setdefault(name, []).append(seconds)

    def least(self) -> dict[str, dict[str, float]]:
        """The shortest of each."""
        return {what: {name: round(min(each), 5) for name, each in own.items()} for what, own in self._seconds.items()}


@contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    before = os.environ.get("TLBENCH_CACHE")
    os.environ["TLBENCH_CACHE"] = str(Path(folder) / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["TLBENCH_CACHE"]
        else:
            os.environ["TLBENCH_CACHE"] = before


def _run(program: str) -> None:
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program + _AT_ONCE], check=True, cwd=folder)  # noqa: S603


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
