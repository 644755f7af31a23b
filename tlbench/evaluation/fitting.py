"""Fitting: from a trial's names to a fitted model and its validation logits, frozen or trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.evaluation.adapters import Adapter, Shipment
from tlbench.evaluation.boundary import Shelf
from tlbench.evaluation.complexity import Complexities, Complexity, complexity, of_backbone, of_features
from tlbench.evaluation.data import Data, Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import FrozenState
from tlbench.evaluation.heads import LinearHead
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build, elements, move
from tlbench.evaluation.predict import features, predict
from tlbench.evaluation.probe import multinomial
from tlbench.evaluation.run import Report, Task
from tlbench.evaluation.states import open_states
from tlbench.evaluation.train import train
from tlbench.measurement import Epoch
from tlbench.seeds import derive_seed
from tlbench.spaces import resolve
from tlbench.strategies import ControlStrategy, FrozenStrategy, TrainedStrategy
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

    deployed: Callable[[], nn.Module] | None
    """The model to ship, in eval mode on its device; built when first asked for, and once: merging may not repeat.

    None of a control.
    """

    predict: Callable[[Prepared], np.ndarray]
    """Logits [n, classes] of the model to ship."""

    adapter: Callable[[], Adapter | None] = lambda: None
    """What alone has to be kept of the model to ship, where its strategy merges that into pretrained weights."""

    validation_logits: np.ndarray
    cost: Mapping[str, Any]
    counts: Mapping[str, Any]
    complexity: Complexity | None = None
    """Of the model to ship; None of a control, and where it cannot be told."""

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
    samples: float
    """How many of the usual shape would take as much: of texts, counted in tokens with their padding."""

    complexity: Complexity | None
    """Of one of them."""

    parameters: int
    """Of the backbone."""

    frozen: Mapping[str, Any]


def fit_control(strategy: ControlStrategy, trial: Trial, samples: Samples) -> Fitted:
    """Let a control learn from the prepared training samples."""
    start, train = time.monotonic(), samples.data.train
    arrays = samples.train.arrays(range(len(train)))
    seed = derive_seed(trial.seed, "control") % 2**32
    function = strategy.fit(arrays, train.labels, len(train.class_names), trial.params, seed)
    train_s = time.monotonic() - start

    def logits(prepared: Prepared) -> np.ndarray:
        return np.asarray(function(prepared.arrays(range(len(prepared.part)))), np.float32)

    return Fitted(
        deployed=None,
        predict=logits,
        validation_logits=logits(samples.validation),
        cost={"train_s": train_s},
        counts={},
        frozen={},
    )


@final
@dataclass(kw_only=True)
class Fitting:
    """One trial being fitted; `stage` says what is being done."""

    trial: Trial
    backbone: Backbone
    samples: Samples
    compute: Compute
    memory: Memory
    boundaries: Memory | None = None
    """Where activations at freeze boundaries are kept; None: nothing trains on such."""

    complexities: Complexities = field(default_factory=Complexities)
    stage: str = "load"

    @property
    def _view(self) -> str:
        pool: str = self.trial.params["pool"]
        return pool

    def fit_trained(self, strategy: TrainedStrategy, report: Report) -> Fitted:
        """Train by gradient steps."""
        trial, start = self.trial, time.monotonic()
        model = self._build(strategy.pretrained)
        load_s = time.monotonic() - start
        counts, shipment, found = _model_counts(model), Shipment(strategy, model), self._complexity(model)
        features_cost = self._start_head(model, strategy.pretrained)
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
            states=open_states(trial, strategy, self.compute),
            shelf=self._shelf(strategy.pretrained),
        )
        self.stage = "train"
        run = train(model, task)
        assert run.validation_logits is not None
        trainable = _count(parameter for parameter in model.parameters() if parameter.requires_grad)
        return Fitted(
            deployed=lambda: shipment.model,
            predict=self._predicting(lambda: shipment.model),
            adapter=lambda: shipment.adapter,
            validation_logits=run.validation_logits,
            cost={
                "load_s": load_s,
                **features_cost,
                **run.feed_cost,
                "train_s": run.train_s,
                "validation_s": run.validation_s,
                "train_samples_per_s": run.samples_per_s,
                "samples_seen": run.samples_seen,
                "train_flops": run.flops,
            },
            counts={
                **counts,
                **run.feed_counts,
                "parameters_trainable": trainable,
                "best_epoch": run.best_epoch,
                "epochs_averaged": len(run.epochs),
                "epochs_run": run.curve[-1].epoch,
                "steps": run.steps,
                "steps_resumed": run.steps_resumed,
                "micro_batch": run.micro_batch,
            },
            complexity=found,
            frozen=run.frozen,
            curve=run.curve,
            pruned=run.pruned,
        )

    def fit_frozen(self, strategy: FrozenStrategy) -> Fitted:
        """Compute the features, or find them in memory, and fit a head on them."""
        trial, view = self.trial, self._view
        found, features_cost = self._features(strategy.pretrained)
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
        in_head = _count(head.parameters())
        deployed = cache(lambda: self._with_head(head, strategy.pretrained))
        return Fitted(
            deployed=deployed,
            predict=self._predicting(deployed),
            validation_logits=logits,
            cost={**features_cost, "train_s": train_s},
            counts={
                "parameters_backbone": found.parameters,
                "parameters_head": in_head,
                "parameters_total": found.parameters + in_head,
                "parameters_trainable": in_head,
                "feature_width": int(found.train[view].shape[1]),
            },
            complexity=found.complexity and found.complexity + complexity(head, found.train[view][:1]),
            frozen=found.frozen,
        )

    def _predicting(self, deployed: Callable[[], nn.Module]) -> Callable[[Prepared], np.ndarray]:
        return lambda prepared: predict(deployed(), prepared, self.backbone.preprocess, self.compute)

    def _shelf(self, pretrained: bool) -> Shelf | None:
        kept = self.boundaries
        return None if kept is None else Shelf(memory=kept, key=self._data_key(pretrained))

    def _start_head(self, model: Classifier, pretrained: bool) -> dict[str, Any]:
        """Let the head begin as a probe where the recipe says so (Kumar et al. 2022): what the features cost."""
        params = self.trial.params
        if params["head_start"] != "probe":
            return {"features_s": None, "features_flops": None, "features_cached": None}
        if not isinstance(model.head, LinearHead):
            raise BenchmarkError(f"head_start = 'probe' needs head = 'linear', not '{params['head']}'")
        found, cost = self._features(pretrained)
        labels = torch.from_numpy(self.samples.data.train.labels)
        (probe,) = multinomial(found.train[self._view], labels, [params["probe_l2"]])
        model.head.load_state_dict(probe.state_dict())
        return cost

    def _features(self, pretrained: bool) -> tuple[Features, dict[str, Any]]:
        """The features and their cost: what is found in memory still carries it, so that it does not look free."""
        self.stage = "features"
        key = self._features_key(pretrained)
        cached = key in self.memory
        found: Features = self.memory.get(key, lambda: self._compute_features(pretrained))
        flops = found.complexity and round(2 * found.complexity.macs * found.samples)
        return found, {"features_s": found.seconds, "features_flops": flops, "features_cached": cached}

    def _complexity(self, model: Classifier) -> Complexity | None:
        """Of the classifier that the recipe asks for; `model` is one on the CPU, not yet adapted."""
        params, classes = resolve(self.trial.params), len(self.samples.data.class_names)
        return self.complexities.find(
            (*self._network_key(), self._view, params["head"], params["head_width"], classes),
            lambda: of_backbone(self.backbone, params, classes),
            lambda: complexity(model, model.example),
        )

    def _complexity_of_features(self, model: Classifier) -> Complexity | None:
        """Of the way to features alone; `model` is one on the device that passes them on."""
        return self.complexities.find(
            (*self._network_key(), self._view),
            lambda: of_features(self.backbone, self._view),
            lambda: complexity(model, move(model.example, self.compute.device)),
        )

    def _network_key(self) -> tuple[Hashable, ...]:
        trial = self.trial
        return trial.backbone, canonical_json(trial.declared), trial.weights, canonical_json(trial.preprocess)

    def _build(self, pretrained: bool) -> Classifier:
        classes = len(self.samples.data.class_names)
        return build(self.backbone, resolve(self.trial.params), classes, pretrained, self.trial.seed)

    def _with_head(self, head: nn.Module, pretrained: bool) -> Classifier:
        model = self._build(pretrained)
        model.head = head
        return model.to(self.compute.device).eval()

    def _features_key(self, pretrained: bool) -> Hashable:
        return ("features", *self._data_key(pretrained), self._view)

    def _data_key(self, pretrained: bool) -> tuple[Hashable, ...]:
        """All that what a network makes of the data depends on: what is left out would be mixed up (pitfall 17)."""
        trial = self.trial
        return (
            *self._network_key(),
            None if pretrained else trial.seed,
            trial.dataset,
            trial.fingerprint,
            trial.split_seed,
            trial.shots,
            trial.fraction,
            self.compute,
        )

    def _compute_features(self, pretrained: bool) -> Features:
        start, passed = time.monotonic(), list[int]()
        model = self._build(pretrained).requires_grad_(False).to(self.compute.device)
        state, preprocess, views = FrozenState(model.backbone, "frozen"), self.backbone.preprocess, [self._view]
        parts = (self.samples.train, self.samples.validation)
        of_train, of_validation = (
            features(model, views, part, preprocess, self.compute, lambda inputs: passed.append(elements(inputs)))
            for part in parts
        )
        seconds = time.monotonic() - start
        model.head = nn.Identity()
        return Features(
            train=of_train,
            validation=of_validation,
            seconds=seconds,
            samples=sum(passed) / elements(model.example),
            complexity=self._complexity_of_features(model),
            parameters=_count(model.backbone.parameters()),
            frozen=state.changes(),
        )

    def _chooses(self) -> np.ndarray:
        """The validation samples that choose the epoch: the search half, in a final all of them."""
        search = self.samples.data.search
        return np.ones_like(search) if self.trial.stage == "final" else search


def _model_counts(model: Classifier) -> dict[str, int | None]:
    """Of the model as it is shipped: before a strategy adds what only training needs."""
    return {
        "parameters_backbone": _count(model.backbone.parameters()),
        "parameters_head": _count(model.head.parameters()),
        "parameters_total": _count(model.parameters()),
        "feature_width": int(getattr(model.head, "in_features", 0)) or None,
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
