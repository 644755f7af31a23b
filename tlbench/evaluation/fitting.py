"""Fitting: from a trial's names to a fitted model and its validation logits, frozen or trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.evaluation.adapters import Adapter, Shipment
from tlbench.evaluation.boundary import Boundaries
from tlbench.evaluation.bundle import logits_alone
from tlbench.evaluation.complexity import Complexities, Complexity, complexity, in_full, of_backbone, of_features
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.features import PARTS, Extraction, Features, View, joined
from tlbench.evaluation.formats import Formats
from tlbench.evaluation.heads import POOLED, LinearHead
from tlbench.evaluation.keys import activations_key, features_facts, features_key, network_key
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build, move
from tlbench.evaluation.pool import Pool
from tlbench.evaluation.predict import predict
from tlbench.evaluation.probe import multinomial
from tlbench.evaluation.run import Report, Task
from tlbench.evaluation.samples import Samples
from tlbench.evaluation.states import open_states
from tlbench.evaluation.train import train
from tlbench.measurement import Epoch
from tlbench.seeds import derive_seed
from tlbench.spaces import Params, resolve
from tlbench.strategies import ControlStrategy, FrozenStrategy, TrainedStrategy
from tlbench.trial import Trial


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
    disk: Disk = field(default_factory=Disk)
    formats: Formats = field(default_factory=Formats)
    chosen: dict[str, str] = field(default_factory=dict)
    """Is told the number format that the network computed in, as `dtype`."""

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
        features_cost, passes = self._start_head(model, strategy.pretrained)
        compute = self._computing(model)
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
            compute=compute,
            report=report,
            states=open_states(trial, strategy, compute, passes, self.disk),
            boundaries=self._boundaries(strategy.pretrained, compute),
        )
        self.stage = "train"
        run = train(model, task)
        assert run.validation_logits is not None
        trainable = _count(parameter for parameter in model.parameters() if parameter.requires_grad)
        return Fitted(
            deployed=lambda: shipment.model,
            predict=lambda prepared: predict(shipment.model, prepared, self.backbone.preprocess, compute),
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
        view = self._view
        found = self.features([view], strategy.pretrained)
        start = time.monotonic()
        (head,) = self.heads(strategy, found, [self.trial.params])
        train_s = time.monotonic() - start
        logits = logits_alone(head, found.validation[view])
        return self.fitted(head, logits, found, strategy.pretrained, train_s)

    def heads(self, strategy: FrozenStrategy, found: Features, configurations: Sequence[Params]) -> list[nn.Module]:
        """A head per configuration, on the trial's seed. Raises `PluginError` for fewer or more of them."""
        self.stage = "train"
        labels = torch.from_numpy(self.samples.data.train.labels)
        generator = torch.Generator().manual_seed(derive_seed(self.trial.seed, "head"))
        heads = list(strategy.fit(found.train, labels, configurations, generator))
        if len(heads) != len(configurations):
            asked = "one configuration" if len(configurations) == 1 else f"{len(configurations)} configurations"
            raise PluginError(f"strategy '{strategy.name}' fitted {len(heads)} heads for {asked}")
        return heads

    def fitted(self, head: nn.Module, logits: np.ndarray, found: Features, pretrained: bool, train_s: float) -> Fitted:
        """The model that a head on these features makes; `logits` are those of validation."""
        view, in_head = self._view, _count(head.parameters())
        deployed, way = cache(lambda: self._with_head(head, pretrained)), found.complexity[view]

        def predict_kept(prepared: Prepared) -> np.ndarray:
            features = self._extraction(pretrained).extract(prepared, [view])[view].values
            return logits_alone(head, features)

        return Fitted(
            deployed=deployed,
            predict=predict_kept,
            validation_logits=logits,
            cost={**found.cost, "train_s": train_s},
            counts={
                "parameters_backbone": found.parameters,
                "parameters_head": in_head,
                "parameters_total": found.parameters + in_head,
                "parameters_trainable": in_head,
                "feature_width": int(found.train[view].shape[1]),
            },
            complexity=way and way + self._complexity_of_head(head, found.train[view][:1]),
            frozen=found.frozen,
        )

    def _boundaries(self, pretrained: bool, compute: Compute) -> Boundaries | None:
        if self.boundaries is None:
            return None
        return Boundaries(memory=self.boundaries, key=activations_key(self.trial, compute, pretrained))

    def _computing(self, model: Classifier) -> Compute:
        """How a training computes."""
        compute = self.formats.of_training(self.compute, self._network, model, self.trial.params["channels_last"])
        self.chosen["dtype"] = compute.dtype_name
        return compute

    def _start_head(self, model: Classifier, pretrained: bool) -> tuple[dict[str, Any], Compute | None]:
        """Let the head begin as a probe where the recipe says so (Kumar et al. 2022).

        Gives what the features cost, and how they were computed.
        """
        params = self.trial.params
        if params["head_start"] != "probe":
            return {"features_s": None, "features_flops": None, "features_cached": None}, None
        if not isinstance(model.head, LinearHead):
            raise BenchmarkError(f"head_start = 'probe' needs head = 'linear', not '{params['head']}'")
        found = self.features([self._view], pretrained)
        labels = torch.from_numpy(self.samples.data.train.labels)
        (probe,) = multinomial(found.train[self._view], labels, [params["probe_l2"]])
        model.head.load_state_dict(probe.state_dict())
        return found.cost, self._extraction(pretrained).compute

    def features(self, views: Sequence[str], pretrained: bool = True, parts: Sequence[str] = PARTS) -> Features:
        """Several views of the samples of some parts: in memory, on the disk or computed in one pass.

        `pretrained`: False for a network of fresh weights.
        """
        self.stage = "features"
        extraction = self._extraction(pretrained)
        keys = {view: features_key(self.trial, extraction.compute, pretrained, view, parts) for view in views}
        found: dict[str, View] = {view: one for view, key in keys.items() if (one := self.memory.find(key)) is not None}
        absent = [view for view in keys if view not in found]
        prepared = {part: getattr(self.samples, part) for part in parts}
        fresh = extraction.views(prepared, absent) if absent else {}
        found |= {view: self.memory.get(keys[view], partial(fresh.__getitem__, view)) for view in absent}
        return joined({view: found[view] for view in keys}, cached=not extraction.computed)

    def _complexity(self, model: Classifier) -> Complexity | None:
        """Of the classifier that the recipe asks for; `model` is one on the CPU, not yet adapted."""
        params, classes = resolve(self.trial.params), len(self.samples.data.class_names)
        return self.complexities.find(
            (*network_key(self.trial), self._view, params["head"], params["head_width"], classes),
            lambda: of_backbone(self.backbone, params, classes),
            lambda: complexity(model, model.example),
        )

    def _complexity_of_features(self, view: str, model: Classifier) -> Complexity | None:
        """Of the way to a view's features alone; `model` lies on the device that it is to compute on."""
        pool = Pool(view, model.pool.layout, model.pool.prefix_tokens).to(self.compute.device)
        headless = Classifier(model.backbone, pool, nn.Identity())
        return self.complexities.find(
            (*network_key(self.trial), view),
            lambda: in_full(complexity(headless, move(model.example, self.compute.device))),
            lambda: of_features(self.backbone, view),
            lambda: complexity(headless, move(model.example, self.compute.device)),
        )

    def _complexity_of_head(self, head: nn.Module, features: Tensor) -> Complexity:
        """Of a head on features of one sample: of the engine's own the shapes of their tensors decide it."""
        if not isinstance(head, POOLED):
            return complexity(head, features)
        shapes = (type(head).__name__, *(tuple(tensor.shape) for tensor in head.state_dict().values()))
        found = self.complexities.find(shapes, lambda: complexity(head, features))
        assert found is not None
        return found

    def _build(self, pretrained: bool) -> Classifier:
        classes = len(self.samples.data.class_names)
        return build(self.backbone, resolve(self.trial.params), classes, pretrained, self.trial.seed)

    def _with_head(self, head: nn.Module, pretrained: bool) -> Classifier:
        model = self._build(pretrained)
        model.head = head
        return model.to(self.compute.device).eval()

    def _extraction(self, pretrained: bool) -> Extraction:
        build = cache(lambda: self._build(pretrained).requires_grad_(False).to(self.compute.device))
        compute = self.formats.of_passes(self.compute, self._network, build)
        self.chosen["dtype"] = compute.dtype_name
        layout = torch.channels_last if compute.channels_last else torch.preserve_format
        return Extraction(
            build=lambda: build().to(memory_format=layout),
            preprocess=self.backbone.preprocess,
            compute=compute,
            complexity=self._complexity_of_features,
            facts=features_facts(self.trial, compute, pretrained),
        )

    @property
    def _network(self) -> dict[str, Any]:
        """What decides how fast the backbone computes, beside device and libraries."""
        trial = self.trial
        return {
            "backbone": asdict(trial.backbone),
            "declared": trial.declared,
            "weights": trial.weights,
            "preprocess": trial.preprocess,
        }

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
