"""Pieces of a training run over the tiny plugin, for tests of single modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tiny
from tlbench.components import Dataset, Preprocess
from tlbench.evaluation.data import Data, Prepared, load_data
from tlbench.evaluation.device import Compute
from tlbench.evaluation.model import Classifier, build
from tlbench.evaluation.predict import feature_blocks
from tlbench.evaluation.run import Run, Task
from tlbench.evaluation.samples import Samples
from tlbench.evaluation.states import States
from tlbench.evaluation.train import train
from tlbench.spaces import resolve
from tlbench.strategies import TrainedStrategy
from tlbench.trial import Reference, Trial

CPU = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=1)


def samples(dataset: Dataset | None = None) -> Samples:
    """Blobs, prepared for the tiny backbone."""
    data: Data = load_data(dataset or tiny.Blobs(), split_seed=0, shots=None)
    preprocess = tiny.Tiny().preprocess
    return Samples(data=data, train=Prepared(data.train, preprocess), validation=Prepared(data.validation, preprocess))


def features(
    model: Classifier, views: Sequence[str], prepared: Prepared, preprocess: Preprocess, compute: Compute = CPU
) -> dict[str, Tensor]:
    """Every view of all samples, from one pass that keeps nothing."""
    everything = np.arange(len(prepared.part))
    blocks = [outputs for _, outputs in feature_blocks(model, views, prepared, everything, preprocess, compute)]
    return {view: torch.cat(columns) for view, columns in zip(views, zip(*blocks, strict=True), strict=True)}


def recipe(strategy: TrainedStrategy, **changes: Any) -> dict[str, Any]:
    """The strategy's default recipe with changes."""
    return resolve(strategy.defaults(None), changes)  # type: ignore[arg-type]


def model(
    strategy: TrainedStrategy | None = None, seed: int = 0, pretrained: bool = True, **changes: Any
) -> Classifier:
    """A tiny classifier for three classes."""
    return build(tiny.Tiny(), recipe(strategy or tiny.Full(), **changes), 3, pretrained, seed)


def run(
    strategy: TrainedStrategy,
    *,
    epochs: int = 3,
    seed: int = 0,
    report: Any = None,
    compute: Compute = CPU,
    states: States | None = None,
    **changes: Any,
) -> tuple[Classifier, Run]:
    """A model trained on blobs, and what came of it."""
    of = samples()
    task = Task(
        strategy=strategy,
        params=recipe(strategy, **changes),
        preprocess=tiny.Tiny().preprocess,
        train=of.train,
        validation=of.validation,
        chooses=np.ones(len(of.validation.part.ids), bool),
        metric="accuracy",
        classes=3,
        epochs=epochs,
        seed=seed,
        compute=compute,
        report=report or (lambda epoch, score: False),
        states=states,
    )
    trained = build(tiny.Tiny(), task.params, 3, True, seed)
    return trained, train(trained, task)


def trial(**changes: Any) -> Trial:
    """A trial of the tiny plugin."""
    facts: dict[str, Any] = {
        "backbone": Reference(name="tiny/net", version=1),
        "strategy": Reference(name="tiny/full", version=1),
        "dataset": Reference(name="tiny/blobs", version=1),
        "weights": tiny.Tiny().weights(),
        "preprocess": dict(tiny.Tiny().preprocess.identity),
        "fingerprint": tiny.Blobs().fingerprint,
        "split_seed": 0,
        "shots": None,
        "params": recipe(tiny.Full()),
        "seed": 0,
        "metric": "accuracy",
        "epochs": 2,
        "stage": "search",
        "evaluator": 1,
    }
    return Trial(**{**facts, **changes})
