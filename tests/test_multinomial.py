"""Logistic regressions in lockstep against scikit-learn's, one by one, and against their own gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tlbench.evaluation import multinomial
from tlbench.evaluation.multinomial import ABSENT, MultinomialPath, multinomial_path
from tlbench.evaluation.spectrum import Spectrum, standardise
from wide import wide

PENALTIES = np.logspace(-5, 1, 20).tolist()


def digits(classes: int, samples: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy ones, so that no penalty separates the classes without effort."""
    values, labels = load_digits(n_class=classes, return_X_y=True)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(values).float() + 4 * noise)[:samples], torch.from_numpy(labels[:samples])


DATA = {"10": digits(10), "2": digits(2), "wide": wide(), "wide, 2": wide(2)}
every_data = pytest.mark.parametrize(("features", "labels"), DATA.values(), ids=DATA)


def solved(
    features: torch.Tensor,
    labels: torch.Tensor,
    penalties: list[float],
    *,
    classes: int | None = None,
    tolerance: float = multinomial.TOLERANCE,
    dtype: torch.dtype = torch.float32,
) -> MultinomialPath:
    return multinomial_path(Spectrum.of(features), labels, penalties, classes=classes, tolerance=tolerance, dtype=dtype)


def exact(features: torch.Tensor, labels: torch.Tensor, penalties: list[float]) -> MultinomialPath:
    return solved(features, labels, penalties, tolerance=1e-12, dtype=torch.float64)


def objective(
    features: torch.Tensor, labels: torch.Tensor, weight: np.ndarray, intercept: np.ndarray, penalty: float
) -> float:
    """Mean cross-entropy + penalty / 2 * |W|^2; of two classes W is the difference of the rows."""
    logits = log_softmax(standardise(features)[0].numpy() @ weight.T + intercept, axis=1)
    penalised = np.diff(weight, axis=0) if len(weight) == 2 else weight
    return float(penalty / 2 * (penalised**2).sum() - logits[np.arange(len(labels)), labels.numpy()].mean())


def regression(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's weights and intercepts, of two classes for both."""
    solver = LogisticRegression(C=1 / (penalty * len(labels)), max_iter=10_000, tol=1e-9)
    solver.fit(standardise(features)[0].numpy(), labels.numpy())
    weight, intercept = solver.coef_, solver.intercept_
    if len(weight) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    return weight, intercept


def probabilities(features: torch.Tensor, path: MultinomialPath) -> torch.Tensor:
    logits = standardise(features)[0] @ path.weights.mT + path.intercepts[:, None]
    return logits.softmax(2)


@every_data
def test_objectives_are_as_low_as_scikit_learns(features: torch.Tensor, labels: torch.Tensor) -> None:
    path = solved(features, labels, PENALTIES)
    for index, penalty in enumerate(PENALTIES):
        found = objective(features, labels, path.weights[index].numpy(), path.intercepts[index].numpy(), penalty)
        expected = objective(features, labels, *regression(features, labels, penalty), penalty)
        assert found <= expected * (1 + 5e-4)
        assert found == pytest.approx(float(path.objectives[index]), rel=1e-5)


@every_data
def test_exact_solutions_are_scikit_learns(features: torch.Tensor, labels: torch.Tensor) -> None:
    penalties = [1e-3, 0.1, 10.0]
    path = exact(features, labels, penalties)
    for weight, intercept, penalty in zip(path.weights, path.intercepts, penalties, strict=True):
        expected_weight, expected_intercept = regression(features, labels, penalty)
        np.testing.assert_allclose(weight, expected_weight, atol=2e-5)
        np.testing.assert_allclose(intercept, expected_intercept - expected_intercept.mean(), atol=2e-5)


@every_data
def test_gradients_vanish_at_exact_solutions(features: torch.Tensor, labels: torch.Tensor) -> None:
    path = exact(features, labels, PENALTIES)
    values = standardise(features)[0]
    strength = 2 if len(labels.unique()) == 2 else 1
    residuals = probabilities(features, path) - torch.nn.functional.one_hot(labels)
    penalties = strength * torch.tensor(PENALTIES)[:, None, None]
    gradients = residuals.mT @ values / len(labels) + penalties * path.weights
    assert gradients.abs().amax(dim=(1, 2)).max() < 1e-6
    assert residuals.mean(dim=1).abs().max() < 1e-6


@every_data
def test_the_estimated_rest_is_about_the_true_one(features: torch.Tensor, labels: torch.Tensor) -> None:
    """And keeps the tolerance, in both number formats."""
    best = exact(features, labels, PENALTIES).objectives
    for dtype in (torch.float32, torch.float64):
        for tolerance in (1e-3, 1e-5):
            path = solved(features, labels, PENALTIES, tolerance=tolerance, dtype=dtype)
            assert (path.rests <= tolerance * path.objectives).all()
            assert (path.objectives - best <= 50 * tolerance * best).all()


def test_weak_penalties_are_solved_in_float32() -> None:
    """Where classes are separated the losses are smaller than float32's rounding of 1."""
    for features, labels in (wide(), digits(2)):
        penalties = np.logspace(-9, -6, 4).tolist()
        path, best = solved(features, labels, penalties), exact(features, labels, penalties)
        assert best.objectives[0] < 1e-6
        torch.testing.assert_close(path.objectives, best.objectives, rtol=1e-3, atol=0.0)


def test_strong_penalties_leave_the_shares() -> None:
    features, labels = digits(3, 200)
    path = solved(features, labels, [1e3, 1e6])
    shares = labels.bincount().double() / 200
    torch.testing.assert_close(probabilities(features, path)[1].mean(0), shares, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(path.weights[0], 1e3 * path.weights[1], rtol=0.05, atol=1e-5)


def test_penalties_come_back_as_asked() -> None:
    """In any order, more than once, however many: alone, on the path, between its penalties."""
    features, labels = digits(3, 200)
    best = exact(features, labels, PENALTIES)
    for asked in ([7], [3, 19, 0, 3], list(range(9)), list(range(19, -1, -1))):
        path = solved(features, labels, [PENALTIES[index] for index in asked], tolerance=1e-8, dtype=torch.float64)
        torch.testing.assert_close(path.objectives, best.objectives[asked], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(path.weights, best.weights[asked], rtol=0.0, atol=2e-3)


def test_starting_between_neighbours_saves_evaluations() -> None:
    """Of 64 penalties each takes a third of the steps that eight take each."""
    features, labels = digits(10)
    few, many = (solved(features, labels, np.logspace(-5, 1, count).tolist()) for count in (8, 64))
    assert many.evaluations / 64 < few.evaluations / 8 / 3


@every_data
def test_following_the_path_saves_evaluations(features: torch.Tensor, labels: torch.Tensor) -> None:
    """Eight penalties a decade apart take little more than half of what they take one by one."""
    penalties = np.logspace(-6, 1, 8).tolist()
    alone = sum(solved(features, labels, [penalty]).evaluations for penalty in penalties)
    assert solved(features, labels, penalties).evaluations < 0.6 * alone


@every_data
def test_a_line_that_leads_astray_is_left(features: torch.Tensor, labels: torch.Tensor) -> None:
    """Through two penalties that float32 does not tell apart, there is none to a third."""
    penalties = [1e-5, 0.009999999999, 0.01]
    path, best = solved(features, labels, penalties), exact(features, labels, penalties)
    torch.testing.assert_close(path.objectives, best.objectives, rtol=1e-3, atol=0.0)
    assert path.evaluations < 2 * solved(features, labels, [1e-5, 0.01]).evaluations


def test_samples_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = digits(10)
    one = exact(features, labels, [0.01, 1.0])
    monkeypatch.setattr(multinomial, "MOST_ELEMENTS", 2 * 10 * 77)
    torch.testing.assert_close(exact(features, labels, [0.01, 1.0]).weights, one.weights, rtol=0.0, atol=1e-6)


def test_neither_order_nor_offset_nor_scale_matters() -> None:
    for features, labels in (digits(10), wide()):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        expected = exact(features, labels, [0.01, 1.0])
        for changed in (features.double() + 1e3, features.double() * 1e20):
            found = exact(changed[order], labels[order], [0.01, 1.0])
            torch.testing.assert_close(found.weights, expected.weights, rtol=0.0, atol=1e-5)


def test_features_that_say_nothing_new_change_nothing() -> None:
    """Constant ones have no weight, repeated ones share it."""
    features, labels = digits(3, 200)
    one = exact(features, labels, [0.1])
    constant = exact(torch.cat([features, torch.full((200, 2), 7.0)], dim=1), labels, [0.1])
    torch.testing.assert_close(constant.weights[:, :, :-2], one.weights, rtol=0.0, atol=1e-6)
    assert (constant.weights[:, :, -2:] == 0).all()
    repeated = exact(features.repeat(1, 4), labels, [0.4])
    torch.testing.assert_close(repeated.weights[:, :, :64], one.weights / 4, rtol=0.0, atol=1e-6)


def test_a_class_without_samples_has_no_probability() -> None:
    features, labels = digits(3, 200)
    for dtype in (torch.float32, torch.float64):
        gap = solved(features, labels + (labels == 2), PENALTIES, classes=5, dtype=dtype)
        without = solved(features, labels, PENALTIES, dtype=dtype)
        torch.testing.assert_close(gap.weights[:, [0, 1, 3]], without.weights)
        assert (gap.intercepts[:, [2, 4]] == ABSENT).all()
        assert (probabilities(features, gap)[:, :, [2, 4]] == 0).all()


@pytest.mark.parametrize("features", [digits(3, 30)[0], digits(3, 30)[0][:, 2:3], torch.full((30, 4), 7.0)])
def test_degenerate_input_gives_finite_heads(features: torch.Tensor) -> None:
    """One class alone; a sample per class and fewer than classes; one feature; none that varies."""
    for labels in (torch.full((30,), 4), torch.arange(30), (torch.arange(30) == 7).long()):
        path = solved(features, labels, PENALTIES, classes=40)
        assert path.weights.isfinite().all()
        assert path.intercepts.isfinite().all()
        assert path.objectives.isfinite().all()
        assert probabilities(features, path).isfinite().all()
