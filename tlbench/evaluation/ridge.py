"""Ridge regression of class labels: every penalty, and every sample left out, from one eigendecomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RidgePath:
    """Regressions of one-hot labels Y [n, classes] on centred features X [n, width], the intercept free, in float64.

    Each minimises mean squared error + penalty * |W|^2. In the eigenvectors of X'X, or in the dual those of XX', a
    further penalty costs little. Leave-one-out residuals are those of the fit over 1 minus the leverage, the diagonal
    of the hat matrix (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10).
    """

    targets: np.ndarray
    """One-hot labels [n, classes]."""

    intercept: np.ndarray
    """Mean of the targets [classes]."""

    values: np.ndarray
    """Eigenvalues [k]."""

    basis: np.ndarray
    """X in the eigenvectors of X'X, or the eigenvectors of XX': [n, k]."""

    projections: np.ndarray
    """The centred targets in that basis [k, classes]."""

    back: np.ndarray
    """From eigenvectors to features [width, k]."""

    lift: float | None
    """Dual only: the eigenvalue given to the constant vector, in place of its 0, to tell it from other vectors."""

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> RidgePath:
        """The path through the smaller of the two products; every class of `labels` [n] occurs."""
        return cls.primal(features, labels) if len(features) > features.shape[1] else cls.dual(features, labels)

    @classmethod
    def primal(cls, features: np.ndarray, labels: np.ndarray) -> RidgePath:
        """Through X'X [width, width]."""
        values, vectors = np.linalg.eigh(features.T @ features)
        return cls._of(labels, values, features @ vectors, vectors, None)

    @classmethod
    def dual(cls, features: np.ndarray, labels: np.ndarray) -> RidgePath:
        """Through the Gram matrix XX' [n, n]."""
        gram = features @ features.T
        lift = max(float(np.trace(gram)), 1.0)
        values, vectors = np.linalg.eigh(gram + lift / len(gram))
        return cls._of(labels, values, vectors, features.T @ vectors, lift)

    def solution(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights [classes, width] and intercepts [classes]."""
        return (self.back @ (self._shrinkage(penalty)[:, None] * self.projections)).T, self.intercept

    def leave_one_out(self, penalty: float) -> np.ndarray:
        """Predictions [n, classes], each by the regression without that sample, intercept included."""
        samples, shrinkage = len(self.targets), self._shrinkage(penalty)
        fitted = self.basis @ (shrinkage[:, None] * self.projections)
        leverages = np.einsum("nk,nk,k->n", self.basis, self.basis, shrinkage)
        if self.lift is None:
            residuals = self.targets - self.intercept - fitted
            room = 1 - 1 / samples - leverages
        else:  # both divided by n * penalty, which cancels: no difference of almost equal numbers is taken
            residuals = fitted
            room = leverages - 1 / (samples * (self.lift + samples * penalty))
        return np.asarray(self.targets - residuals / room[:, None])

    @classmethod
    def _of(
        cls, labels: np.ndarray, values: np.ndarray, basis: np.ndarray, back: np.ndarray, lift: float | None
    ) -> RidgePath:
        targets = np.eye(labels.max() + 1)[labels]
        intercept = targets.mean(axis=0)
        return cls(
            targets=targets,
            intercept=intercept,
            values=values.clip(min=0.0),  # none is negative but for rounding
            basis=basis,
            projections=basis.T @ (targets - intercept),
            back=back,
            lift=lift,
        )

    def _shrinkage(self, penalty: float) -> np.ndarray:
        return np.asarray(1 / (self.values + penalty * len(self.targets)))
