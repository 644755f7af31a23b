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
"""Ends of a bracket, one over the other, from which on Newton's method is used. Where nearly all samples are told apart
the slope falls like an exponential, along which it creeps: from the middle it took 37 steps where this takes 3."""

TOLERANCE = 1e-5
"""Change of a factor after which it is not changed again: Newton's steps square what is left."""


def sharpest(predictions: Tensor, labels: Tensor) -> Tensor:
    """The factors [m] on float64 `predictions` [m, n, classes] that minimise their cross-entropy within `LOGIT_RANGE`.

    An inverse temperature (Guo et al. 2017); 1 where all classes are predicted alike. The cross-entropy is convex in
    the factor: bisection, and within the bracket that the slopes' signs leave Newton's method as soon as it is narrow.
    """
    step = max(MOST_ELEMENTS // max(predictions[0].numel(), 1), 1)
    parts = (predictions[start : start + step] for start in range(0, len(predictions), step))
    return torch.cat([_sharpest(part.transpose(1, 2).contiguous(), labels) for part in parts])


def _sharpest(values: Tensor, labels: Tensor) -> Tensor:
    """Of values [m, classes, n], which lie so that sums over classes are fast."""
    spread = (values - values.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    own = values[:, labels, torch.arange(len(labels), device=labels.device)].mean(dim=1)
    factors = torch.ones_like(spread)
    which = spread.nonzero()[:, 0]
    least, most = (bound / spread[which] for bound in LOGIT_RANGE)
    low, high, factor = least, most, most  # where the classes are told apart that is the answer
    for _ in range(MOST_STEPS):
        slope, curvature = _slopes(values[which], own[which], factor)
        low, high = low.where(slope > 0, factor), high.where(slope <= 0, factor)
        step = factor - slope / curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
        near = high <= NEAR * low
        lowest = near & (step <= low) & (low == least)  # nobody has looked there: it may be the answer itself
        new = step.where(near & (step > low) & (step < high), (low * high).sqrt()).where(~lowest, least)
        done = ((new / factor - 1).abs() <= TOLERANCE) | (high <= low)
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
