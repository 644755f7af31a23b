"""The feed: what training and validation put into a model: samples, or what they become at the freeze boundary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.evaluation.boundary import Boundary, Filling, Flow
from tlbench.evaluation.cut import Cut
from tlbench.evaluation.model import Classifier, rows
from tlbench.evaluation.predict import by_size, predict
from tlbench.evaluation.proof import find_cut, skipping
from tlbench.strategies import TrainedStrategy

if TYPE_CHECKING:
    from tlbench.evaluation.data import Prepared
    from tlbench.evaluation.run import Task

_LOOKED_AT = 64
"""Training samples among which those are chosen that a cut is tried on: the largest two and the smallest two."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """An effective batch, from its largest sample to its smallest: those that go together need little padding."""

    indices: np.ndarray
    sizes: Sequence[int]
    """Of each sample's inputs, in elements."""

    inputs: Any
    targets: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Samples of a batch that go through the model at once."""

    inputs: Any
    activation: Tensor | None = None
    """What flows into the cut."""


class Feed(ABC):
    """What a training run gets its batches and logits from."""

    counts: Mapping[str, Any]
    """Of the row: the module that the cut is at, and the augmentation of what is trained on."""

    cost: Mapping[str, Any]
    """Of the row: what computing the boundary took, in the trial that did."""

    @abstractmethod
    def take(self, batch: np.ndarray) -> Batch:
        """The training samples at these indices.

        They are a whole effective batch: augmentation then does not depend on the micro-batch.
        """

    @abstractmethod
    def part(self, batch: Batch, start: int, stop: int) -> Part:
        """Samples [start, stop) of a batch."""

    @abstractmethod
    def logits(self, part: Part) -> Tensor:
        """The model's logits [n, classes]."""

    @abstractmethod
    def validate(self) -> np.ndarray:
        """Logits of all validation samples. Leaves the model in eval mode."""


@final
class Whole(Feed):
    """Samples go through the whole model."""

    def __init__(self, model: Classifier, task: Task, augmentation: torch.Generator) -> None:
        self._model, self._task, self._augmentation = model, task, augmentation
        self.counts = {"boundary": None, "augmentation": task.params["augmentation"]}
        self.cost = {"boundary_s": None, "boundary_flops": None, "boundary_cached": None}

    def take(self, batch: np.ndarray) -> Batch:
        """Augmented and mixed as the recipe says."""
        task = self._task
        arrays = task.train.arrays(batch)
        order, sizes = _largest_first([task.preprocess.elements(array) for array in arrays])
        arrays, batch = [arrays[index] for index in order], batch[order]
        inputs = task.preprocess.batch(arrays, task.params, True, self._augmentation, task.compute.device)
        labels = _labels(task, batch)
        inputs, targets = task.preprocess.mix(inputs, labels, task.classes, task.params, self._augmentation)
        return Batch(indices=batch, sizes=sizes, inputs=_laid_out(inputs, task), targets=targets)

    def part(self, batch: Batch, start: int, stop: int) -> Part:
        """Their inputs."""
        return Part(inputs=rows(batch.inputs, start, stop))

    def logits(self, part: Part) -> Tensor:
        """By the whole model."""
        logits: Tensor = self._model(part.inputs)
        return logits

    def validate(self) -> np.ndarray:
        """By the whole model."""
        return predict(self._model, self._task.validation, self._task.preprocess, self._task.compute)


@final
class Cached(Feed):
    """What flows into a cut is read from memory, and only what is behind it is computed."""

    def __init__(self, cut: Cut, task: Task, example: Any, boundary: Boundary, cached: bool) -> None:
        """`cached`: whether an earlier trial computed the boundary."""
        self._cut, self._task, self._boundary = cut, task, boundary
        self._blank = skipping(rows(example, 0, 1))
        self.counts = {"boundary": cut.name, "augmentation": "cached"}
        self.cost = {"boundary_s": boundary.seconds, "boundary_flops": boundary.flops, "boundary_cached": cached}

    def take(self, batch: np.ndarray) -> Batch:
        """As they are, always."""
        order, sizes = _largest_first(self._boundary.train.sizes[batch])
        batch = batch[order]
        inputs = self._inputs(self._task.train, batch)
        return Batch(indices=batch, sizes=sizes, inputs=inputs, targets=_labels(self._task, batch))

    def part(self, batch: Batch, start: int, stop: int) -> Part:
        """What stands for their inputs, and their activation."""
        return self._part(self._boundary.train, batch.indices[start:stop], rows(batch.inputs, start, stop))

    def logits(self, part: Part) -> Tensor:
        """By what is behind the cut."""
        assert part.activation is not None
        return self._cut.logits(part.inputs, part.activation)

    def validate(self) -> np.ndarray:
        """By what is behind the cut."""
        task, flow = self._task, self._boundary.validation
        self._cut.model.eval()
        found = np.empty((len(flow.sizes), task.classes), np.float32)

        def work(chosen: np.ndarray) -> Tensor:
            with torch.inference_mode(), task.compute.autocast():
                return self.logits(self._part(flow, chosen, self._inputs(task.validation, chosen)))

        for chosen, logits in by_size(flow.sizes.tolist(), task.compute, work):
            found[chosen] = logits.float().cpu().numpy()
        return found

    def _part(self, flow: Flow, indices: np.ndarray, inputs: Any) -> Part:
        activation = flow.activations.batch(indices.tolist(), inputs, self._task.compute.device)
        return Part(inputs=inputs, activation=activation)

    def _inputs(self, prepared: Prepared, indices: np.ndarray) -> Any:
        """What the way to the cut would have been given: its shape is needed, and of texts the mask."""
        task = self._task
        if isinstance(self._blank, Tensor):
            return self._blank.expand(len(indices), *self._blank.shape[1:])
        arrays = prepared.arrays(indices)
        return task.preprocess.batch(arrays, {}, False, torch.Generator(), task.compute.device)


def open_feed(model: Classifier, task: Task, augmentation: torch.Generator) -> Feed:
    """The feed of a training run whose model is adapted: from the boundary where that changes nothing and pays."""
    found = _cached(model, task) if _may_be_cached(task) else None
    return found or Whole(model, task, augmentation)


def _may_be_cached(task: Task) -> bool:
    """Whether recipe and strategy ask for the same samples and the same frozen part in every epoch."""
    params = task.params
    varied = params["augmentation"] != "none" or params["mixup"] or params["cutmix"]
    return task.boundaries is not None and not varied and type(task.strategy).begin_epoch is TrainedStrategy.begin_epoch


def _cached(model: Classifier, task: Task) -> Cached | None:
    assert task.boundaries is not None
    inputs = _samples(task)
    cut = None if inputs is None else find_cut(model, inputs, task.params["batch_norm"], task.compute)
    if cut is None:
        return None
    filling = Filling(
        cut=cut,
        inputs=inputs,
        train=task.train,
        validation=task.validation,
        preprocess=task.preprocess,
        compute=task.compute,
        channels_last=task.params["channels_last"],
    )
    found = filling.boundary(task.boundaries)
    return None if found is None else Cached(cut, task, inputs, *found)


def _samples(task: Task) -> Any:
    """Inputs of a few training samples; None where training would draw others from them each time."""
    preprocess, device = task.preprocess, task.compute.device
    arrays = task.train.arrays(range(min(_LOOKED_AT, len(task.train.part.ids))))
    order, _ = _largest_first([preprocess.elements(array) for array in arrays])
    chosen = np.unique(np.concatenate([np.arange(len(order))[:2], np.arange(len(order))[-2:]]))
    picked = [arrays[index] for index in order[chosen]]
    labels, generator = _labels(task, order[chosen]), torch.Generator()
    before = generator.get_state()
    plain = preprocess.batch(picked, {}, False, generator, device)
    trained = preprocess.batch(picked, task.params, True, generator, device)
    mixed, targets = preprocess.mix(trained, labels, task.classes, task.params, generator)
    same = _equal(plain, mixed) and torch.equal(labels, targets) and torch.equal(before, generator.get_state())
    return _laid_out(plain, task) if same else None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _laid_out(inputs: Any, task: Task) -> Any:
    if task.params["channels_last"] and isinstance(inputs, Tensor) and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def _labels(task: Task, indices: np.ndarray) -> Tensor:
    return torch.from_numpy(task.train.part.labels[indices]).to(task.compute.device)


def _largest_first(sizes: Sequence[int] | np.ndarray) -> tuple[np.ndarray, list[int]]:
    order = np.argsort(-np.asarray(sizes), kind="stable")
    return order, [int(sizes[index]) for index in order]
