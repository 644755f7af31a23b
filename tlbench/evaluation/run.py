"""Runs of training: what one is about, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from tlbench.components import Preprocess
from tlbench.evaluation.boundary import Boundaries
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.states import States
from tlbench.measurement import Epoch
from tlbench.spaces import Params
from tlbench.strategies import TrainedStrategy

Report = Callable[[int, float], bool]
"""Told (epoch, score) after each validation; answers whether to stop: the trial is pruned."""


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
    states: States | None = None
    """Where trainings of the same trajectory are left: before the rate of the schedule `wsd` decays, and in the end."""

    boundaries: Boundaries | None = None
    """Where activations at the freeze boundary are kept; None: every step computes them."""


@final
@dataclass(kw_only=True)
class Run:
    """What came of it. The model is left in the state of its best epoch, or of the average of its best ones.

    Steps, samples, FLOPs and seconds of training are those of all that led to the model: what was resumed brings its
    own, so that it does not look free.
    """

    curve: list[Epoch] = field(default_factory=list)
    """A point per validation: each epoch's of a cosine, the last of `wsd`. What is not decayed yet is no model that
    anybody would ship, and a run that was resumed has the same curve as one from the start."""

    epochs: tuple[int, ...] = ()
    """The best epoch; several where their weights were averaged, the best first."""

    validation_logits: np.ndarray | None = None
    pruned: bool = False
    frozen: dict[str, bool | int] = field(default_factory=dict)
    steps: int = 0
    steps_resumed: int = 0
    """Those of them that another run took, before it was paused or ended."""

    micro_batch: int = 0
    """The smallest that was used."""

    train_s: float = 0.0
    first_step_s: float = 0.0
    """Part of `train_s`: what is slow only once, such as choosing kernels, happens in it. Each run has one."""

    validation_s: float = 0.0
    samples_seen: int = 0
    first_step_samples: int = 0
    flops: int | None = None
    """Of forward and backward passes; what the optimiser does is element-wise."""

    feed_counts: Mapping[str, Any] = field(default_factory=dict)
    feed_cost: Mapping[str, Any] = field(default_factory=dict)
    """Of the boundary that it trained on, as `tlbench.evaluation.feed.Feed` tells them."""

    @property
    def samples_per_s(self) -> float | None:
        """Training speed without the first step; None where there was no other."""
        samples, seconds = self.samples_seen - self.first_step_samples, self.train_s - self.first_step_s
        return samples / seconds if samples and seconds > 0 else None

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation score."""
        return self.epochs[0]
