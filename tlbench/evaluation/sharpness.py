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

TOLERANCE = 1e-5
"""Change of a factor after which it is not changed again: Newton's steps square what is left."""


def sharpest(predictions: Tensor, labels: Tensor) -> Tensor:
    """The factors [m] on float64 `predictions` [m, n, classes] that minimise their cross-entropy within `LOGIT_RANGE`.

    An inverse temperature (Guo et al. 2017); 1 where all classes are predicted alike. The cross-entropy is convex in
    the factor: Newton's method, kept within the bracket that the slopes' signs leave.
    """
    step = max(MOST_ELEMENTS // max(predictions[0].numel(), 1), 1)
    parts = (predictions[start : start + step] for start in range(0, len(predictions), step))
    return torch.cat([_sharpest(part.transpose(1, 2).contiguous(), labels) for part in parts])


def _sharpest(values: Tensor, labels: Tensor) -> Tensor:
    """Of values [m, classes, n], which lie so that sums over classes are fast."""
    spread = (values - values.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    factors = torch.ones_like(spread)
    which = spread.nonzero()[:, 0]
    low, high = (bound / spread[which] for bound in LOGIT_RANGE)
    least, most, factor = low, high, (low * high).sqrt()
    for _ in range(MOST_STEPS):
        slope, curvature = _slopes(values[which], labels, factor)
        low, high = low.where(slope > 0, factor), high.where(slope <= 0, factor)
        step = factor - slope / curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
        # Beyond a bound that nobody has looked at, it may be the answer itself.
        at_bound = ((step >= most) & (high == most)) | ((step <= least) & (low == least))
        inside = (step > low) & (step < high)
        new = step.where(inside, (low * high).sqrt()).where(~at_bound, step.clamp(least, most))
        done = ((new / factor - 1).abs() <= TOLERANCE) | (high <= low)
        factors[which] = new
        if done.all():
            break
        left = ~done
        which, factor = which[left], new[left]
        low, high, least, most = low[left], high[left], least[left], most[left]
    return factors


def _slopes(values: Tensor, labels: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of the mean cross-entropy by the factor [m]."""
    own = values[:, labels, torch.arange(len(labels), device=labels.device)]
    logits = values * factors[:, None, None]
    weights = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    total = weights.sum(dim=1)
    weighted = weights.mul_(values)
    mean = weighted.sum(dim=1) / total
    square = weighted.mul_(values).sum(dim=1) / total
    return (mean - own).mean(dim=1), (square - mean.square()).mean(dim=1)
