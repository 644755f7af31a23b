"""Ridge paths against brute force and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from tlbench.evaluation import ridge
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.spectrum import Spectrum, one_hot, standardise
from wide import wide

PENALTIES = [1e-4, 1e-2, 1.0, 100.0]
Build = Callable[[torch.Tensor], Spectrum]
both_ways = pytest.mark.parametrize("build", [Spectrum.primal, Spectrum.dual], ids=["primal", "dual"])


def digits(classes: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(n_class=classes, return_X_y=True)
    return torch.from_numpy(values[:samples]).float(), torch.from_numpy(labels[:samples])


def path(features: torch.Tensor, labels: torch.Tensor, build: Build = Spectrum.of) -> RidgePath:
    return RidgePath.of(build(features), labels)


def refits(features: torch.Tensor, labels: torch.Tensor, penalty: float) -> np.ndarray:
    """What each sample is predicted by scikit-learn's regression on the others, one regression per sample."""
    values, targets = standardise(features)[0].numpy(), one_hot(labels).numpy()
    found = []
    for left_out in range(len(labels)):
        rest = np.arange(len(labels)) != left_out
        model = Ridge(alpha=penalty * len(labels), solver="svd").fit(values[rest], targets[rest])
        found.append(model.predict(values[[left_out]])[0])
    return np.stack(found)


@pytest.mark.parametrize(("features", "labels"), [digits(10, 200), digits(2, 200), wide()], ids=["10", "2", "wide"])
def test_primal_dual_and_scikit_learn_agree(features: torch.Tensor, labels: torch.Tensor) -> None:
    values, targets = standardise(features)[0].numpy(), one_hot(labels).numpy()
    for build in (Spectrum.primal, Spectrum.dual):
        weights, intercepts = path(features, labels, build).solutions(PENALTIES)
        for weight, penalty in zip(weights, PENALTIES, strict=True):
            expected = Ridge(alpha=penalty * len(labels), solver="svd").fit(values, targets)
            np.testing.assert_allclose(weight, expected.coef_, atol=1e-10)
            np.testing.assert_allclose(intercepts, expected.intercept_, atol=1e-10)


@pytest.mark.parametrize(("features", "labels"), [digits(10, 90), wide(), wide(2)], ids=["primal", "dual", "dual, 2"])
def test_leave_one_out_is_what_refits_predict(features: torch.Tensor, labels: torch.Tensor) -> None:
    found = path(features, labels)
    for predictions, penalty in zip(found.leave_one_out(PENALTIES), PENALTIES, strict=True):
        np.testing.assert_allclose(predictions, refits(features, labels, penalty), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decades", [0.0, 1e-15, 1e-9, 1.0, 7.0, 12.0])
def test_many_penalties_are_told_by_few(dtype: torch.dtype, decades: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = digits(10, 200)
    penalties = (1e-4 * np.geomspace(1.0, 10.0**decades, 400)).tolist()
    found, computed = path(features, labels), list[int]()
    shrinkage = RidgePath._shrinkage
    monkeypatch.setattr(
        RidgePath, "_shrinkage", lambda self, asked: (computed.append(len(asked)), shrinkage(self, asked))[1]
    )
    told = found.leave_one_out(penalties, dtype), found.solutions(penalties, dtype)[0]
    assert decades < 1e-12 or min(computed) < 200
    monkeypatch.setattr(ridge, "LEAST_RATIO", np.inf)
    exact = found.leave_one_out(penalties), found.solutions(penalties)[0]
    direct = found.leave_one_out(penalties, dtype), found.solutions(penalties, dtype)[0]
    assert set(computed[-2:]) == {400}
    for one, other, by_themselves in zip(told, exact, direct, strict=True):
        assert one.dtype == torch.float64
        for found, expected, rounded in zip(one, other, by_themselves, strict=True):
            rounding, size = float((rounded - expected).abs().max()), float(expected.abs().max())
            precision = 200 * torch.finfo(dtype).eps * size
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=max(5 * rounding, precision, 1e-9 * size))


@both_ways
@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_leave_one_out_holds_for_repeated_samples_and_features(build: Build, penalty: float) -> None:
    """Eigenvalues that coincide, at zero too; one feature many times; features that do not vary."""
    repeated, labels = digits(3, 12)[0].repeat(2, 2), digits(3, 12)[1].repeat(2)
    for features in (repeated, repeated[:, 2:3].repeat(1, 30), repeated[:, 2:3], torch.full((24, 3), 7.0)):
        (found,) = path(features, labels, build).leave_one_out([penalty])
        np.testing.assert_allclose(found, refits(features, labels, penalty), atol=1e-10)


@both_ways
def test_accuracies_count_the_predictions(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches as at once."""
    features, labels = digits(10, 90)
    found = path(features, labels, build)
    expected = [(each.argmax(1) == labels).double().mean() for each in found.leave_one_out(PENALTIES)]
    assert 0.8 < max(expected) < 1.0
    for most in (1, 2000, 2**20):
        monkeypatch.setattr(ridge, "MOST_ELEMENTS", most)
        torch.testing.assert_close(found.accuracies(PENALTIES), torch.stack(expected))


@both_ways
def test_a_class_without_samples_is_predicted_zero(build: Build) -> None:
    features, labels = digits(3, 40)
    with_gap = RidgePath.of(build(features), labels + (labels == 2), classes=5)
    without = path(features, labels, build)
    torch.testing.assert_close(with_gap.leave_one_out([0.1])[:, :, [0, 1, 3]], without.leave_one_out([0.1]))
    assert (with_gap.leave_one_out([0.1])[:, :, [2, 4]] == 0).all()
    torch.testing.assert_close(with_gap.accuracies([0.1]), without.accuracies([0.1]))


@both_ways
def test_neither_order_nor_offset_nor_scale_matters(build: Build) -> None:
    for features, labels in (digits(10, 90), wide()):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        expected = path(features, labels, build).leave_one_out(PENALTIES)
        for changed in (features.double() + 1e3, features.double() * 1e20):
            found = path(changed[order], labels[order], build).leave_one_out(PENALTIES)
            torch.testing.assert_close(found, expected[:, order], rtol=0.0, atol=1e-8)


def test_fewer_samples_than_classes() -> None:
    features, _ = digits(10, 4)
    found = RidgePath.of(Spectrum.of(features), torch.tensor([0, 3, 7, 9]), classes=10)
    assert found.leave_one_out(PENALTIES).isfinite().all()
    assert found.accuracies(PENALTIES).tolist() == [0.0] * 4  # no sample's class is left without it
