"""The optimiser of a trial: parameter groups, weight decay, the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from tlbench.spaces import Params
from tlbench.strategies import ParameterGroup


def build_optimiser(groups: Sequence[ParameterGroup], params: Params) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum 0.9 over the groups that train.

    Norms and biases, which are the parameters with at most one axis, are not decayed.
    """
    rate, decay = params["learning_rate"], params["weight_decay"]
    parts: list[dict[str, Any]] = []
    for group in groups:
        for decayed in (True, False):
            parameters = [parameter for parameter in group.parameters if (parameter.ndim > 1) is decayed]
            scaled = rate * group.learning_rate_scale
            if parameters:
                parts.append(
                    {"params": parameters, "lr": scaled, "peak_rate": scaled, "weight_decay": decay if decayed else 0.0}
                )
    if params["optimiser"] == "sgd":
        return torch.optim.SGD(parts, lr=rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(parts, lr=rate)


WARMED_EPOCHS = 10
"""Epochs of `wsd` of which the warm-up is a fraction, for it cannot depend on how many there will be: 0.1 is one epoch,
at `WHOLE_WARMUP_RATE` and above.

Pretrained convolutions need that much: MobileNetV1 0.5 on 800 images of CIFAR-10 has a test accuracy of 0.45 after one
epoch at 3e-4 where the rate rises in that epoch, 0.41 where it does in 0.3 of one; after nine at 1e-3, 0.57 and 0.48.
"""

WHOLE_WARMUP_RATE = 3e-4
"""The recipe's rate from which on the warm-up of `wsd` is as long as said; below it is in proportion shorter.

Adam's first steps are as long as the rate whatever the gradient, so that a low rate has less to be warmed up for (Ma
and Yarats 2021, "On the adequacy of untuned warmup for adaptive optimization"). At 1e-4 a MiniLM on 1,000 sentences has
a test accuracy of 0.76 after one epoch where the rate rises in that epoch and 0.81 where it does in 0.3 of one; after
three epochs it has 0.83 either way, and MobileNetV2 at 1e-4 has 0.64 on the images. Heads learned ten times as fast.
"""


@final
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves: a factor on the peak rate for every step."""

    kind: str
    """One of `tlbench.spaces.SCHEDULES`."""

    warmup: float
    """Fraction of the steps in which the rate rises: of all before a cosine, of ten epochs' or fewer before `wsd`."""

    peak_rate: float
    """The recipe's learning rate: a low one of `wsd` rises sooner."""

    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """All of them."""
        return self.steps_per_epoch * self.epochs

    @property
    def decay_begins(self) -> int | None:
        """The step from which on the rate of `wsd` falls; nothing before it depends on how many steps there are.

        The last third of all steps, one at least. None for a cosine, which depends on them from the first step on.
        """
        return self.steps - max(1, round(self.steps / 3)) if self.kind == "wsd" else None

    def factor(self, step: int) -> float:
        """In (0, 1], for `step` (0-based).

        `cosine`: a linear warm-up, then half a cosine towards 0 (SGDR without restarts, Loshchilov and Hutter 2017).
        `wsd`: warm-up, stable, decay (MiniCPM, Hu et al. 2024); the decay is `1 - sqrt(part of it that is over)`, the
        best of the shapes compared by Haegele et al. (2024, "Scaling laws and compute-optimal training beyond fixed
        training durations").
        """
        begins, rising = self.decay_begins, self._rising
        if begins is not None:
            rise = min(1.0, (step + 1) / (rising + 1))
            return rise * (1.0 - math.sqrt(max(0, step - begins) / (self.steps - begins)))
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))

    @property
    def _rising(self) -> int:
        """Steps of the warm-up."""
        if self.decay_begins is None:
            return round(self.steps * self.warmup)
        share = min(1.0, self.peak_rate / WHOLE_WARMUP_RATE)
        return round(self.steps_per_epoch * WARMED_EPOCHS * self.warmup * share)


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_rate"] * factor


def clip(parameters: Sequence[nn.Parameter], norm: float | None) -> None:
    """Scale the gradients so that their joint norm is at most `norm`; None leaves them."""
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
