"""Training: one model, epoch by epoch, the best epoch kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tlbench.errors import TrialFailure
from tlbench.evaluation.averaging import BestEpochs, Checkpoint, State
from tlbench.evaluation.complexity import Flops
from tlbench.evaluation.device import is_out_of_memory
from tlbench.evaluation.feed import Batch, Part, open_feed
from tlbench.evaluation.freezing import FrozenState, apply_groups, train_mode, trains_statistics
from tlbench.evaluation.model import Classifier, seeded
from tlbench.evaluation.optimiser import Schedule, build_optimiser, clip, set_rate
from tlbench.evaluation.order import Order
from tlbench.evaluation.run import Run, Task
from tlbench.evaluation.scores import score
from tlbench.evaluation.snapshot import Moving
from tlbench.measurement import Epoch
from tlbench.seeds import derive_seed
from tlbench.strategies import ParameterGroup

_CARRIED = ("steps", "samples_seen", "micro_batch", "train_s", "first_step_s", "first_step_samples")
"""What of a `Run` goes on where another run was paused."""


def train(model: Classifier, task: Task) -> Run:
    """Adapt and train `model` in place. Raises `TrialFailure` of kind `diverged` when the loss is not finite."""
    training = _Training(model, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(task.seed, "dropout"))
        training.run_epochs()
    training.finish()
    return training.result


class _Training:
    """The state of one training run."""

    def __init__(self, model: Classifier, task: Task) -> None:
        self.model, self.task, self.result, self.flops = model, task, Run(), Flops()
        self.scaler = torch.amp.GradScaler(task.compute.device.type, enabled=task.compute.dtype == torch.float16)
        with seeded(task.seed, "adapt"):
            groups = task.strategy.adapt(model, task.params)
        apply_groups(model, groups)
        model.to(task.compute.device)
        if task.params["channels_last"]:
            model.to(memory_format=torch.channels_last)
        self._train_with(groups, {})
        self.frozen = FrozenState(model, task.params["batch_norm"])
        self.order = Order(len(task.train.part), int(task.params["batch_size"]), task.seed)
        self.schedule = Schedule(
            kind=task.params["schedule"],
            warmup=task.params["warmup"],
            peak_rate=task.params["learning_rate"],
            steps_per_epoch=self.order.batches,
            epochs=task.epochs,
        )
        self.augmentation = torch.Generator().manual_seed(derive_seed(task.seed, "augmentation"))
        self.feed = open_feed(model, task, self.augmentation)
        self.result.feed_counts, self.result.feed_cost = self.feed.counts, self.feed.cost
        self.most_rows: int | None = None
        self.best = BestEpochs(task.params["average"], task.metric)
        self.start, self.warm = time.monotonic(), False
        self.loss, self.seen = 0.0, 0  # of this epoch: the sum over samples

    def run_epochs(self) -> None:
        """Train until the epochs are done, patience is spent or the trial is pruned."""
        task, result = self.task, self.result
        self._resume()
        for epoch, batches in zip(range(task.epochs), self.order.epochs(), strict=False):
            is_last = epoch + 1 == task.epochs
            if (epoch + 1) * len(batches) <= result.steps and not is_last:
                continue  # another run's
            groups = task.strategy.begin_epoch(self.model, task.params, epoch, task.epochs)
            if groups is not None:
                apply_groups(self.model, groups)
                self._train_with(groups, self.optimiser.state)
            self._train_epoch(epoch, batches)
            if (is_last or self.schedule.decay_begins is None) and self._measure(epoch + 1):
                break
        result.frozen, result.flops = self.frozen.changes(), self.flops.total

    def finish(self) -> None:
        """Put the weights of the best epoch back, or the average of the best ones."""
        best: Checkpoint = self.best.kept[0]
        if len(self.best.kept) > 1 and not self.result.pruned:
            best = self._timed("validation_s", partial(self.best.averaged, self._evaluate))
        self.model.load_state_dict(best.state)
        self.result.epochs, self.result.validation_logits = best.epochs, best.logits

    def _measure(self, epoch: int) -> bool:
        """Validate after `epoch` (1 for the first) and remember it; whether training ends here."""
        result, patience = self.result, self.task.params["patience"]
        value, logits = self._timed("validation_s", self._validate)
        elapsed = time.monotonic() - self.start
        loss = self.loss / self.seen
        result.curve.append(Epoch(epoch=epoch, train_loss=loss, search_score=value, elapsed_s=elapsed))
        self.best.add(epoch, value, logits, self._state)
        result.pruned = self.task.report(epoch, value) and epoch < self.task.epochs
        return result.pruned or (patience is not None and epoch - self.best.kept[0].epochs[0] >= patience)

    def _resume(self) -> None:
        """Go on from the latest state that another run of this trajectory left: at its end, or before the decay."""
        states, begins = self.task.states, self.schedule.decay_begins
        if states is None or begins is None:
            return
        for snapshot in chain(states.at_end(self._last_step), states.before(begins)):
            counters = snapshot.counters
            if counters["boundary"] == self._boundary and self._moving.restore(snapshot):
                for name in _CARRIED:
                    setattr(self.result, name, counters[name])
                self.result.steps_resumed = self.result.steps
                self.start -= counters["elapsed_s"]
                self.loss, self.seen, self.most_rows = counters["loss"], counters["seen"], counters["most_rows"]
                self.flops.go_on(*counters["flops"])
                return

    @property
    def _last_step(self) -> int:
        return self.order.batches * self.task.epochs

    def _leave(self, *, ended: bool) -> None:
        """Leave the state to other runs of this trajectory: undecayed to longer ones, the one of the end to equals."""
        states = self.task.states
        if states is None or not states.writes:
            return
        counters = {
            **{name: getattr(self.result, name) for name in _CARRIED},
            "elapsed_s": time.monotonic() - self.start,
            "loss": self.loss,
            "seen": self.seen,
            "most_rows": self.most_rows,
            "flops": self.flops.so_far,
            "boundary": self._boundary,
        }
        states.put(self.result.steps, self._moving.snapshot(counters, ended=ended), ended=ended)

    @property
    def _boundary(self) -> str | None:
        """Where what is trained on was computed once: it decides the last bits."""
        name: str | None = self.feed.counts["boundary"]
        return name

    @property
    def _moving(self) -> Moving:
        return Moving(
            model=self.model,
            optimiser=self.optimiser,
            scaler=self.scaler,
            frozen=self.frozen,
            augmentation=self.augmentation,
            device=self.task.compute.device,
        )

    def _train_with(self, groups: Sequence[ParameterGroup], before: Mapping[Tensor, Any]) -> None:
        """Train `groups` from now on; what trained `before` goes on with the moments it has."""
        self.flops.restart()  # the backward pass reaches as far as something trains
        self.optimiser = build_optimiser(groups, self.task.params)
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        for parameter in self.parameters:
            if parameter in before:
                self.optimiser.state[parameter] = before[parameter]

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        value = work()
        self.task.compute.synchronise()
        setattr(self.result, name, getattr(self.result, name) + time.monotonic() - start)
        return value

    @property
    def _trains_statistics(self) -> bool:
        return trains_statistics(self.model, self.task.params["batch_norm"])

    def _rows_at_once(self, sizes: Sequence[int]) -> int:
        """The recipe's micro-batch, else the largest divisor of the batch size that the fixed rule allows.

        Where batch-norm statistics train the micro-batch changes the result: it is the whole batch unless given, also
        where a last sample joined it, and never a single sample, of which batch statistics do not exist.
        """
        batch, given = int(self.task.params["batch_size"]), self.task.params["micro_batch"]
        if given is not None:
            rows = min(max(int(given), 2 if self._trains_statistics else 1), batch)
        elif self._trains_statistics:
            rows = max(batch, len(sizes))
        else:
            most = self.task.compute.samples_that_fit(max(sizes))
            rows = max(divisor for divisor in range(1, batch + 1) if batch % divisor == 0 and divisor <= most)
        return rows if self.most_rows is None else min(rows, self.most_rows)

    def _train_epoch(self, epoch: int, batches: Sequence[np.ndarray]) -> None:
        """All of an epoch, or the rest of one that another run began; halts where the decay begins, and in the end."""
        before, halt = epoch * len(batches), self.schedule.decay_begins
        train_mode(self.model, self.task.params["batch_norm"])
        if self.result.steps == before:
            self.loss, self.seen = 0.0, 0
        for stop in (halt, before + len(batches)):
            done = self.result.steps - before
            if stop is None or not done < stop - before <= len(batches):
                continue
            self._timed("train_s", partial(self._train_batches, batches[done : stop - before]))
            if halt is not None and stop in (halt, self._last_step):
                self._leave(ended=stop == self._last_step)

    def _train_batches(self, batches: Sequence[np.ndarray]) -> None:
        for batch in batches:
            set_rate(self.optimiser, self.schedule.factor(self.result.steps))
            self.loss += self._first_or_other_step(batch) * len(batch)
            self.seen += len(batch)
            self.result.steps += 1
            self.result.samples_seen += len(batch)

    def _first_or_other_step(self, batch: np.ndarray) -> float:
        """A step; the first of all is timed by itself."""
        if self.warm:
            return self._step(batch)
        self.warm = True
        self.result.first_step_samples += len(batch)
        loss: float = self._timed("first_step_s", partial(self._step, batch))
        return loss

    def _step(self, indices: np.ndarray) -> float:
        batch = self.feed.take(indices)
        while True:
            rows_at_once = self._rows_at_once(batch.sizes)
            try:
                loss = self._accumulate(batch, rows_at_once)
                break
            except (RuntimeError, MemoryError) as error:
                self._halve(rows_at_once, error)
        self.result.micro_batch = min(self.result.micro_batch or rows_at_once, rows_at_once)
        if not np.isfinite(loss):
            raise TrialFailure("diverged", f"the training loss became {loss} after {self.result.steps} steps")
        self.scaler.unscale_(self.optimiser)
        clip(self.parameters, self.task.params["clip_norm"])
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _accumulate(self, batch: Batch, rows_at_once: int) -> float:
        """Gradients of the mean loss over the batch, micro-batch by micro-batch; returns that mean."""
        self.model.zero_grad(set_to_none=True)
        size, total = len(batch.targets), 0.0
        starts = list(range(0, size, rows_at_once))
        if len(starts) > 1 and size - starts[-1] == 1 and self._trains_statistics:
            del starts[-1]  # the lone sample goes with those before it
        for start, stop in pairwise([*starts, size]):
            part = self.feed.part(batch, start, stop)
            with self.flops.over(part.inputs):
                loss = self._loss(part, batch.targets[start:stop]) * ((stop - start) / size)
                if start == 0:
                    penalty = self.task.strategy.penalty(self.model, self.task.params)
                    loss = loss if penalty is None else loss + penalty
                torch.autograd.backward(self.scaler.scale(loss))
            total += float(loss.detach())
        return total

    def _loss(self, part: Part, targets: Tensor) -> Tensor:
        with self.task.compute.autocast():
            logits = self.feed.logits(part)
            smoothing = self.task.params["label_smoothing"]
            return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def _halve(self, rows_at_once: int, error: BaseException) -> None:
        """Go on with half the micro-batch after out-of-memory, where that leaves the result as it is."""
        if not is_out_of_memory(error):
            raise error
        if rows_at_once == 1 or self._trains_statistics:
            raise TrialFailure("oom", f"no memory for a micro-batch of {rows_at_once}: {error}") from error
        self.most_rows = rows_at_once // 2
        self.model.zero_grad(set_to_none=True)
        if self.task.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def _validate(self) -> tuple[float, np.ndarray]:
        """The score that chooses the epoch, and the logits of all validation samples."""
        task, logits = self.task, self.feed.validate()
        labels = task.validation.part.labels[task.chooses]
        return float(score(logits[task.chooses], labels)[task.metric]), logits

    def _evaluate(self, state: State) -> tuple[float, np.ndarray]:
        self.model.load_state_dict(state)
        return self._validate()

    def _state(self) -> State:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
