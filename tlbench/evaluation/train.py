"""Training: one model, epoch by epoch, the best epoch kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tlbench.benchmark import better
from tlbench.components import ParameterGroup, Preprocess, TrainedStrategy
from tlbench.errors import TrialFailure
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute, is_out_of_memory
from tlbench.evaluation.freezing import FrozenState, apply_groups, train_mode, trains_statistics
from tlbench.evaluation.model import Classifier, rows
from tlbench.evaluation.optimiser import build_optimiser, clip, set_rate
from tlbench.evaluation.predict import predict
from tlbench.evaluation.scores import score
from tlbench.measurement import Epoch
from tlbench.seeds import derive_seed
from tlbench.spaces import Params

Report = Callable[[int, float], bool]
"""Told (epoch, score) after each epoch; answers whether to stop: the trial is pruned."""


@final
@dataclass(frozen=True, kw_only=True)
class Task:
    """What a training run is about."""

    strategy: TrainedStrategy
    params: Params
    preprocess: Preprocess
    train: Prepared
    validation: Prepared
    chooses: np.ndarray
    """bool over validation: the samples whose score chooses the best epoch."""

    metric: str
    classes: int
    epochs: int
    seed: int
    compute: Compute
    report: Report


@final
@dataclass(kw_only=True)
class Run:
    """What came of it. The model is left in the state of its best epoch."""

    curve: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    validation_logits: np.ndarray | None = None
    pruned: bool = False
    frozen: dict[str, bool | int] = field(default_factory=dict)
    steps: int = 0
    micro_batch: int = 0
    train_s: float = 0.0
    validation_s: float = 0.0


def train(model: Classifier, task: Task) -> Run:
    """Adapt and train `model` in place. Raises `TrialFailure` of kind `diverged` when the loss is not finite."""
    training = _Training(model, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(task.seed, "dropout"))
        training.run_epochs()
    training.restore_best()
    return training.result


class _Training:
    """The state of one training run."""

    def __init__(self, model: Classifier, task: Task) -> None:
        self.model, self.task, self.result = model, task, Run()
        apply_groups(model, groups := task.strategy.adapt(model, task.params))
        model.to(task.compute.device)
        if task.params["channels_last"]:
            model.to(memory_format=torch.channels_last)
        self._train_with(groups)
        self.frozen = FrozenState(model, task.params["batch_norm"])
        self.order = torch.Generator().manual_seed(derive_seed(task.seed, "order"))
        self.augmentation = torch.Generator().manual_seed(derive_seed(task.seed, "augmentation"))
        self.micro_batch = self._micro_batch()
        self.best_score: float | None = None
        self.best_state: dict[str, Tensor] = {}

    def run_epochs(self) -> None:
        """Train until the epochs are done, patience is spent or the trial is pruned."""
        task, result, start = self.task, self.result, time.monotonic()
        for epoch in range(task.epochs):
            groups = task.strategy.begin_epoch(self.model, task.params, epoch, task.epochs)
            if groups is not None:
                apply_groups(self.model, groups)
                self._train_with(groups)
            loss = self._timed("train_s", partial(self._train_epoch, epoch))
            logits = self._timed("validation_s", self._validate)
            value = float(score(logits[task.chooses], task.validation.part.labels[task.chooses])[task.metric])
            elapsed = time.monotonic() - start
            result.curve.append(Epoch(epoch=epoch + 1, train_loss=loss, search_score=value, elapsed_s=elapsed))
            self._keep_if_best(epoch + 1, value, logits)
            if task.report(epoch + 1, value) and epoch + 1 < task.epochs:
                result.pruned = True
                break
            patience = task.params["patience"]
            if patience is not None and epoch + 1 - result.best_epoch >= patience:
                break
        result.frozen = self.frozen.changes()
        result.micro_batch = self.micro_batch

    def restore_best(self) -> None:
        """Put the weights of the best epoch back."""
        self.model.load_state_dict(self.best_state)
        self.best_state = {}

    def _train_with(self, groups: Sequence[ParameterGroup]) -> None:
        self.optimiser = build_optimiser(groups, self.task.params)
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.scaler = torch.amp.GradScaler(
            self.task.compute.device.type, enabled=self.task.compute.dtype == torch.float16
        )

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        value = work()
        self.task.compute.synchronise()
        setattr(self.result, name, getattr(self.result, name) + time.monotonic() - start)
        return value

    def _micro_batch(self) -> int:
        """The recipe's, else the largest divisor of the batch size that the fixed rule allows.

        Where batch-norm statistics train the micro-batch changes the result: it is the whole batch unless given.
        """
        batch, given = int(self.task.params["batch_size"]), self.task.params["micro_batch"]
        if given is not None:
            return min(int(given), batch)
        if trains_statistics(self.model, self.task.params["batch_norm"]):
            return batch
        most = self.task.compute.samples_that_fit(self.task.preprocess.example().size)
        return max(divisor for divisor in range(1, batch + 1) if batch % divisor == 0 and (divisor <= most))

    def _batches(self) -> Iterator[np.ndarray]:
        order = torch.randperm(len(self.task.train.part.ids), generator=self.order).numpy()
        size = int(self.task.params["batch_size"])
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if len(batches) > 1 and len(batches[-1]) == 1:
            # Batch statistics of one sample do not exist; the sample joins the batch before.
            batches[-2:] = [np.concatenate(batches[-2:])]
        return iter(batches)

    def _train_epoch(self, epoch: int) -> float:
        batches = list(self._batches())
        steps, total, seen = len(batches) * self.task.epochs, 0.0, 0
        train_mode(self.model, self.task.params["batch_norm"])
        for position, batch in enumerate(batches):
            set_rate(self.optimiser, epoch * len(batches) + position, steps, self.task.params["warmup"])
            total += self._step(batch) * len(batch)
            seen += len(batch)
        self.result.steps += len(batches)
        return total / seen

    def _step(self, batch: np.ndarray) -> float:
        inputs, targets = self._inputs(batch)
        while True:
            try:
                loss = self._accumulate(inputs, targets)
                break
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
        if not np.isfinite(loss):
            raise TrialFailure("diverged", f"the training loss became {loss} after {self.result.steps} steps")
        self.scaler.unscale_(self.optimiser)
        clip(self.parameters, self.task.params["clip_norm"])
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _inputs(self, batch: np.ndarray) -> tuple[Any, Tensor]:
        """The whole effective batch: augmentation then does not depend on the micro-batch."""
        task = self.task
        arrays = task.train.arrays(batch)
        inputs = task.preprocess.batch(arrays, task.params, True, self.augmentation, task.compute.device)
        labels = torch.from_numpy(task.train.part.labels[batch]).to(task.compute.device)
        inputs, targets = task.preprocess.mix(inputs, labels, task.classes, task.params, self.augmentation)
        if task.params["channels_last"] and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    def _accumulate(self, inputs: Any, targets: Tensor) -> float:
        """Gradients of the mean loss over the batch, micro-batch by micro-batch; returns that mean."""
        self.optimiser.zero_grad(set_to_none=True)
        size, total = len(targets), 0.0
        for start in range(0, size, self.micro_batch):
            stop = min(size, start + self.micro_batch)
            with self.task.compute.autocast():
                logits = self.model(rows(inputs, start, stop))
                smoothing = self.task.params["label_smoothing"]
                loss = functional.cross_entropy(logits.float(), targets[start:stop], label_smoothing=smoothing)
            loss = loss * ((stop - start) / size)
            if start == 0:
                penalty = self.task.strategy.penalty(self.model, self.task.params)
                loss = loss if penalty is None else loss + penalty
            torch.autograd.backward(self.scaler.scale(loss))
            total += float(loss.detach())
        return total

    def _halve(self, error: BaseException) -> None:
        """Go on with half the micro-batch after out-of-memory, where that leaves the result as it is."""
        if not is_out_of_memory(error):
            raise error
        fixed = trains_statistics(self.model, self.task.params["batch_norm"])
        if fixed or self.micro_batch == 1:
            raise TrialFailure("oom", f"no memory for a micro-batch of {self.micro_batch}: {error}") from error
        self.micro_batch = max(1, self.micro_batch // 2)
        self.optimiser.zero_grad(set_to_none=True)
        if self.task.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def _validate(self) -> np.ndarray:
        return predict(self.model, self.task.validation, self.task.preprocess, self.task.compute)

    def _keep_if_best(self, epoch: int, value: float, logits: np.ndarray) -> None:
        if self.best_score is None or better(value, self.best_score, self.task.metric):
            self.best_score, self.result.best_epoch, self.result.validation_logits = value, epoch, logits
            self.best_state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
