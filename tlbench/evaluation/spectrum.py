"""Spectrum: the one eigendecomposition of a feature view from which its probes and scores follow."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import final

import scipy.linalg
import torch
from torch import Tensor

DEAD = 1e-6
"""A feature that varies less than this share of the most varied one holds the rounding errors of float32, which a
weight in inverse proportion would make into a signal: one of MiniLM's 384 varies by 2e-9, the others by 0.2."""


AT_HAND = 4
"""Spectra that are found again."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """The directions in which standardised features X vary, rounding errors left out, from least to most varied."""

    values: Tensor
    """Eigenvalues of X'X, all positive [k]."""

    basis: Tensor
    """X in these directions [n, k]: columns orthogonal to each other and to the constant, squared lengths `values`."""

    vectors: Tensor
    """Orthonormal eigenvectors of X'X [width, k]."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Standardised features X [n, width] in the eigenvectors of X'X, or in the dual those of XX', in float64.

    Everything lies where the features lay, on whichever device.
    """

    mean: Tensor
    """Of the raw features [width]."""

    scale: Tensor
    """Standard deviation of the raw features [width]; infinite for one that is dead, so that it is 0 in X."""

    values: Tensor
    """Eigenvalues in ascending order [k]."""

    basis: Tensor
    """X in the eigenvectors of X'X, or the eigenvectors of XX': [n, k]."""

    back: Tensor
    """From eigenvectors to features [width, k]."""

    lift: float | None
    """Dual only: the eigenvalue given to the constant vector, the last, in place of its 0, to tell it from others."""

    @classmethod
    def of(cls, features: Tensor) -> Spectrum:
        """Of raw features [n, width] of any type, through the smaller of the two products."""
        return cls.primal(features) if len(features) > features.shape[1] else cls.dual(features)

    @classmethod
    def shared(cls, features: Tensor) -> Spectrum:
        """Likewise, found again as long as the features live: probes of several kinds ask for it in turn.

        Views that hold the same numbers share one, as a network's own pool and the plain average often do.
        """
        for known, version, spectrum in reversed(_at_hand):
            values = known()
            if values is None or version != _version(values):
                continue
            if values is features or (values.dtype == features.dtype and torch.equal(values, features)):
                return spectrum
        spectrum = cls.of(features)
        _at_hand.append((weakref.ref(features), _version(features), spectrum))
        _at_hand[:] = [each for each in _at_hand if each[0]() is not None][-AT_HAND:]
        return spectrum

    @classmethod
    def primal(cls, features: Tensor) -> Spectrum:
        """Through X'X [width, width]."""
        standard, mean, scale = standardise(features)
        values, vectors = _eigh(_gram(standard.T))
        basis = standard @ vectors
        return cls(mean=mean, scale=scale, values=values.clamp(min=0.0), basis=basis, back=vectors, lift=None)

    @classmethod
    def dual(cls, features: Tensor) -> Spectrum:
        """Through the Gram matrix XX' [n, n]."""
        standard, mean, scale = standardise(features)
        gram = _gram(standard)
        lift = max(2.0 * float(gram.trace()), 1.0)  # no other eigenvalue is as large
        values, vectors = _eigh(gram + lift / len(gram))
        back = standard.T @ vectors
        return cls(mean=mean, scale=scale, values=values.clamp(min=0.0), basis=vectors, back=back, lift=lift)

    @property
    def samples(self) -> int:
        """How many samples."""
        return len(self.basis)

    @property
    def width(self) -> int:
        """How many features that are not dead."""
        return int(self.scale.isfinite().sum())

    def directions(self) -> Directions:
        """Those whose eigenvalues exceed the rounding errors of the largest."""
        proper = self.values if self.lift is None else self.values[:-1]
        rounding = max(self.samples, len(self.mean)) * torch.finfo(proper.dtype).eps * self.values[-1]
        kept = (proper > rounding).nonzero()[:, 0]
        values, basis, back = proper[kept], self.basis[:, kept], self.back[:, kept]
        if self.lift is None:
            return Directions(values=values, basis=basis, vectors=back)
        lengths = values.sqrt()
        return Directions(values=values, basis=basis * lengths, vectors=back / lengths)

    def folded(self, weights: Tensor, intercepts: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [..., classes, width] and intercepts [..., classes] for raw features, from those for X."""
        weights = weights / self.scale
        return weights, intercepts - weights @ self.mean


_at_hand: list[tuple[weakref.ref[Tensor], int, Spectrum]] = []
"""The latest features, how often they had been written to, and their spectrum."""


def _version(features: Tensor) -> int:
    return 0 if features.is_inference() else features._version  # what inference mode made nobody can write to


def standardise(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features [n, width] at mean 0 and standard deviation 1, dead ones at 0; the mean and the scale [width]."""
    values = features.double()
    mean = values.mean(dim=0)
    centred = values - mean
    scale = centred.square().mean(dim=0).sqrt()
    rounding = (torch.finfo(torch.float32).eps * mean.abs()).clamp(min=DEAD * float(scale.max()))
    scale = scale.where(scale > rounding, math.inf)  # nothing is to be learnt from it: its weight becomes 0
    return centred / scale, mean, scale


def _gram(rows: Tensor) -> Tensor:
    """The products of all rows; on the CPU by numpy, which knows that they are symmetric and takes half as long."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    values = rows.numpy()
    return torch.from_numpy(values @ values.T)


def _eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order, and eigenvectors; on the CPU by scipy, which takes three quarters of the time."""
    if symmetric.device.type != "cpu":
        values, vectors = torch.linalg.eigh(symmetric)
        return values, vectors
    found = scipy.linalg.eigh(symmetric.numpy(), driver="evd", check_finite=False)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def one_hot(labels: Tensor, classes: int | None = None) -> Tensor:
    """Labels [n] as float64 [n, classes]; without `classes` those up to the highest label."""
    return torch.nn.functional.one_hot(labels, -1 if classes is None else classes).double()
