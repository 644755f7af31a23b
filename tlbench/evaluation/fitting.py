"""Fitting: from a trial's names to a fitted model and its validation logits, frozen or trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
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
from tlbench.evaluation.features import Extraction, Features, View
from tlbench.evaluation.heads import LinearHead
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build, move
from tlbench.evaluation.pool import Pool
from tlbench.evaluation.predict import predict
from tlbench.evaluation.probe import multinomial
from tlbench.evaluation.provenance import arithmetic
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
        """Compute the features, or find them, and fit a head on them."""
        trial, view = self.trial, self._view
        found = self.features([view], strategy.pretrained)
        self.stage = "train"
        start = time.monotonic()
        labels = torch.from_numpy(self.samples.data.train.labels)
        generator = torch.Generator().manual_seed(derive_seed(trial.seed, "head"))
        heads = list(strategy.fit(found.train, labels, [trial.params], generator))
        train_s = time.monotonic() - start
        if len(heads) != 1:
            raise PluginError(f"strategy '{strategy.name}' fitted {len(heads)} heads for one configuration")
        head = heads[0].eval()

        def logits(features: Tensor) -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(head(features).float().numpy())

        def predict_kept(prepared: Prepared) -> np.ndarray:
            return logits(self._extraction(strategy.pretrained, view).extract(prepared, [view])[view].values)

        in_head = _count(head.parameters())
        return Fitted(
            deployed=cache(lambda: self._with_head(head, strategy.pretrained)),
            predict=predict_kept,
            validation_logits=logits(found.validation[view]),
            cost={**found.cost, "train_s": train_s},
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
        found = self.features([self._view], pretrained)
        labels = torch.from_numpy(self.samples.data.train.labels)
        (probe,) = multinomial(found.train[self._view], labels, [params["probe_l2"]])
        model.head.load_state_dict(probe.state_dict())
        return found.cost

    def features(self, views: Sequence[str], pretrained: bool = True) -> Features:
        """Several views of the training and validation samples: in memory, on the disk or computed in one pass.

        `pretrained`: False for a network of fresh weights.
        """
        self.stage = "features"
        extraction = self._extraction(pretrained, views[0])
        keys = {view: self._features_key(pretrained, view) for view in views}
        absent = [view for view in views if keys[view] not in self.memory]
        fresh = extraction.views(self.samples.train, self.samples.validation, absent) if absent else {}
        found: dict[str, View] = {view: self.memory.get(keys[view], partial(fresh.__getitem__, view)) for view in views}
        first = found[views[0]].network
        return Features(
            train={view: found[view].train.values for view in views},
            validation={view: found[view].validation.values for view in views},
            seconds=max(one.train.seconds + one.validation.seconds for one in found.values()),
            samples=max(one.train.samples + one.validation.samples for one in found.values()),
            cached=not extraction.computed,
            complexity=first.complexity or self._complexity_of_features(views[0]),
            parameters=first.parameters,
            frozen=first.frozen,
        )

    def _complexity(self, model: Classifier) -> Complexity | None:
        """Of the classifier that the recipe asks for; `model` is one on the CPU, not yet adapted."""
        params, classes = resolve(self.trial.params), len(self.samples.data.class_names)
        return self.complexities.find(
            (*self._network_key(), self._view, params["head"], params["head_width"], classes),
            lambda: of_backbone(self.backbone, params, classes),
            lambda: complexity(model, model.example),
        )

    def _complexity_of_features(self, view: str, model: Classifier | None = None) -> Complexity | None:
        """Of the way to features alone; `model`, if there is one, lies on the device that it is to compute on."""
        ways: list[Callable[[], Complexity]] = [lambda: of_features(self.backbone, view)]
        if model is not None:
            inputs = move(model.example, self.compute.device)
            pool = Pool(view, model.pool.layout, model.pool.prefix_tokens).to(self.compute.device)
            headless = Classifier(model.backbone, pool, nn.Identity())
            ways.append(lambda: complexity(headless, inputs))
        return self.complexities.find((*self._network_key(), view), *ways)

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
            trial.evaluator,
            self.compute,
        )

    def _features_facts(self, pretrained: bool) -> dict[str, Any]:
        """Everything that features depend on beside sample, preprocessing and view (pitfall 17).

        Threads and processor are part of it: they decide the last bits.
        """
        trial, compute = self.trial, self.compute
        return {
            "backbone": asdict(trial.backbone),
            "declared": trial.declared,
            "weights": trial.weights,
            "seed": None if pretrained else trial.seed,
            "evaluator": trial.evaluator,
            **arithmetic(compute),
        }

    def _features_key(self, pretrained: bool, view: str) -> Hashable:
        trial = self.trial
        part = (trial.dataset, trial.fingerprint, trial.split_seed, trial.shots, trial.fraction)
        facts = canonical_json([self._features_facts(pretrained), trial.preprocess])
        return "features", *part, facts, view

    def _extraction(self, pretrained: bool, view: str) -> Extraction:
        return Extraction(
            build=lambda: self._build(pretrained).requires_grad_(False).to(self.compute.device),
            preprocess=self.backbone.preprocess,
            compute=self.compute,
            complexity=lambda model: self._complexity_of_features(view, model),
            facts=self._features_facts(pretrained),
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
