"""Prices: what epochs, feature passes and starting take, measured round by round in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from searches.feeds import ArrayFeed, FileFeed
from searches.setting import UNCHANGING, Samples, Setting
from searches.training import STRATEGIES, Feed, Recipe, Training
from tlbench.benchmark import Benchmark
from tlbench.catalog import Catalog
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, Evaluator
from tlbench.plugins import discover
from tlbench.search.arm import Arm
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, Job

STARTS = {
    "files": "import optuna, searches.feeds, searches.training, timm",
    "arrays": "import optuna, searches.feeds, searches.training, timm",
    "tlbench": "import searches.staged, timm, tlbench.executors.local, tlbench.evaluation.evaluate",
}
"""What a process imports before its first trial."""


def of_scripts(
    setting: Setting, parts: Mapping[str, Samples], classes: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds by what is done and backbone, the least of some rounds; validation is part of an epoch."""
    feeds: dict[str, Feed] = {"files": FileFeed(setting, parts), "arrays": ArrayFeed(setting, parts)}
    found: dict[str, dict[str, list[float]]] = {"start": {name: [] for name in STARTS}}
    for _ in range(rounds):
        for name, imports in STARTS.items():
            found["start"][name].append(_timed(partial(_import, imports)))
        for backbone in setting.backbones:
            for pipeline, feed in feeds.items():
                for strategy in STRATEGIES:
                    recipe = Recipe(backbone=backbone, strategy=strategy, learning_rate=1e-4)
                    training = Training(setting, recipe, feed, classes, 0)
                    where = found.setdefault(f"{pipeline} {strategy}", {}).setdefault(backbone, [])
                    where.append(_timed(training.run_epoch))
    return _least(found)


def of_engine(benchmark: Benchmark, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of tlbench's own: passes to features and to a boundary, epochs, validations, and the rest of a job.

    A pass to features is per sample. Epochs are two, for what is frozen is computed once and used in each.
    """
    found: dict[str, dict[str, list[float]]] = {}
    catalog = Catalog(discover(), benchmark)
    arms = list(arms_of(Survey(benchmark, catalog, skip_bad=False)))
    compute = open_compute(benchmark.device, 1)
    for round_ in range(rounds):
        with TemporaryDirectory() as folder, _cache_in(folder):
            store = Store(Path(folder) / "store")
            evaluator = Evaluator(catalog, store, compute, {})
            for arm in arms:
                for what, seconds in _of_arm(arm, evaluator, store, seed=1000 + round_):
                    name = arm.backbone.name.removeprefix("real/")
                    found.setdefault(what, {}).setdefault(name, []).append(seconds)
    return _least(found)


def arms_of(survey: Survey) -> Iterator[Arm]:
    """Every backbone with every strategy, controls left out."""
    (data,) = survey.datasets
    for arm in survey.arms(data):
        if arm.backbone != NO_BACKBONE:
            yield arm


def _of_arm(arm: Arm, evaluator: Evaluator, store: Store, seed: int) -> Iterator[tuple[str, float]]:
    frozen = arm.component.frozen
    is_partial = arm.strategy.name == "basic/partial"
    params = {**arm.defaults(), **(UNCHANGING if is_partial else {})}
    trial = arm.trial(params, stage="search", seed=seed, epochs=2, metric="accuracy", evaluator=EVALUATOR_VERSION)
    evaluator.evaluate(Job(trial=trial), lambda *_: False)
    measurement = store.get(trial.key)
    assert measurement is not None
    cost, counts = measurement.cost, measurement.counts
    if frozen:
        yield "feature pass", cost["features_s"] / (counts["train"] + counts["validation"])
        return
    yield arm.strategy.name, cost["train_s"] / 2
    yield f"{arm.strategy.name} validation", cost["validation_s"] / 2
    if is_partial:
        yield "boundary pass", cost["boundary_s"] or 0.0
    if arm.strategy.name == "basic/full":
        yield "rest of a job", cost["total_s"] - cost["train_s"] - cost["validation_s"]


def _least(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {what: {name: round(min(each), 5) for name, each in own.items()} for what, own in found.items()}


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


def _import(what: str) -> None:
    folder = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", what], check=True, cwd=folder)  # noqa: S603


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
