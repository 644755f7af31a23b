"""Ridge regression of class labels: every penalty, and every sample left out, from one eigendecomposition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebpts1, chebvander
from torch import Tensor

from tlbench.evaluation.spectrum import Spectrum, one_hot

MOST_ELEMENTS = 2**22
"""Predictions computed at once where they need not be kept: 32 MiB."""

LEAST_RATIO = 2
"""How many times as many penalties as nodes there have to be for these to be worth it: 98 over seven decades, for which
49 nodes do in float32. Jobs of a thousand probes have as many; a search's few dozen are computed one by one."""

Between = Callable[[Tensor], Tensor]
"""From float64 values at nodes [nodes, ...] to those at penalties [penalties, ...]."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RidgePath:
    """Regressions of one-hot labels Y [n, classes] on standardised features X [n, width], the intercept free.

    Each minimises mean squared error + penalty * |W|^2. In the eigenvectors of X'X, or in the dual those of XX', a
    further penalty costs little. Leave-one-out residuals are those of the fit over 1 minus the leverage, the diagonal
    of the hat matrix (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10).
    """

    spectrum: Spectrum
    """Of the features."""

    labels: Tensor
    """Class indices [n]."""

    targets: Tensor
    """One-hot labels [n, classes]."""

    intercept: Tensor
    """Mean of the targets [classes]."""

    projections: Tensor
    """The centred targets in the spectrum's basis [k, classes]."""

    @classmethod
    def of(cls, spectrum: Spectrum, labels: Tensor, classes: int | None = None) -> RidgePath:
        """Without `classes` there are those up to the highest label; one that does not occur is predicted 0."""
        targets = one_hot(labels, classes)
        intercept = targets.mean(dim=0)
        projections = ((targets - intercept).T @ spectrum.basis).T  # so twice as fast as the other way round
        return cls(spectrum=spectrum, labels=labels, targets=targets, intercept=intercept, projections=projections)

    def solutions(self, penalties: Sequence[float], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Weights [penalties, classes, width] and intercepts [classes], which no penalty changes.

        The product that gives the weights is computed in `dtype`.
        """
        nodes, between = self._nodes(penalties, dtype)
        weights = self._coefficients(self._shrinkage(nodes)).to(dtype) @ self.spectrum.back.T.to(dtype)
        return between(weights.double()), self.intercept

    def leave_one_out(self, penalties: Sequence[float], dtype: torch.dtype = torch.float64) -> Tensor:
        """Predictions [penalties, n, classes], each by the regression without that sample, intercept included.

        The standardisation alone still knows the sample. What the whole regressions predict is computed in `dtype`.
        """
        samples, basis, (nodes, between) = len(self.targets), self.spectrum.basis, self._nodes(penalties, dtype)
        coefficients = self._coefficients(self._shrinkage(nodes)).flatten(0, 1)
        fitted = between((coefficients.to(dtype) @ basis.T.to(dtype)).view(len(nodes), -1, samples).double())
        leverages = self._shrinkage(penalties) @ basis.square().T  # never interpolated: what they leave may be tiny
        if self.spectrum.lift is None:
            residuals = (self.targets - self.intercept).T - fitted
            room = 1 - 1 / samples - leverages
        else:  # both divided by n * penalty, which cancels: no difference of almost equal numbers is taken
            residuals = fitted
            lifted = self.spectrum.lift + samples * self._column(penalties)
            room = leverages - 1 / (samples * lifted)
        predictions: Tensor = self.targets.T - residuals / room[:, None]
        return predictions.transpose(1, 2)

    def accuracies(self, penalties: Sequence[float]) -> Tensor:
        """The share of samples [penalties] that the regressions without them give their label."""
        predicted = (self.leave_one_out(batch).argmax(dim=2) for batch in self.batches(penalties))
        return torch.cat([(part == self.labels).double().mean(dim=1) for part in predicted])

    def batches(self, penalties: Sequence[float]) -> Iterator[Sequence[float]]:
        """As many penalties at a time as memory should be used for by predictions that are not kept."""
        size = max(MOST_ELEMENTS // max(self.targets.numel(), 1), 1)
        for start in range(0, len(penalties), size):
            yield penalties[start : start + size]

    def _nodes(self, penalties: Sequence[float], dtype: torch.dtype) -> tuple[Sequence[float], Between]:
        """The penalties to compute what is linear in the shrinkage for, and how to get from these to those asked for.

        Fewer than asked for, if they tell the others to the precision of `dtype`. Interpolated is the shrinkage over
        that of the most varied direction, so that strong penalties keep their digits. In the dual, whose residuals
        would be interpolated themselves and can be almost nothing, each is computed.
        """
        if self.spectrum.lift is None and min(penalties) > 0.0:
            exponents = np.log(penalties)
            length = float(exponents.max() - exponents.min())
            count = _count(length, torch.finfo(dtype).eps) if length > 0.0 else len(penalties)
            if LEAST_RATIO * count <= len(penalties):
                nodes, matrix = _chebyshev(exponents, count)
                most, samples = float(self.spectrum.values[-1]), len(self.targets)
                known, asked = (torch.from_numpy(most + samples * np.exp(each)) for each in (nodes, exponents))
                matrix = (matrix * known / asked[:, None]).to(self.targets.device)
                return np.exp(nodes).tolist(), lambda values: torch.tensordot(matrix, values, 1)
        return penalties, lambda values: values

    def _coefficients(self, shrinkage: Tensor) -> Tensor:
        """In the spectrum's basis [penalties, classes, k]."""
        return shrinkage[:, None] * self.projections.T

    def _shrinkage(self, penalties: Sequence[float]) -> Tensor:
        return 1 / (self.spectrum.values + len(self.targets) * self._column(penalties))

    def _column(self, penalties: Sequence[float]) -> Tensor:
        return torch.tensor(penalties, dtype=torch.float64, device=self.targets.device)[:, None]


def _count(length: float, precision: float) -> int:
    """Nodes that tell the shrinkage on an interval of so many logarithms of the penalty, to a share of its largest.

    As a function of the logarithm it is a sigmoid, whose nearest poles are pi away from the interval. The error falls
    by a factor per node that these poles decide (Trefethen, Approximation Theory and Approximation Practice, theorem
    8.2), from about what that theorem's bound begins with.
    """
    height = 2 * math.pi / length
    factor = height + math.sqrt(height * height + 1)
    return max(2, 1 + math.ceil(math.log(4 / ((factor - 1) * precision)) / math.log(factor)))


def _chebyshev(points: np.ndarray, count: int) -> tuple[np.ndarray, Tensor]:
    """Chebyshev nodes [count] between the least and the largest of some points, and interpolation [points, count]."""
    middle, half = (points.max() + points.min()) / 2, (points.max() - points.min()) / 2
    nodes = chebpts1(count)
    known, asked = (chebvander(places, count - 1) for places in (nodes, (points - middle) / half))
    return middle + half * nodes, torch.from_numpy(np.linalg.solve(known.T, asked.T).T)
