"""The optimiser of a trial: parameter groups, weight decay, the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


def set_rate(optimiser: torch.optim.Optimizer, step: int, steps: int, warmup: float) -> None:
    """Set every group's rate for `step` (0-based, of `steps`): linear warm-up, then a half cosine towards 0."""
    factor = rate_factor(step, steps, warmup)
    for group in optimiser.param_groups:
        group["lr"] = group["peak_rate"] * factor


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak rate in (0, 1]: SGDR's cosine (Loshchilov and Hutter 2017) without restarts."""
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def clip(parameters: Sequence[nn.Parameter], norm: float | None) -> None:
    """Scale the gradients so that their joint norm is at most `norm`; None leaves them."""
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
