"""Multinomial logistic regression with every L2 penalty at once.

A path is followed from the strongest penalty to the weakest in steps of about a decade, and all others start between
their solved neighbours, in lockstep. The spectrum of the features preconditions all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from tlbench.evaluation.lockstep import State, minimise
from tlbench.evaluation.spectrum import Directions, Spectrum

TOLERANCE = 1e-5
"""Where a regression is done: the estimated rest of the descent, as a share of the objective and of its fall so far."""

STEP = 10.0
"""From one penalty of the path to the next, where one is asked for that is no further. The weights go with the
logarithm of the penalty nearly on a straight line, as those of separated classes do in the limit (Soudry et al. 2018,
"The Implicit Bias of Gradient Descent on Separable Data"): along it nine penalties from 10 to 1e-6 took 115
evaluations on a MobileNet's features, where the last alone takes 130 from nothing."""

ALIGNED = 16
"""Columns of the basis are a multiple of it, some of them 0: rows that start anywhere in a cache line cost a third."""

MOST_ELEMENTS = 2**24
"""Logits computed at once: 64 MiB in float32."""

ABSENT = -1e4
"""Logit of a class without a sample: its probability is 0, and every number format holds it."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MultinomialPath:
    """Solutions for standardised features, in float64."""

    weights: Tensor
    """[penalties, classes, width]."""

    intercepts: Tensor
    """[penalties, classes], of mean 0 over the classes that occur."""

    objectives: Tensor
    """What was minimised, at the solutions [penalties]."""

    rests: Tensor
    """How far above the minimum the objectives are estimated to be [penalties]."""

    evaluations: int
    """Of a single regression's objective and gradient, all together."""


@dataclass(kw_only=True, eq=False)
class _Regressions:
    """Mean cross-entropy + penalty / 2 * |W|^2 of many W, on features in their eigenvectors with a column of ones."""

    basis: Tensor
    """The features in k directions, columns of 0 up to a multiple of `ALIGNED`, one of ones [n, width]."""

    variances: Tensor
    """Of the basis's columns around 0, 1 of those that are 0 [width]."""

    penalised: Tensor
    """1 for a weight, 0 for the intercept [width]."""

    labels: Tensor
    classes: int
    evaluations: int = 0

    @classmethod
    def of(cls, directions: Directions, labels: Tensor, classes: int, dtype: torch.dtype) -> _Regressions:
        samples, count = directions.basis.shape
        width = -(-(count + 1) // ALIGNED) * ALIGNED
        basis = directions.basis.new_zeros(samples, width, dtype=dtype)
        variances, penalised = basis.new_ones(width), basis.new_ones(width)
        basis[:, :count], variances[:count] = directions.basis, directions.values / samples
        basis[:, -1], penalised[-1] = 1, 0
        return cls(basis=basis, variances=variances, penalised=penalised, labels=labels, classes=classes)

    def null(self, penalties: Tensor) -> State:
        """Weights 0 and intercepts that give every class its share."""
        logarithms = (self.labels.bincount(minlength=self.classes).double() / len(self.labels)).log()
        weights = self.basis.new_zeros(len(penalties), self.classes, self.basis.shape[1])
        weights[:, :, -1] = logarithms - logarithms.mean()
        return self.at(weights, penalties)

    def at(self, weights: Tensor, penalties: Tensor) -> State:
        """Objective and gradient, of some samples after others where all at once would take too much memory."""
        self.evaluations += len(weights)
        flat, samples = weights.flatten(0, 1), len(self.labels)
        step = max(MOST_ELEMENTS // len(flat), 1)
        values = penalties.new_zeros(len(weights), dtype=torch.float64)
        gradients, spreads = torch.zeros_like(flat), torch.zeros_like(weights[:, :, 0])
        for start in range(0, samples, step):
            basis, labels = self.basis[start : start + step], self.labels[start : start + step]
            losses, residuals = _cross_entropy((flat @ basis.T).view(*weights.shape[:2], -1), labels)
            values += losses.sum(dim=1, dtype=torch.float64) / samples
            gradients.addmm_(residuals.flatten(0, 1), basis, alpha=1 / samples)
            spreads += (residuals.abs() - residuals.square()).sum(dim=2) / samples
        shrinkage = penalties[:, None, None] * self.penalised * weights
        return State(
            penalties=penalties,
            weights=weights,
            values=values + (shrinkage * weights).sum(dim=(1, 2), dtype=torch.float64) / 2,
            gradients=gradients.view_as(weights).add_(shrinkage),
            spreads=spreads,
        )

    def curvatures(self, state: State) -> Tensor:
        """The Hessian's diagonal, of the softmax's part the mean over samples in place of its relation to features."""
        spreads = state.spreads.clamp(min=torch.finfo(state.spreads.dtype).tiny ** 0.5)
        return spreads[:, :, None] * self.variances + state.penalties[:, None, None] * self.penalised


def multinomial_path(
    spectrum: Spectrum,
    labels: Tensor,
    penalties: Sequence[float],
    *,
    classes: int | None = None,
    tolerance: float = TOLERANCE,
    dtype: torch.dtype = torch.float32,
) -> MultinomialPath:
    """Regressions of labels [n] on the spectrum's features: mean cross-entropy + penalty / 2 * |W|^2, intercept free.

    Of two classes |W| is that of the difference of their rows, as in scikit-learn. Computed in `dtype`. A class of
    `classes` (without it, those up to the highest label) that does not occur gets weights 0 and the logit `ABSENT`.
    """
    present, compact = torch.unique(labels, return_inverse=True)
    directions = spectrum.directions()
    problem = _Regressions.of(directions, compact, len(present), dtype)
    distinct = sorted(set(penalties))
    asked = torch.tensor(distinct, dtype=dtype, device=labels.device) * (2 if len(present) == 2 else 1)
    state, rests = _solve(problem, asked, tolerance)
    count = int(labels.max()) + 1 if classes is None else classes
    weights = rests.new_zeros(len(distinct), count, len(spectrum.mean))
    weights[:, present] = (state.weights[:, :, : len(directions.values)] @ directions.vectors.T.to(dtype)).double()
    intercepts = torch.full_like(weights[:, :, 0], ABSENT)
    found = state.weights[:, :, -1].double()
    intercepts[:, present] = found - found.mean(dim=1, keepdim=True)  # a number common to all changes no probability
    order = torch.tensor([distinct.index(penalty) for penalty in penalties], device=labels.device)
    return MultinomialPath(
        weights=weights[order],
        intercepts=intercepts[order],
        objectives=state.values[order],
        rests=rests[order],
        evaluations=problem.evaluations,
    )


def _solve(problem: _Regressions, penalties: Tensor, tolerance: float) -> tuple[State, Tensor]:
    """All regressions of ascending penalties, in waves: each but the first starts from what was found of others."""
    null = problem.null(penalties[:1])
    found = replace(null.of(torch.zeros_like(penalties, dtype=torch.int64)), penalties=penalties)
    rests = torch.zeros_like(found.values)
    for wave, solved in _waves(penalties.tolist()):
        which, known = (torch.tensor(indices, device=penalties.device) for indices in (wave, solved))
        start = _start(problem, found, which, known) if solved else found.of(which)
        solution, rests[which] = minimise(problem, start, ceiling=float(null.values), tolerance=tolerance)
        found.put(which, solution)
    return found, rests


def _waves(penalties: Sequence[float]) -> Iterator[tuple[list[int], list[int]]]:
    """Positions to solve together, and those solved before: the path one by one, then the middles of what is left."""
    lowest = len(penalties) - 1
    yield [lowest], []
    solved = [lowest]
    while lowest:
        lowest = min(bisect_left(penalties, penalties[lowest] / STEP), lowest - 1)
        yield [lowest], solved
        solved = [lowest, *solved]
    while wave := [(low + high) // 2 for low, high in pairwise(solved) if high - low > 1]:
        yield wave, solved
        solved = sorted([*solved, *wave])


def _start(problem: _Regressions, found: State, which: Tensor, known: Tensor) -> State:
    """On the line through two known solutions; where it leads astray, at the known one of the next stronger penalty.

    The objective is lower there than with the stronger penalty itself.
    """
    start = problem.at(_along(found, which, known), found.penalties[which])
    stronger = known[torch.searchsorted(known, which)]
    astray = ~(start.values <= found.values[stronger])
    if astray.any():
        weights = found.weights[stronger[astray]]
        start.put(astray, problem.at(weights, found.penalties[which[astray]]))
    return start


def _along(found: State, which: Tensor, known: Tensor) -> Tensor:
    """Weights linear in the logarithm of the penalty, between the known ones around it or beyond the lowest two."""
    if len(known) == 1:
        return found.weights[known.expand(len(which))]
    above = torch.searchsorted(known, which).clamp(min=1)
    low, high = known[above - 1], known[above]
    logarithms = found.penalties.log()
    share = (logarithms[which] - logarithms[low]) / (logarithms[high] - logarithms[low])
    return torch.lerp(found.weights[low], found.weights[high], share[:, None, None])


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [regressions, n] and their gradients, which take the place of `logits` [regressions, classes, n].

    What is left of 1 or 0 is never found by subtraction: where the classes are separated it is smaller than float32's
    rounding of 1.
    """
    at = torch.arange(len(labels), device=labels.device)
    logits -= logits.amax(dim=1, keepdim=True)
    own = logits[:, labels, at]
    weights = logits.exp_()
    weights[:, labels, at] = 0
    others, mine = weights.sum(dim=1), own.exp()
    total = others + mine
    weights /= total[:, None]
    weights[:, labels, at] = -others / total
    return (others / mine).log1p().where(own == 0, total.log() - own), weights
