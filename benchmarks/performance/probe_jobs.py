"""What a job of 1,000 probe configurations takes, next to the forward pass that gives it its features.

    TLBENCH_REAL_DATA=/where/it/is python benchmarks/performance/probe_jobs.py

prints Markdown tables. The backbone is a MobileNetV2 at 128 pixels, the data 2,000 photos (1,600 to train on, 400 to
validate with), decoded before. Every round makes the feature pass, of all views at once, and then answers the job with
these features at hand: fits, validation logits, scores and the writing of all rows, predictions of the best ten and the
best model into a results folder. Reported are the shortest time of each and the median and the quartiles of the ratio
within a round, of the wall clock and of the CPU time of all threads.

Without `TLBENCH_REAL_DATA` the weights are random
and the photos noise: the times are about the same, but what they are times of is no use.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from tlbench import caches
from tlbench.benchmark import Benchmark, DatasetDeclaration
from tlbench.catalog import Catalog
from tlbench.cli import collect_rarely
from tlbench.evaluation import probing, rows, spectrum
from tlbench.evaluation.device import Compute
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, FEATURE_SETS, Evaluator
from tlbench.evaluation.fitting import Fitting
from tlbench.evaluation.memory import Memory
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Job, Reference, Trial

BACKBONE, DATASET = "coral/mobilenetv2_100_224", "mine/photos"
CLASSES, PER_CLASS, EDGE = 10, 200, 32
VIEWS = ("native", "max")
MULTINOMIAL, RIDGE, NEIGHBOURS, TEMPERATURES = 128, 250, 31, 6
"""Configurations: penalties on the first view, penalties on every view, and of each the other on every view."""

THIRD_PARTY = Path(__file__).parents[2] / "tests" / "third_party"


def install(site: Path, root: Path | None) -> None:
    """Make the plugin of `tests/third_party` known here, with all views, and without real weights with random ones."""
    information = site / "tlbench_coral-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tlbench-coral\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[tlbench]\ncoral = tlbench_coral\n")
    sys.path[:0] = [str(THIRD_PARTY), str(site)]
    from tlbench_coral import CoralMobileNet

    CoralMobileNet.pools = VIEWS
    if root is None:
        load = CoralMobileNet.load
        CoralMobileNet.load = lambda self, _: load(self, False)
        CoralMobileNet.weights = lambda _: "random"


def noise(folder: Path, per_class: int) -> Path:
    """Photos of noise, in a folder per class of a folder per split."""
    draw = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 1)):
        for number in range(CLASSES):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (EDGE, EDGE, 3)) // 2 + 12 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder


def configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    """1,000 of them: multinomial regressions, ridge regressions on every view, and nearest neighbours."""
    for penalty in np.geomspace(1e-6, 1e1, MULTINOMIAL):
        yield "basic/linear-probe", {"pool": VIEWS[0], "l2": float(penalty)}
    for view in VIEWS:
        for penalty in np.geomspace(1e-4, 1e3, RIDGE):
            yield "basic/ridge-probe", {"pool": view, "l2": float(penalty)}
        for count in range(1, NEIGHBOURS + 1):
            for temperature in np.geomspace(1e-2, 1.0, TEMPERATURES):
                yield "basic/knn", {"pool": view, "neighbours": count, "temperature": float(temperature)}


def job(catalog: Catalog, count: int | None) -> Job:
    """One job of all configurations, or of some of each kind."""
    backbone, dataset = catalog.backbone(BACKBONE).component, catalog.dataset(DATASET).component
    asked = list(configurations())
    chosen = asked if count is None else asked[:: max(len(asked) // count, 1)]
    trials = [
        Trial(
            backbone=Reference(name=BACKBONE, version=backbone.version),
            strategy=Reference(name=name, version=catalog.strategy(name).component.version),
            dataset=Reference(name=DATASET, version=dataset.version),
            weights=backbone.weights(),
            preprocess=dict(backbone.preprocess.identity),
            fingerprint=dataset.fingerprint,
            split_seed=0,
            shots=None,
            params=params,
            seed=0,
            metric="accuracy",
            epochs=0,
            stage="search",
            evaluator=EVALUATOR_VERSION,
        )
        for name, params in chosen
    ]
    return Job(trial=trials[0], more=tuple(trials[1:]))


Seconds = dict[str, list[tuple[float, float]]]
"""By what was done, a pair per round: of the wall clock, and of the CPU."""


@contextmanager
def timed(found: Seconds, name: str) -> Iterator[None]:
    """Add what is done inside to the round's seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))


@contextmanager
def parts_of_the_job(found: Seconds) -> Iterator[None]:
    """Note what the parts of a job take."""
    inner: list[tuple[Any, str, Callable[..., Any], Callable[..., str]]] = [
        (Fitting, "heads", Fitting.heads, lambda _, strategy, *__: f"fits of `{strategy.name}`"),
        (probing, "logits_of", probing.logits_of, lambda *_: "validation logits"),
        (rows, "many_scores", rows.many_scores, lambda *_: "scores"),
        (Store, "put_many", Store.put_many, lambda *_: "writing of the rows"),
    ]

    def watched(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with timed(found, name(*given)):
                return function(*given)

        return call

    for owner, attribute, function, name in inner:
        setattr(owner, attribute, watched(function, name))
    try:
        yield
    finally:
        for owner, attribute, function, _ in inner:
            setattr(owner, attribute, function)


def one_round(evaluator: Evaluator, asked: Job, folder: Path, found: Seconds) -> None:
    """The feature pass, then the job with its features at hand."""
    trial = asked.trial
    evaluator.features = Memory(FEATURE_SETS)
    caches.clear("features")
    spectrum._at_hand.clear()
    evaluator.store = Store(folder)
    samples = next(iter(evaluator.samples._values.values()))
    fitting = Fitting(
        trial=trial,
        backbone=evaluator.catalog.backbone(BACKBONE).component,
        samples=samples,
        compute=evaluator.compute,
        memory=evaluator.features,
        complexities=evaluator.complexities,
    )
    with timed(found, "feature pass"):
        fitting.features(VIEWS, pretrained=True)
    with timed(found, "job"), parts_of_the_job(found):
        results = evaluator.evaluate(asked, lambda *_: False)
    assert all(each.status == "complete" and each.cost["features_cached"] for each in results)


def report(found: Seconds, count: int) -> None:
    """Tables of times and shares."""
    totals = {name: np.array(each).reshape(count, -1, 2).sum(axis=1) for name, each in found.items()}
    print("\n| | shortest, s | share of the feature pass [quartiles] | of its CPU time |\n|---|--:|--:|--:|")
    for name, each in totals.items():
        ratios = 100 * each / totals["feature pass"]
        (low, middle, high), (cpu_low, cpu, cpu_high) = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0).T
        wall = f"{middle:.1f} % [{low:.1f}, {high:.1f}]"
        print(f"| {name} | {each[:, 0].min():.2f} | {wall} | {cpu:.1f} % [{cpu_low:.1f}, {cpu_high:.1f}] |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--configurations", type=int, help="About so many instead of 1,000, of all kinds.")
    parser.add_argument("--images", type=int, default=PER_CLASS, help="Of each class, where the photos are noise.")
    given = parser.parse_args(arguments)
    root = Path(os.environ["TLBENCH_REAL_DATA"]) if os.environ.get("TLBENCH_REAL_DATA") else None
    torch.set_num_threads(given.threads)
    collect_rarely()  # as the command line does
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(given.threads):
        os.environ["TLBENCH_CACHE"] = str(Path(folder) / "cache")
        site = Path(folder) / "site"
        site.mkdir()
        install(site, root)
        photos = noise(Path(folder) / "photos", given.images) if root is None else root / "cifar10-small"
        declared = DatasetDeclaration(name=DATASET, base="data/images", path=photos)
        benchmark = Benchmark(
            name="probes", backbones=(BACKBONE,), strategies=(), datasets=(DATASET,), declared_datasets=(declared,)
        )
        compute = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=given.threads)
        evaluator = Evaluator(Catalog(discover(), benchmark), Store(Path(folder) / "warm"), compute, {})
        asked = job(evaluator.catalog, given.configurations)
        evaluator.evaluate(Job(trial=asked.trial), lambda *_: False)  # decodes, and loads what is lazy
        print(
            f"{len(asked.trials):,} configurations, {given.threads} threads, load {os.getloadavg()[0]:.1f} at the start"
        )
        found: Seconds = {}
        for number in range(given.rounds):
            one_round(evaluator, asked, Path(folder) / f"round{number}", found)
        report(found, given.rounds)
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
