"""LogME and H-score against their formulas, written as plainly as they stand in the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits

from tlbench.evaluation.spectrum import Spectrum, standardise
from tlbench.evaluation.transferability import h_score, log_evidence


def digits(classes: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(n_class=classes, return_X_y=True)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(values).float() + 4 * noise)[:samples], torch.from_numpy(labels[:samples])


DATA = {"10": digits(10, 400), "2": digits(2, 200), "wide": digits(3, 40)}
every_data = pytest.mark.parametrize(("features", "labels"), DATA.values(), ids=DATA)
SCORES = pytest.mark.parametrize("score", [log_evidence, h_score])


def evidence(design: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """Equation 2 of the paper: of one regression, per sample."""
    samples, width = design.shape
    matrix = alpha * np.eye(width) + beta * design.T @ design
    mean = beta * np.linalg.solve(matrix, design.T @ target)
    error, length = ((design @ mean - target) ** 2).sum(), (mean**2).sum()
    logarithms = samples * math.log(beta) + width * math.log(alpha) - samples * math.log(2 * math.pi)
    return float(logarithms - np.linalg.slogdet(matrix)[1] - beta * error - alpha * length) / (2 * samples)


def published(design: np.ndarray, target: np.ndarray) -> float:
    """The fixed point of the paper's algorithm 1 with its authors' guard of 1e-5, by the plain matrices."""
    samples, width = design.shape
    values = np.linalg.eigvalsh(design.T @ design).clip(0)
    alpha = beta = 1.0
    for _ in range(200):
        mean = beta * np.linalg.solve(alpha * np.eye(width) + beta * design.T @ design, design.T @ target)
        effective = (beta * values / (alpha + beta * values)).sum()
        alpha = effective / ((mean**2).sum() + 1e-5)
        beta = (samples - effective) / (((design @ mean - target) ** 2).sum() + 1e-5)
    return evidence(design, target, alpha, beta)


def design(features: torch.Tensor) -> np.ndarray:
    values = standardise(features)[0].numpy()
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)


@every_data
def test_log_evidence_is_the_published_fixed_point(features: torch.Tensor, labels: torch.Tensor) -> None:
    targets = torch.nn.functional.one_hot(labels).double().numpy().T
    expected = np.mean([published(design(features), target) for target in targets])
    for build in (Spectrum.primal, Spectrum.dual):
        assert log_evidence(build(features), labels) == pytest.approx(expected, abs=1e-5)


def test_log_evidence_is_the_largest() -> None:
    """Over both precisions, by a general optimiser."""
    features, labels = digits(2, 200)
    target = labels.double().numpy()

    def lacking(logarithms: np.ndarray) -> float:
        return -evidence(design(features), target, *np.exp(logarithms))

    found = minimize(lacking, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    other = minimize(lambda x: -evidence(design(features), 1 - target, *np.exp(x)), np.zeros(2), method="Nelder-Mead")
    expected = -(found.fun + other.fun) / 2
    assert log_evidence(Spectrum.of(features), labels) == pytest.approx(expected, abs=1e-5)


@every_data
def test_h_score_is_its_formula(features: torch.Tensor, labels: torch.Tensor) -> None:
    values = standardise(features)[0].numpy()
    values = values[:, values.any(axis=0)]
    covariance = LedoitWolf(assume_centered=True).fit(values)
    means = np.stack([values[labels.numpy() == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
    between = means[labels.numpy()].T @ means[labels.numpy()] / len(labels)
    expected = (1 - covariance.shrinkage_) * np.trace(np.linalg.solve(covariance.covariance_, between))
    for build in (Spectrum.primal, Spectrum.dual):
        assert h_score(build(features), labels) == pytest.approx(expected, rel=1e-9)


@SCORES
def test_better_features_score_higher(score: object) -> None:
    assert callable(score)
    features, labels = digits(10, 400)
    noise = 20 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    assert score(Spectrum.of(features), labels) > score(Spectrum.of(features + noise), labels)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    assert score(Spectrum.of(features), labels) > score(Spectrum.of(features), shuffled)


@SCORES
def test_neither_order_nor_offset_nor_scale_nor_dead_features_matter(score: object) -> None:
    assert callable(score)
    for features, labels in (digits(10, 400), digits(3, 40)):
        expected = score(Spectrum.of(features), labels)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        dead = torch.cat([features, torch.full((len(features), 3), 7.0)], dim=1)
        for changed in (features[order].double() * 1e20 + 1e3, dead[order]):
            assert score(Spectrum.of(changed), labels[order]) == pytest.approx(expected, rel=1e-8)
        assert score(Spectrum.of(features), 2 * labels) == pytest.approx(expected, rel=1e-12)  # classes without samples


@SCORES
@pytest.mark.parametrize("features", [digits(3, 30)[0], digits(3, 30)[0][:, 2:3], torch.full((30, 4), 7.0)])
def test_degenerate_input_gives_finite_scores(score: object, features: torch.Tensor) -> None:
    """One class alone; a sample per class; one feature; none that varies; a single sample."""
    assert callable(score)
    for labels in (torch.full((30,), 4), torch.arange(30), (torch.arange(30) == 7).long()):
        assert math.isfinite(score(Spectrum.of(features), labels))
    assert math.isfinite(score(Spectrum.of(features[:1]), torch.tensor([2])))
