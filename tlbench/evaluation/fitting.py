"""Fitting: from a trial's names to a fitted model and its validation logits, frozen or trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Backbone, FrozenStrategy, TrainedStrategy
from tlbench.errors import PluginError
from tlbench.evaluation.data import Data, Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import FrozenState
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build, shape
from tlbench.evaluation.predict import features
from tlbench.evaluation.train import Report, Task, train
from tlbench.measurement import Epoch
from tlbench.seeds import derive_seed
from tlbench.trial import Trial, canonical_json


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """A data set cut into parts, prepared for one backbone."""

    data: Data
    train: Prepared
    validation: Prepared


@final
@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted model and how it came about."""

    deployed: Callable[[], nn.Module]
    """The model to ship, in eval mode on its device; built when first asked for, and once: merging may not repeat."""

    validation_logits: np.ndarray
    cost: Mapping[str, Any]
    counts: Mapping[str, Any]
    frozen: Mapping[str, Any]
    curve: Sequence[Epoch] = ()
    pruned: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Features:
    """Pooled features of a frozen backbone: train and validation by view, and what they cost."""

    train: Mapping[str, Tensor]
    validation: Mapping[str, Tensor]
    seconds: float
    frozen: Mapping[str, Any]


@final
@dataclass(kw_only=True)
class Fitting:
    """One trial being fitted; `stage` says what is being done."""

    trial: Trial
    backbone: Backbone
    samples: Samples
    compute: Compute
    memory: Memory
    stage: str = "load"

    def fit_trained(self, strategy: TrainedStrategy, report: Report) -> Fitted:
        """Train by gradient steps."""
        trial, start = self.trial, time.monotonic()
        model = self._build(strategy.pretrained)
        load_s = time.monotonic() - start
        task = Task(
            strategy=strategy,
            params=trial.params,
            preprocess=self.backbone.preprocess,
            train=self.samples.train,
            validation=self.samples.validation,
            chooses=self._chooses(),
            metric=trial.metric,
            classes=len(self.samples.data.class_names),
            epochs=trial.epochs,
            seed=trial.seed,
            compute=self.compute,
            report=report,
        )
        self.stage = "train"
        run = train(model, task)
        assert run.validation_logits is not None
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return Fitted(
            deployed=cache(lambda: strategy.deploy(model).eval()),
            validation_logits=run.validation_logits,
            cost={"load_s": load_s, "features_s": None, "train_s": run.train_s, "validation_s": run.validation_s},
            counts={
                **_model_counts(model, trainable),
                "best_epoch": run.best_epoch,
                "epochs_run": len(run.curve),
                "steps": run.steps,
                "micro_batch": run.micro_batch,
            },
            frozen=run.frozen,
            curve=run.curve,
            pruned=run.pruned,
        )

    def fit_frozen(self, strategy: FrozenStrategy) -> Fitted:
        """Compute the features, or find them in memory, and fit a head on them."""
        trial, view = self.trial, self.trial.params["pool"]
        self.stage = "features"
        key = self._features_key(strategy.pretrained)
        cached = key in self.memory
        found = self.memory.get(key, lambda: self._compute_features(strategy.pretrained))
        self.stage = "train"
        start = time.monotonic()
        labels = torch.from_numpy(self.samples.data.train.labels)
        generator = torch.Generator().manual_seed(derive_seed(trial.seed, "head"))
        heads = list(strategy.fit(found.train, labels, [trial.params], generator))
        train_s = time.monotonic() - start
        if len(heads) != 1:
            raise PluginError(f"strategy '{strategy.name}' fitted {len(heads)} heads for one configuration")
        head = heads[0].eval()
        with torch.inference_mode():
            logits = head(found.validation[view]).float().numpy()
        in_backbone = shape(self.backbone).parameters
        in_head = sum(parameter.numel() for parameter in head.parameters())
        return Fitted(
            deployed=cache(lambda: self._with_head(head, strategy.pretrained)),
            validation_logits=logits,
            # What is found in memory still carries what it cost, so that it does not look free.
            cost={"features_s": found.seconds, "features_cached": cached, "train_s": train_s},
            counts={
                "parameters_backbone": in_backbone,
                "parameters_head": in_head,
                "parameters_total": in_backbone + in_head,
                "parameters_trainable": in_head,
                "feature_width": int(found.train[view].shape[1]),
            },
            frozen=found.frozen,
        )

    def _build(self, pretrained: bool) -> Classifier:
        classes = len(self.samples.data.class_names)
        return build(self.backbone, self.trial.params, classes, pretrained, self.trial.seed)

    def _with_head(self, head: nn.Module, pretrained: bool) -> nn.Module:
        model = self._build(pretrained)
        model.head = head
        return model.to(self.compute.device).eval()

    def _features_key(self, pretrained: bool) -> Hashable:
        """Everything that features depend on: whatever is left out here would be mixed up (pitfall 17)."""
        trial = self.trial
        return (
            "features",
            trial.backbone,
            canonical_json(trial.declared),
            trial.weights,
            None if pretrained else trial.seed,
            canonical_json(trial.preprocess),
            trial.dataset,
            trial.fingerprint,
            trial.split_seed,
            trial.shots,
            trial.fraction,
            trial.params["pool"],
            self.compute,
        )

    def _compute_features(self, pretrained: bool) -> Features:
        start = time.monotonic()
        model = self._build(pretrained).requires_grad_(False).to(self.compute.device)
        state = FrozenState(model.backbone, "frozen")
        preprocess, views = self.backbone.preprocess, [self.trial.params["pool"]]
        train_features = features(model, views, self.samples.train, preprocess, self.compute)
        validation_features = features(model, views, self.samples.validation, preprocess, self.compute)
        return Features(
            train=train_features,
            validation=validation_features,
            seconds=time.monotonic() - start,
            frozen=state.changes(),
        )

    def _chooses(self) -> np.ndarray:
        """The validation samples that choose the epoch: the search half, in a final all of them."""
        search = self.samples.data.search
        return np.ones_like(search) if self.trial.stage == "final" else search


def _model_counts(model: Classifier, trainable: int) -> dict[str, int | None]:
    in_backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    in_head = sum(parameter.numel() for parameter in model.head.parameters())
    return {
        "parameters_backbone": in_backbone,
        "parameters_head": in_head,
        "parameters_total": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_trainable": trainable,
        "feature_width": int(getattr(model.head, "in_features", 0)) or None,
    }
