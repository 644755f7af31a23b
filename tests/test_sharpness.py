"""Sharpness: the factors that minimise the cross-entropy, all at once, against scipy one after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from tlbench.evaluation import sharpness
from tlbench.evaluation.sharpness import LOGIT_RANGE, sharpest


def drawn(samples: int = 120, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions from useless to almost perfect, and labels in which every class occurs."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(samples) % classes)
    truth = np.eye(classes)[labels]
    noise = draw.standard_normal((6, samples, classes))
    known = np.array([0.0, 0.05, 0.3, 0.6, 0.9, 0.97])[:, None, None]
    return torch.from_numpy(known * truth + (1 - known) * noise), torch.from_numpy(labels)


def loss(predictions: torch.Tensor, labels: torch.Tensor, factor: float) -> float:
    scores = log_softmax(factor * predictions.numpy(), axis=1)
    return -float(scores[np.arange(len(labels)), labels.numpy()].mean())


def spread(predictions: torch.Tensor) -> float:
    return float((predictions - predictions.mean(1, keepdim=True)).square().mean().sqrt())


@pytest.mark.parametrize("classes", [2, 4])
def test_factors_are_those_of_a_minimiser_of_one(classes: int) -> None:
    predictions, labels = drawn(classes=classes)
    for each, factor in zip(predictions, sharpest(predictions, labels).tolist(), strict=True):
        bounds = np.log(LOGIT_RANGE) - np.log(spread(each))
        reference = minimize_scalar(
            lambda logarithm, each=each: loss(each, labels, np.exp(logarithm)),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert loss(each, labels, factor) <= reference.fun + 1e-10
        assert bounds[0] <= np.log(factor) + 1e-12
        assert np.log(factor) - 1e-12 <= bounds[1]


def test_what_separates_the_classes_or_misleads_stops_at_the_bounds() -> None:
    labels = torch.arange(30) % 3
    right = torch.nn.functional.one_hot(labels).double()
    found = sharpest(torch.stack([right, -right, 7 * right, torch.ones_like(right)]), labels)
    assert (found[:3] * torch.tensor([1.0, 1.0, 7.0]) * spread(right)).tolist() == pytest.approx(
        [LOGIT_RANGE[1], LOGIT_RANGE[0], LOGIT_RANGE[1]], rel=1e-4
    )
    assert found[3] == 1.0, "all classes alike"


@pytest.mark.parametrize("in_order", [True, False])
def test_neighbours_change_nothing_but_where_a_factor_is_sought(
    in_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions, labels = drawn()
    shares = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)[:, None, None]
    path = torch.cat([(1 - shares) * predictions[1] + shares * predictions[index] for index in (2, 4, 5)])
    path = torch.cat([path, -path[:9], torch.zeros_like(path[:2]), 1e3 * path[:9]])
    path = path if in_order else path[torch.randperm(len(path), generator=torch.Generator().manual_seed(0))]
    looks: list[int] = []
    slopes = sharpness._slopes
    monkeypatch.setattr(sharpness, "_slopes", lambda *given: (looks.append(len(given[0])), slopes(*given))[1])
    alone = torch.cat([sharpest(each[None], labels) for each in path])
    looks_alone = sum(looks)
    looks.clear()
    torch.testing.assert_close(sharpest(path, labels), alone, rtol=1e-5, atol=0.0)
    assert sum(looks) < looks_alone * (0.75 if in_order else 1.5)


def test_what_is_not_finite_spoils_no_neighbour() -> None:
    predictions, labels = drawn()
    path = predictions[1:].repeat(4, 1, 1)
    path[[0, 7]] = torch.nan
    others = [place for place in range(len(path)) if place not in (0, 7)]
    alone = torch.cat([sharpest(each[None], labels) for each in path[others]])
    torch.testing.assert_close(sharpest(path, labels)[others], alone, rtol=1e-5, atol=0.0)


def test_a_factor_does_not_depend_on_its_company(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, labels = drawn()
    together = sharpest(predictions, labels)
    alone = torch.cat([sharpest(predictions[index : index + 1], labels) for index in range(len(predictions))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0.0)
    monkeypatch.setattr(sharpness, "MOST_ELEMENTS", 1)
    torch.testing.assert_close(sharpest(predictions, labels), together, rtol=1e-9, atol=0.0)


def test_a_scale_of_the_predictions_is_taken_back() -> None:
    predictions, labels = drawn()
    found = sharpest(1e3 * predictions, labels) * 1e3
    torch.testing.assert_close(found, sharpest(predictions, labels), rtol=1e-4, atol=0.0)
