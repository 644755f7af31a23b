"""Searches without training: plans over the tiny plugin whose jobs are answered by a formula."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tlbench.benchmark import Benchmark, Search, StrategyOverride
from tlbench.catalog import Catalog
from tlbench.journal import Journal
from tlbench.measurement import Epoch, Failure, Measurement, Predictions
from tlbench.plugins import Plugins
from tlbench.search.arm import Arm
from tlbench.search.opening import open_plan
from tlbench.search.plan import Plan
from tlbench.search.study import Cell
from tlbench.spaces import Context
from tlbench.store import Store
from tlbench.strategies import Strategy
from tlbench.trial import Job, Reference, Trial, canonical_json

Stop = Callable[[int, float], bool]
Answer = Callable[[Trial, Stop], Measurement]


# Arms by hand


def arm(strategy: Strategy | None = None, backbone: str = "tiny/net", **override: Any) -> Arm:
    component = strategy or tiny.Full()
    name = f"tiny/{component.name}"
    return Arm(
        backbone=Reference(name=backbone, version=1),
        strategy=Reference(name=name, version=1),
        dataset=Reference(name="tiny/blobs", version=1),
        declared=(),
        weights="sha256:0",
        preprocess={},
        fingerprint="f0",
        split_seed=0,
        shots=None,
        context=Context(
            modality="image",
            kind="convolutional",
            layer_groups=2,
            pools=("native", "avg", "max", "avg+max"),
            classes=3,
            train_size=90,
        ),
        component=component,
        override=StrategyOverride(name=name, **override),
    )


def cell(backbone: str | None = "tiny/net", strategy: str | None = "tiny/full") -> Cell:
    return Cell(backbone=backbone, strategy=strategy, dataset="tiny/blobs")


# Answers by a formula


def luck(trial: Trial, part: str) -> float:
    """A number in [0, 1) that depends on the recipe, on the part scored, and on nothing else."""
    text = canonical_json([trial.params, trial.seed, trial.stage, trial.strategy.name, trial.backbone.name, part])
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def complete(trial: Trial, stop: Stop = lambda epoch, score: False, total_s: float = 1.0) -> Measurement:
    """What training would bring: a curve that rises to the score, cut short where `stop` says so."""
    if trial.stage == "screen":
        scores = {"train": {"accuracy": luck(trial, "train")}}
        return Measurement(
            trial=trial, status="complete", scores=scores, cost={"total_s": total_s}, counts={"train": 90}
        )
    curve, pruned, best = [], False, luck(trial, "search")
    for epoch in range(1, trial.epochs + 1):
        best = luck(trial, "search") * (1 - 0.5**epoch) + 0.05 * luck(trial, f"epoch {epoch}")
        curve.append(Epoch(epoch=epoch, train_loss=0.5, search_score=best, elapsed_s=float(epoch)))
        pruned = stop(epoch, best) and epoch < trial.epochs
        if pruned:
            break
    scores = {"search": best, "pick": luck(trial, "pick"), "validation": luck(trial, "validation")}
    if trial.stage == "final":
        scores["test"] = luck(trial, "test")
    return Measurement(
        trial=trial,
        status="pruned" if pruned else "complete",
        scores={part: {"accuracy": score, "nll": 1 - score} for part, score in scores.items()},
        curve=curve,
        cost={"total_s": total_s},
    )


def failed(trial: Trial, kind: Any = "error", epochs: int = 0, stop: Stop = lambda epoch, score: False) -> Measurement:
    """A failure after some epochs."""
    curve = complete(trial, stop).curve[:epochs]
    failure = Failure(kind=kind, stage="train", type="ValueError", message=f"broken by {kind}")
    return Measurement(trial=trial, status="failed", failure=failure, curve=curve, cost={"total_s": 1.0})


def formula(trial: Trial, stop: Stop) -> Measurement:
    """Failures for the strategies that are made to fail, else a complete or pruned result."""
    if trial.strategy.name == "tiny/fails":
        return failed(trial)
    if trial.strategy.name == "tiny/diverges":
        return failed(trial, "diverged", epochs=1)
    return complete(trial, stop)


# A results folder and its runs


class Killed(BaseException):
    """What stands for a SIGKILL: nothing may catch it."""


class Folder:
    """A results folder, and runs into it whose jobs are answered in place."""

    def __init__(self, path: Path, plugins: Plugins) -> None:
        self.path, self.plugins = path, plugins
        self.evaluated: list[Trial] = []
        """Every job that was ever computed here."""

        self.notices: list[str] = []
        self.clock: Callable[[], float] | None = None
        self.after_tell: Callable[[Plan], None] = lambda plan: None

    @property
    def store(self) -> Store:
        return Store(self.path)

    def beside(self, name: str) -> Folder:
        """An empty one."""
        return Folder(self.path.parent / name, self.plugins)

    def open(self, benchmark: Benchmark, workers: int = 1, retry_failed: bool = False) -> Plan:
        store = self.store
        plan = open_plan(
            benchmark,
            Catalog(self.plugins, benchmark),
            store,
            workers=workers,
            skip_bad=False,
            retry_failed=retry_failed,
        ).plan
        if self.clock:
            plan.start = self.clock()
        return plan

    def run(
        self,
        benchmark: Benchmark,
        answer: Answer = formula,
        *,
        workers: int = 1,
        jobs: int | None = None,
        retry_failed: bool = False,
    ) -> list[Trial]:
        """Run to the end, or until `jobs` were computed; several workers finish in another order than they start.

        Gives the trials that were computed.
        """
        plan = self.open(benchmark, workers, retry_failed)
        computed: list[Trial] = []
        running: list[Job] = []
        while True:
            while len(running) < workers and (job := plan.ask()) is not None:
                running.append(job)
            self.notices += plan.notices
            plan.notices.clear()
            if not running or len(computed) == jobs:
                return computed
            job = running.pop(len(computed) % len(running))
            computed.append(job.trial)
            self.evaluated += (job.trial, *job.more)
            for measurement in [self._evaluate(plan, job, trial, answer) for trial in (job.trial, *job.more)]:
                plan.tell(measurement)
            self.after_tell(plan)

    def _evaluate(self, plan: Plan, job: Job, trial: Trial, answer: Answer) -> Measurement:
        measurement = answer(trial, lambda epoch, score: plan.report(job.key, epoch, score))
        if measurement.status == "complete" and _worth_keeping(job, measurement):
            plan.store.save_model(trial.key, write_model, {"key": trial.key})
        has_predictions = measurement.status != "failed" and trial.stage != "screen"
        plan.store.put(measurement, _predictions(trial) if has_predictions else None)
        return measurement

    # What is there in the end

    def events(self) -> list[dict[str, Any]]:
        return Journal(self.path / "journal.jsonl").events()

    def asked(self) -> dict[str, list[tuple[int, str]]]:
        """Number and key of every trial asked, by study."""
        studies: dict[str, list[tuple[int, str]]] = {}
        for event in self.events():
            if event["event"] == "asked":
                studies.setdefault(event["study"], []).append((event["number"], event["key"]))
        return studies

    def told(self) -> dict[str, list[tuple[int | None, str, str]]]:
        """Number, key and status of every result told, by study."""
        studies: dict[str, list[tuple[int | None, str, str]]] = {}
        for event in self.events():
            if event["event"] == "told":
                studies.setdefault(event["study"], []).append((event["number"], event["key"], event["status"]))
        return studies

    def outcome(self) -> dict[str, Any]:
        """All that two runs which asked the same must agree on."""
        store = self.store
        results = {found.key: (found.status, found.scores, found.curve) for found in store.measurements()}
        kept = {key for key in results if store.predictions(key) is not None}
        finals = {event["study"]: (event["keys"], event["selected"]) for event in self._events("finals")}
        return {
            "asked": self.asked(),
            "told": self.told(),
            "results": results,
            "predictions": kept,
            "models": store.model_keys(),
            "finals": finals,
        }

    def _events(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events() if event["event"] == kind)


def benchmark(
    strategies: Sequence[str] = ("full",),
    *,
    seeds: Sequence[int] = (0, 1),
    overrides: Sequence[StrategyOverride] = (),
    **search: Any,
) -> Benchmark:
    """A benchmark over the tiny plugin; the rest are fields of `Search`."""
    return Benchmark(
        name="tiny",
        backbones=("tiny/net",),
        strategies=tuple(f"tiny/{name}" for name in strategies),
        datasets=("tiny/blobs",),
        seeds=tuple(seeds),
        search=Search(**{"trials": 4, "epochs": 3, **search}),
        overrides=tuple(overrides),
    )


@contextmanager
def dying_at(write: int, before: bool, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Die at the `write`-th time something is written to journal or store, just before or just after it is."""
    seen = 0

    def mortal(method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == write and before:
                raise Killed
            value = method(*arguments, **options)
            if seen == write:
                raise Killed
            return value

        return call

    with patch.context() as patched:
        patched.setattr(Journal, "extend", mortal(Journal.extend))
        for name in ("put", "save_model", "drop_model", "drop_predictions", "discard"):
            patched.setattr(Store, name, mortal(getattr(Store, name)))
        yield


def write_model(path: Path) -> None:
    path.write_bytes(b"tensors")


def canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _worth_keeping(job: Job, measurement: Measurement) -> bool:
    score, least = measurement.score("validation", job.trial.metric), job.keep_model_above
    if score is None:  # a look at a backbone
        return False
    higher = job.trial.metric == "accuracy"
    return job.trial.stage == "final" or least is None or (score > least if higher else score < least)


def _predictions(trial: Trial) -> Predictions:
    logits = np.full((2, 3), luck(trial, "logits"), dtype=np.float16)
    labels = np.zeros(2, dtype=np.int64)
    return Predictions(sample_id=["a", "b"], split=["validation"] * 2, label=labels, predicted=labels, logits=logits)
