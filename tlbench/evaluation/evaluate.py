"""Evaluation of one job: names in, stored measurements out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, final

import numpy as np
import torch

from tlbench.benchmark import better
from tlbench.catalog import Catalog, Entry
from tlbench.components import Backbone, Dataset
from tlbench.errors import StoreError
from tlbench.evaluation.complexity import Complexities
from tlbench.evaluation.cost import Cost
from tlbench.evaluation.data import Part, Prepared, duplicates
from tlbench.evaluation.device import Compute, keep_freed_memory
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.final import TestDoor
from tlbench.evaluation.fitting import Fitted, Fitting, fit_control
from tlbench.evaluation.formats import Formats
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.outcome import (
    all_scores,
    complexity_counts,
    complexity_provenance,
    data_counts,
    failure,
    predictions,
)
from tlbench.evaluation.probing import Candidate, Failed, Outcome, frozen_strategy, probe
from tlbench.evaluation.provenance import provenance
from tlbench.evaluation.rows import Rows
from tlbench.evaluation.run import Report
from tlbench.evaluation.samples import Eyes, Samples, cut_samples, samples_key
from tlbench.evaluation.saved import save
from tlbench.evaluation.screen import screen
from tlbench.evaluation.shelf import Shelf, shelf_facts
from tlbench.measurement import Epoch, Measurement, Predictions
from tlbench.store import Store
from tlbench.strategies import ControlStrategy, FrozenStrategy, Strategy, TrainedStrategy
from tlbench.trial import NO_BACKBONE, Job, Reference, Trial

EVALUATOR_VERSION = 7
"""Raised when the same trial would get other scores than before."""

SAMPLE_SETS = 8
"""Prepared data sets kept in memory by one worker."""

FEATURE_SETS = BOUNDARIES = 64
"""Feature sets, and freeze boundaries with their activations, kept in memory by one worker, where they are small."""

MEMORY_SHARES = {"samples": 0.25, "features": 0.125, "boundaries": 0.125}
"""Parts of the machine's memory that these may take, all workers together."""


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
        self.disk, self.complexities = Disk(say), Complexities()
        self.formats = Formats(disk=self.disk)
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        most = {name: int(physical * share / workers) for name, share in MEMORY_SHARES.items()}
        self.samples, self.limit_bytes = Memory(SAMPLE_SETS), most["samples"] // SAMPLE_SETS // 3
        self.features = Memory(FEATURE_SETS, most_bytes=most["features"])
        self.boundaries = Memory(BOUNDARIES, most_bytes=most["boundaries"])

    def evaluate(self, job: Job, report: Report) -> list[Measurement]:
        """Fit, score and store: a measurement per trial, in their order.

        What goes wrong in a trial is a failed measurement, never an exception. Raises `StoreError` where results cannot
        be written.
        """
        return _Evaluation(self, job).run_many() if job.more else [_Evaluation(self, job).run(report)]


@dataclass
class _Evaluation:
    """One job on its way through an evaluator."""

    evaluator: Evaluator
    job: Job
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    stage: str = "load"
    fitting: Fitting | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)
    curve: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cost = Cost(self.evaluator.compute, self.evaluator.workers)

    @property
    def trial(self) -> Trial:
        return self.job.trial

    def run(self, report: Report) -> Measurement:
        kept: Predictions | None
        try:
            if self.trial.stage == "screen":
                measurement, kept = self._screen(), None
            else:
                measurement, kept = self._measure(partial(self._note, report))
        except StoreError:
            raise
        except (Exception, SystemExit) as error:  # a plugin may call sys.exit
            measurement, kept = self._failed(self.trial, error), None
        self.evaluator.store.put(measurement, kept)
        return measurement

    def run_many(self) -> list[Measurement]:
        kept: dict[str, Predictions] = {}
        try:
            measurements, kept = self._measure_many()
        except StoreError:
            raise
        except (Exception, SystemExit) as error:
            measurements = [self._failed(trial, error) for trial in self.job.trials]
        self.evaluator.store.put_many(self.job.key, measurements, kept)
        return measurements

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
        shelf = self._shelf(entries)
        samples = self._samples(dataset.component, eyes, shelf)
        self.stage = "fit"
        fitted = self._fit(strategy.component, entries.get("backbone"), samples, report)
        parts = {"validation": (samples.validation.part, fitted.validation_logits)}
        counts = {**data_counts(samples.data), **fitted.counts, **complexity_counts(fitted.complexity)}
        if trial.stage == "final":
            self.stage = "test"
            test, logits, more = self._test(dataset.component, eyes, samples, fitted, shelf)
            parts["test"] = (test, logits)
            counts |= more
        self.stage = "score"
        self.observed |= complexity_provenance(fitted.complexity)
        scores = all_scores(parts, samples.data.search)
        self._keep_model(trial, fitted, samples, scores)
        measurement = Measurement(
            trial=trial,
            status="pruned" if fitted.pruned else "complete",
            scores=scores,
            curve=fitted.curve,
            cost={**fitted.cost, **self.cost.so_far()},
            counts=counts,
            frozen=fitted.frozen,
            provenance=self.observed | self._as_it_went(),
        )
        return measurement, predictions(parts)

    def _measure_many(self) -> tuple[list[Measurement], dict[str, Predictions]]:
        catalog, compute, trials = self.evaluator.catalog, self.evaluator.compute, self.job.trials
        backbone, dataset = catalog.backbone(self.trial.backbone.name), catalog.dataset(self.trial.dataset.name)
        shared = {"backbone": backbone, "dataset": dataset}
        self.observed = provenance(compute, **shared)
        self.stage = "data"
        samples = self._samples(dataset.component, backbone.component.preprocess, self._shelf(shared))
        strategies = {trial.strategy: frozen_strategy(catalog, trial.strategy) for trial in trials}
        self.stage = "fit"
        rows = Rows.of(trials, self._probe(strategies, backbone.component, samples), samples.data)
        rows = self._keep_best(rows, samples)
        observed = {
            reference: provenance(compute, **shared, strategy=found) if isinstance(found, Entry) else self.observed
            for reference, found in strategies.items()
        }
        times = self._as_it_went()
        provenances = [{**observed[trial.strategy], **times} for trial in trials]
        return rows.measurements(self.cost.so_far(), provenances), rows.predictions()

    def _probe(
        self, strategies: Mapping[Reference, Entry | Exception], backbone: Backbone, samples: Samples
    ) -> list[Outcome]:
        """What becomes of every trial; without its strategy a trial has failed."""
        found: dict[str, Outcome] = {}
        candidates = dict[str, Candidate]()
        for trial in self.job.trials:
            strategy = strategies[trial.strategy]
            if isinstance(strategy, Entry):
                fitting = self._fitting(trial, backbone, samples)
                candidates[trial.key] = Candidate(fitting=fitting, strategy=strategy.component)
            else:
                found[trial.key] = Failed(stage="load", error=strategy)
        found.update(zip(candidates, probe(list(candidates.values())), strict=True))
        return [found[trial.key] for trial in self.job.trials]

    def _keep_best(self, rows: Rows, samples: Samples) -> Rows:
        """Save the best model, if it is to be; what goes wrong in doing so is that row's failure."""
        if not rows.best:
            return rows
        best = rows.best[0]
        assert isinstance(best.outcome, Fitted)
        try:
            self._keep_model(best.trial, best.outcome, samples, best.scores)
        except StoreError:
            raise
        except (Exception, SystemExit) as error:
            return rows.without_best(Failed(stage="save", error=error))
        return rows

    def _screen(self) -> Measurement:
        """Look at the training samples through every view of the backbone, with its pretrained weights."""
        catalog = self.evaluator.catalog
        backbone, dataset = catalog.backbone(self.trial.backbone.name), catalog.dataset(self.trial.dataset.name)
        entries = {"backbone": backbone, "dataset": dataset}
        self.observed = provenance(self.evaluator.compute, **entries)
        self.stage = "data"
        samples = self._samples(dataset.component, backbone.component.preprocess, self._shelf(entries))
        self.stage = "fit"
        self.fitting = self._fitting(self.trial, backbone.component, samples)
        found = self.fitting.features(backbone.component.pools, pretrained=True, parts=("train",))
        self.stage, start = "screen", time.monotonic()
        screened = screen(found.train, torch.from_numpy(samples.data.train.labels))
        train_s, counts = time.monotonic() - start, data_counts(samples.data)
        return Measurement(
            trial=self.trial,
            status="complete",
            scores={"train": screened.scores},
            cost={**found.cost, "train_s": train_s, **self.cost.so_far()},
            counts={
                "classes": counts["classes"],
                "train": counts["train"],
                "parameters_backbone": found.parameters,
                "feature_width": screened.width,
                "view": screened.view,
                "penalty": screened.penalty,
            },
            frozen=found.frozen,
            provenance=self.observed | self._as_it_went(),
        )

    def _shelf(self, entries: Mapping[str, Entry]) -> Shelf:
        """Where what is computed of the data lies."""
        return Shelf(disk=self.evaluator.disk, facts=shelf_facts(self.trial, entries))

    def _samples(self, dataset: Dataset, eyes: Eyes, shelf: Shelf) -> Samples:
        return self.evaluator.samples.get(
            samples_key(self.trial, shelf),
            lambda: cut_samples(self.trial, dataset, self._excluded, lambda part: self._prepared(part, eyes, shelf)),
        )

    @property
    def _excluded(self) -> frozenset[str]:
        return self.evaluator.excluded.get(self.trial.dataset.name, frozenset())

    def _prepared(self, part: Part, eyes: Eyes, shelf: Shelf) -> Prepared:
        return Prepared(part, eyes, memory_limit_bytes=self.evaluator.limit_bytes, shelf=shelf)

    def _fit(self, strategy: Strategy, backbone: Entry | None, samples: Samples, report: Report) -> Fitted:
        if isinstance(strategy, ControlStrategy):
            return fit_control(strategy, self.trial, samples)
        assert backbone is not None
        self.fitting = self._fitting(self.trial, backbone.component, samples)
        if isinstance(strategy, FrozenStrategy):
            return self.fitting.fit_frozen(strategy)
        assert isinstance(strategy, TrainedStrategy)
        return self.fitting.fit_trained(strategy, report)

    def _fitting(self, trial: Trial, backbone: Backbone, samples: Samples) -> Fitting:
        return Fitting(
            trial=trial,
            backbone=backbone,
            samples=samples,
            compute=self.evaluator.compute,
            memory=self.evaluator.features,
            boundaries=self.evaluator.boundaries,
            complexities=self.evaluator.complexities,
            disk=self.evaluator.disk,
            formats=self.evaluator.formats,
            chosen=self.chosen,
        )

    def _test(
        self, dataset: Dataset, eyes: Eyes, samples: Samples, fitted: Fitted, shelf: Shelf
    ) -> tuple[Part, np.ndarray, dict[str, Any]]:
        door = TestDoor(dataset, self.trial.split_seed, self._excluded)
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

    def _keep_model(self, trial: Trial, fitted: Fitted, samples: Samples, scores: Mapping[str, Any]) -> None:
        if fitted.deployed is None:
            return
        threshold = self.job.keep_model_above
        if trial.stage == "search":
            if fitted.pruned:
                return
            if threshold is not None and not better(scores["validation"][trial.metric], threshold, trial.metric):
                return
        self.stage = "save"
        origins = self.evaluator.catalog.origins(trial.backbone.name)
        class_names, adapter = samples.data.class_names, fitted.adapter()
        save(self.evaluator.store, trial, fitted.deployed(), class_names, origins, adapter)

    def _failed(self, trial: Trial, error: BaseException) -> Measurement:
        stage = self.fitting.stage if self.fitting and self.stage == "fit" else self.stage
        return Measurement(
            trial=trial,
            status="failed",
            failure=failure(error, stage),
            curve=self.curve,
            cost=self.cost.so_far(),
            provenance=self.observed | self._as_it_went(),
        )

    def _as_it_went(self) -> dict[str, str]:
        return {**self.chosen, "started_utc": self.started.isoformat(), "ended_utc": datetime.now(UTC).isoformat()}
