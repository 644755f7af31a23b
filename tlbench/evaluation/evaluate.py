"""Evaluation of one job: names in, one stored measurement out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, final

import numpy as np

from tlbench.benchmark import better
from tlbench.catalog import Catalog, Entry
from tlbench.components import Dataset, Preprocess
from tlbench.errors import FailureKind, StoreError, TrialFailure
from tlbench.evaluation.complexity import PROVENANCE, Complexities, Complexity
from tlbench.evaluation.cost import Cost
from tlbench.evaluation.data import Part, Prepared, duplicates, load_data
from tlbench.evaluation.device import Compute, is_out_of_memory, keep_freed_memory
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.final import TestDoor
from tlbench.evaluation.fitting import Fitted, Fitting, Samples, fit_control
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.provenance import provenance
from tlbench.evaluation.saved import save
from tlbench.evaluation.scores import score
from tlbench.evaluation.shelf import Shelf, shelf_facts
from tlbench.evaluation.train import Report
from tlbench.measurement import Epoch, Failure, Measurement, Predictions
from tlbench.store import Store
from tlbench.strategies import ControlStrategy, FrozenStrategy, Strategy, TrainedStrategy
from tlbench.trial import NO_BACKBONE, Job, Trial, canonical_json

EVALUATOR_VERSION = 2
"""Raised when the same trial would get other scores than before."""

SAMPLE_SETS = 8
"""Prepared data sets kept in memory by one worker."""

MEMORY_SHARE = 0.25
"""Part of the machine's memory that prepared samples may take, all workers together."""

FEATURE_SETS = 64
"""Feature sets kept in memory by one worker."""


Eyes = Preprocess | ControlStrategy
"""What prepares samples: a backbone's preprocessing, or a control."""


@final
class Evaluator:
    """Answers jobs in one process and keeps decoded samples and features, in memory and on the disk."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        compute: Compute,
        excluded: Mapping[str, frozenset[str]],
        workers: int = 1,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say` is told, in one line, what a user should know beside the results."""
        self.catalog, self.store, self.compute, self.excluded = catalog, store, compute, excluded
        self.workers = workers
        keep_freed_memory()
        self.disk, self.samples = Disk(say), Memory(SAMPLE_SETS)
        self.features, self.complexities = Memory(FEATURE_SETS), Complexities()
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.limit_bytes = int(physical * MEMORY_SHARE / workers / SAMPLE_SETS / 3)

    def evaluate(self, job: Job, report: Report) -> Measurement:
        """Fit, score and store. What goes wrong in the trial is a failed measurement, never an exception.

        Raises `StoreError` where the result cannot be written.
        """
        return _Evaluation(self, job).run(report)


@dataclass
class _Evaluation:
    """One job on its way through an evaluator."""

    evaluator: Evaluator
    job: Job
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    stage: str = "load"
    fitting: Fitting | None = None
    observed: dict[str, Any] = field(default_factory=dict)
    curve: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cost = Cost(self.evaluator.compute, self.evaluator.workers)

    @property
    def trial(self) -> Trial:
        return self.job.trial

    def run(self, report: Report) -> Measurement:
        try:
            measurement, predictions = self._measure(partial(self._note, report))
        except StoreError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may call sys.exit
            measurement, predictions = self._failed(error), None
        self.evaluator.store.put(measurement, predictions)
        return measurement

    def _note(self, report: Report, epoch: int, score: float) -> bool:
        """Pass an epoch on, and remember it in case the trial fails."""
        self.cost.look()
        elapsed_s = self.cost.elapsed_s
        self.curve.append(Epoch(epoch=epoch, train_loss=None, search_score=score, elapsed_s=elapsed_s))
        return report(epoch, score)

    def _measure(self, report: Report) -> tuple[Measurement, Predictions]:
        trial, catalog = self.trial, self.evaluator.catalog
        strategy, dataset = catalog.strategy(trial.strategy.name), catalog.dataset(trial.dataset.name)
        entries = {"strategy": strategy, "dataset": dataset}
        if trial.backbone != NO_BACKBONE:
            entries["backbone"] = catalog.backbone(trial.backbone.name)
        self.observed = provenance(self.evaluator.compute, **entries)
        self.stage = "data"
        eyes = entries["backbone"].component.preprocess if "backbone" in entries else strategy.component
        shelf = Shelf(disk=self.evaluator.disk, facts=shelf_facts(trial, entries))
        samples = self._samples(dataset.component, eyes, shelf)
        self.stage = "fit"
        fitted = self._fit(strategy.component, entries.get("backbone"), samples, report)
        parts = {"validation": (samples.validation.part, fitted.validation_logits)}
        counts = {**_data_counts(samples), **fitted.counts, **self._complexity(fitted.complexity)}
        if trial.stage == "final":
            self.stage = "test"
            test, logits, more = self._test(dataset.component, eyes, samples, fitted, shelf)
            parts["test"] = (test, logits)
            counts |= more
        self.stage = "score"
        scores = _scores(parts, samples.data.search)
        self._keep_model(fitted, samples, scores)
        measurement = Measurement(
            trial=trial,
            status="pruned" if fitted.pruned else "complete",
            scores=scores,
            curve=fitted.curve,
            cost={**fitted.cost, **self.cost.so_far()},
            counts=counts,
            frozen=fitted.frozen,
            provenance=self._provenance(),
        )
        return measurement, _predictions(parts)

    def _samples(self, dataset: Dataset, eyes: Eyes, shelf: Shelf) -> Samples:
        trial, excluded = self.trial, self.evaluator.excluded.get(self.trial.dataset.name, frozenset())
        what = (trial.dataset, trial.fingerprint, trial.split_seed, trial.shots, trial.fraction)
        control = trial.strategy if isinstance(eyes, ControlStrategy) else None

        def make() -> Samples:
            data = load_data(
                dataset, split_seed=trial.split_seed, shots=trial.shots, excluded=excluded, fraction=trial.fraction
            )
            train, validation = (self._prepared(part, eyes, shelf) for part in (data.train, data.validation))
            return Samples(data=data, train=train, validation=validation)

        return self.evaluator.samples.get((*what, control, canonical_json(trial.preprocess)), make)

    def _prepared(self, part: Part, eyes: Eyes, shelf: Shelf) -> Prepared:
        return Prepared(part, eyes, memory_limit_bytes=self.evaluator.limit_bytes, shelf=shelf)

    def _fit(self, strategy: Strategy, backbone: Entry | None, samples: Samples, report: Report) -> Fitted:
        if isinstance(strategy, ControlStrategy):
            return fit_control(strategy, self.trial, samples)
        assert backbone is not None
        self.fitting = Fitting(
            trial=self.trial,
            backbone=backbone.component,
            samples=samples,
            compute=self.evaluator.compute,
            memory=self.evaluator.features,
            complexities=self.evaluator.complexities,
        )
        if isinstance(strategy, FrozenStrategy):
            return self.fitting.fit_frozen(strategy)
        assert isinstance(strategy, TrainedStrategy)
        return self.fitting.fit_trained(strategy, report)

    def _test(
        self, dataset: Dataset, eyes: Eyes, samples: Samples, fitted: Fitted, shelf: Shelf
    ) -> tuple[Part, np.ndarray, dict[str, Any]]:
        excluded = self.evaluator.excluded.get(self.trial.dataset.name, frozenset())
        door = TestDoor(dataset, self.trial.split_seed, excluded)
        part = door.open(samples.data)
        prepared = self._prepared(part, eyes, door.shelf(shelf))
        logits = fitted.predict(prepared)
        counts = {
            "test": len(part.ids),
            "test_evaluated": len(logits),
            "test_openings": door.openings,
            # What a control prepares says little of the sample; of a majority it says nothing.
            "test_duplicates": None if isinstance(eyes, ControlStrategy) else duplicates(samples.train, prepared),
        }
        return part, logits, counts

    def _keep_model(self, fitted: Fitted, samples: Samples, scores: Mapping[str, Any]) -> None:
        if fitted.deployed is None:
            return
        threshold = self.job.keep_model_above
        if self.trial.stage == "search":
            if fitted.pruned:
                return
            if threshold is not None and not better(scores["search"][self.trial.metric], threshold, self.trial.metric):
                return
        self.stage = "save"
        origins = self.evaluator.catalog.origins(self.trial.backbone.name)
        class_names, adapter = samples.data.class_names, fitted.adapter()
        save(self.evaluator.store, self.trial, fitted.deployed(), class_names, origins, adapter)

    def _failed(self, error: BaseException) -> Measurement:
        stage = self.fitting.stage if self.fitting and self.stage == "fit" else self.stage
        failure = Failure(kind=_kind(error), stage=stage, type=type(error).__name__, message=str(error))
        return Measurement(
            trial=self.trial,
            status="failed",
            failure=failure,
            curve=self.curve,
            cost=self.cost.so_far(),
            provenance=self._provenance(),
        )

    def _complexity(self, found: Complexity | None) -> dict[str, int]:
        """What is counted of the model to ship; how, is noted for the provenance."""
        if found is None:
            return {}
        self.observed["complexity"] = {**PROVENANCE, "unsupported": list(found.unsupported)}
        return {"macs": found.macs, "activations": found.activations}

    def _provenance(self) -> dict[str, Any]:
        times = {"started_utc": self.started.isoformat(), "ended_utc": datetime.now(UTC).isoformat()}
        return {**self.observed, **times}


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, TrialFailure):
        return error.kind
    if is_out_of_memory(error):
        return "oom"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return "infrastructure" if full else "error"


def _data_counts(samples: Samples) -> dict[str, int]:
    data = samples.data
    return {
        "classes": len(data.class_names),
        "train": len(data.train.ids),
        "validation": len(data.validation.ids),
        "search": int(data.search.sum()),
    }


def _scores(parts: Mapping[str, tuple[Part, np.ndarray]], search: np.ndarray) -> dict[str, Any]:
    part, logits = parts["validation"]
    scores = {name: score(values, of.labels) for name, (of, values) in parts.items()}
    scores["search"] = score(logits[search], part.labels[search])
    if not search.all():
        scores["pick"] = score(logits[~search], part.labels[~search])
    return scores


def _predictions(parts: Mapping[str, tuple[Part, np.ndarray]]) -> Predictions:
    largest = np.finfo(np.float16).max
    logits = np.concatenate([values for _, values in parts.values()])
    return Predictions(
        sample_id=[identifier for part, _ in parts.values() for identifier in part.ids],
        split=[name for name, (part, _) in parts.items() for _ in part.ids],
        label=np.concatenate([part.labels for part, _ in parts.values()]),
        predicted=logits.argmax(axis=1),
        logits=logits.clip(-largest, largest).astype(np.float16),
    )
