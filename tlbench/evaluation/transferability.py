"""Transferability: how well features may suit labels, estimated without training anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tlbench.evaluation.spectrum import Spectrum, one_hot

GUARD = 1e-5
"""Added to what precisions are divided by, as LogME's authors do: a perfect fit would have an infinite evidence."""

MOST_STEPS = 100
"""Of the fixed-point iteration, which takes some ten."""


def log_evidence(spectrum: Spectrum, labels: Tensor) -> float:
    """LogME (You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning").

    Per sample, the logarithm of the evidence of Bayesian linear regressions from features to each one-hot class, their
    prior and noise precisions those that maximise it; the mean over the classes that occur. The features are the
    spectrum's with a constant 1 beside them, which gives back the mean that standardising takes.
    """
    directions, samples = spectrum.directions(), len(labels)
    targets = one_hot(labels)
    targets = targets[:, targets.any(dim=0)]
    values = torch.cat([directions.values, directions.values.new_tensor([samples])])[:, None]
    products = torch.cat([directions.basis.T @ targets, targets.sum(dim=0, keepdim=True)])
    parts = products.square() / values  # squared lengths of the targets' components
    rest = (targets.sum(dim=0) - parts.sum(dim=0)).clamp(min=0.0)
    ratio = torch.ones_like(rest)  # of the prior's precision alpha to the noise's beta
    for _ in range(MOST_STEPS):
        length, error = _fit(ratio, values, parts, rest)
        effective = (values / (values + ratio)).sum(dim=0)
        alpha, beta = effective / (length + GUARD), (samples - effective) / (error + GUARD)
        previous, ratio = ratio, alpha / beta
        if ((ratio - previous).abs() <= 1e-6 * previous).all():
            break
    length, error = _fit(ratio, values, parts, rest)
    evidence = samples * (beta.log() - math.log(2 * math.pi)) - (values / ratio).log1p().sum(dim=0)
    return float((evidence - beta * error - alpha * length).mean() / (2 * samples))


def _fit(ratio: Tensor, values: Tensor, parts: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Squared length of the mean weights and squared error, per class."""
    length = (values * parts / (values + ratio).square()).sum(dim=0)
    return length, (parts * (ratio / (values + ratio)).square()).sum(dim=0) + rest


def h_score(spectrum: Spectrum, labels: Tensor) -> float:
    """The shrunk H-score (Ibrahim et al. 2021, "Newer is not always better"): between-class over total covariance.

    (1 - a) tr(S_a^-1 S_b), the total covariance S_a shrunk towards its mean variance by Ledoit and Wolf's share a
    (2004); covariances are divided by the number of samples. 0 where no feature varies.
    """
    directions, samples = spectrum.directions(), len(labels)
    if not len(directions.values):
        return 0.0
    variances = directions.values / samples
    variance = variances.sum() / spectrum.width
    shrinkage = _shrinkage(variances, directions.basis.square().sum(dim=1), spectrum.width)
    targets = one_hot(labels)
    sums = targets.T @ directions.basis
    between = (sums.square() / targets.sum(dim=0)[:, None].clamp(min=1.0)).sum(dim=0) / samples
    return float((1 - shrinkage) * (between / ((1 - shrinkage) * variances + shrinkage * variance)).sum())


def _shrinkage(variances: Tensor, lengths: Tensor, width: int) -> float:
    """Ledoit and Wolf's share from eigenvalues of the covariance and the samples' squared lengths [n]."""
    squares = variances.square().sum()
    spread = float(squares - variances.sum().square() / width)
    noise = float(lengths.square().mean() - squares) / len(lengths)
    return min(max(noise, 0.0) / spread, 1.0) if spread > 0.0 else 0.0
