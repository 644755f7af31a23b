"""Sharpness: the factor on regression values that turns them into logits."""

from __future__ import annotations

import torch
from torch import Tensor

LOGIT_RANGE = (1e-2, 1e2)
"""Bounds on the root mean square of the logits, so that separable classes get finite ones."""

MOST_ELEMENTS = 2**17
"""Values in work at once: 1 MiB, which a core's cache holds, takes a third of the time of 32 MiB."""

MOST_STEPS = 60
"""Bisection alone needs no more of them."""

NEAR = 2.0
"""Ends of a bracket, one over the other, from which on Newton's method is used in any case. Where nearly all samples
are told apart the slope falls like an exponential, along which it creeps: from the middle it took 37 steps, so 3."""

BISECTED, STEPPED = 1e-6, 1e-3
"""Change of a factor by bisection, and by Newton's method, whose steps square what is left, after which it stays."""

FEW = 8
"""Factors that are sought one by one: of more, half begin between two others."""

TRUSTED = 3
"""Newton's steps that are taken from such a start whatever the bracket."""


def sharpest(predictions: Tensor, labels: Tensor) -> Tensor:
    """The factors [m] on float64 `predictions` [m, n, classes] that minimise their cross-entropy within `LOGIT_RANGE`.

    An inverse temperature (Guo et al. 2017); 1 where all classes are predicted alike. The cross-entropy is convex in
    the factor: bisection, and within the bracket that the slopes' signs leave Newton's method as soon as it is narrow.
    Where neighbours resemble each other, as along a path of penalties, it is fastest: most begin between two others.
    """
    return _along(predictions.transpose(1, 2), labels)


def _along(values: Tensor, labels: Tensor) -> Tensor:
    """Of values [m, classes, n]: every other one, then those in between."""
    if len(values) <= FEW:
        return _in_parts(values, labels)
    factors = values.new_empty(len(values))
    factors[::2] = _along(values[::2], labels)
    before, after = factors[:-1:2], factors[2::2]
    between = before.clone()
    between[: len(after)] = (before[: len(after)] * after).sqrt()
    factors[1::2] = _in_parts(values[1::2], labels, between)
    return factors


def _in_parts(values: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
    size = max(MOST_ELEMENTS // max(values[0].numel(), 1), 1)
    parts = [slice(first, first + size) for first in range(0, len(values), size)]
    found = [_sharpest(values[part].contiguous(), labels, None if start is None else start[part]) for part in parts]
    return torch.cat(found)


def _sharpest(values: Tensor, labels: Tensor, start: Tensor | None) -> Tensor:
    """Of values [m, classes, n], which lie so that sums over classes are fast; from a start if there is one."""
    spread = (values - values.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    own = values[:, labels, torch.arange(len(labels), device=labels.device)].mean(dim=1)
    factors = torch.ones_like(spread)
    which = spread.nonzero()[:, 0]
    least, most = (bound / spread[which] for bound in LOGIT_RANGE)
    low, high = least, most
    factor = most  # where the classes are told apart that is the answer
    if start is not None:
        factor = start[which].clamp(least, most)
        factor = factor.where(factor.isfinite(), most)  # not finite: beside predictions that are not
    for taken in range(MOST_STEPS):
        slope, curvature = _slopes(values[which], own[which], factor)
        low, high = low.where(slope > 0, factor), high.where(slope <= 0, factor)
        step = factor - slope / curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
        near = high <= NEAR * low
        newton = (near | (start is not None and taken < TRUSTED)) & (step > low) & (step < high)
        lowest = near & (step <= low) & (low == least)  # nobody has looked there: it may be the answer itself
        new = step.where(newton, (low * high).sqrt()).where(~lowest, least)
        tolerance = torch.where(newton, STEPPED, BISECTED)
        done = ((new / factor - 1).abs() <= tolerance) | (high <= low)
        factors[which] = new
        if done.all():
            break
        left = ~done
        which, factor = which[left], new[left]
        low, high, least = low[left], high[left], least[left]
    return factors


def _slopes(values: Tensor, own: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of the mean cross-entropy by the factor [m]; `own`: means of the labels' values."""
    logits = values * factors[:, None, None]
    weights = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    total = weights.sum(dim=1)
    weighted = weights.mul_(values)
    mean = weighted.sum(dim=1) / total
    square = weighted.mul_(values).sum(dim=1) / total
    return mean.mean(dim=1) - own, (square - mean.square()).mean(dim=1)
