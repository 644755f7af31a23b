"""The spectrum of features: both ways to it lead to the same, and what does not vary has no part in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from tlbench.evaluation.spectrum import Spectrum, standardise

both_ways = pytest.mark.parametrize("build", [Spectrum.primal, Spectrum.dual], ids=["primal", "dual"])


def features(samples: int = 40, width: int = 12) -> torch.Tensor:
    """Of different scales and offsets, each a mixture of all."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(samples, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return values * torch.logspace(-1, 1, width) + torch.linspace(-5, 5, width)


def standard(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(StandardScaler().fit_transform(values.double().numpy()))


@both_ways
@pytest.mark.parametrize(("samples", "width", "rank"), [(40, 12, 12), (12, 40, 11), (12, 12, 11)])
def test_directions_are_those_of_the_singular_value_decomposition(
    build: Callable[[torch.Tensor], Spectrum], samples: int, width: int, rank: int
) -> None:
    given = features(samples, width)
    found = build(given).directions()
    expected = standard(given)
    singular = torch.linalg.svdvals(expected)[:rank].flip(0)
    torch.testing.assert_close(found.values, singular.square(), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(found.basis @ found.vectors.T, expected, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(rank).double(), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(found.basis.T @ found.basis, found.values.diag(), rtol=0.0, atol=1e-9)
    assert found.basis.sum(0).abs().max() < 1e-9


def test_the_smaller_product_is_decomposed() -> None:
    assert len(Spectrum.of(features(40, 12)).values) == 12
    assert len(Spectrum.of(features(12, 40)).values) == 12


@both_ways
def test_repeated_features_add_no_direction(build: Callable[[torch.Tensor], Spectrum]) -> None:
    one, many = features(40, 12), features(40, 12).repeat(1, 5)
    found = build(many).directions()
    torch.testing.assert_close(found.values, 5 * build(one).directions().values, rtol=1e-9, atol=0.0)
    assert len(build(one[:, :1].repeat(1, 60)).directions().values) == 1


@both_ways
def test_features_that_do_not_vary_are_none(build: Callable[[torch.Tensor], Spectrum]) -> None:
    given = features()
    dead = torch.stack([torch.full((40,), 1e5 / 3), torch.zeros(40), 1e-7 * torch.arange(40.0)], dim=1)
    one, two = build(given), build(torch.cat([dead, given], dim=1))
    assert two.width == one.width == 12
    torch.testing.assert_close(two.directions().values, one.directions().values, rtol=1e-9, atol=0.0)
    assert len(build(dead[:, :2]).directions().values) == 0
    assert len(build(given[:1]).directions().values) == 0


@both_ways
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_scale_is_too_large_or_too_small(build: Callable[[torch.Tensor], Spectrum], scale: float) -> None:
    one, two = build(features()).directions(), build(scale * features()).directions()
    torch.testing.assert_close(two.values, one.values, rtol=1e-4, atol=0.0)


def test_folded_weights_are_for_raw_features() -> None:
    given = torch.cat([features(), torch.ones(40, 1)], dim=1)
    weights, intercepts = torch.rand(2, 3, 13).double(), torch.rand(2, 3).double()
    raw_weights, raw_intercepts = Spectrum.of(given).folded(weights, intercepts)
    expected = standard(given) @ weights.mT + intercepts[:, None]
    found = given.double() @ raw_weights.mT + raw_intercepts[:, None]
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)
    assert (raw_weights[:, :, -1] == 0).all()


def test_standardise_is_scikit_learns() -> None:
    found, mean, scale = standardise(features())
    expected = StandardScaler().fit(features().double().numpy())
    np.testing.assert_allclose(found, expected.transform(features().double().numpy()), atol=1e-12)
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale, expected.scale_, rtol=1e-12)
