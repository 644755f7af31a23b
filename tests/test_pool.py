"""Pools: one vector per sample from maps and from sequences, padding left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from tlbench.evaluation.pool import Pool, attention_mask, squared


def unpooled(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layout", "axes"), [("NCHW", (2, 3)), ("NHWC", (1, 2))])
def test_spatial_pools(layout: str, axes: tuple[int, int]) -> None:
    values = unpooled(2, 3, 4, 5)
    for name, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = Pool(name, layout, 0)(nn.Identity(), values)
        np.testing.assert_allclose(pooled.numpy(), reduce(values.numpy(), axis=axes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_token_pools_leave_the_prefix_out(prefix: int) -> None:
    values = unpooled(2, 7, 4)
    array = values.numpy()
    pooled = {name: Pool(name, "NLC", prefix)(nn.Identity(), values).numpy() for name in ("cls", "avg", "max")}
    np.testing.assert_array_equal(pooled["cls"], array[:, 0])
    np.testing.assert_allclose(pooled["avg"], array[:, prefix:].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled["max"], array[:, prefix:].max(1))
    both = Pool("cls+avg", "NLC", prefix)(nn.Identity(), values).numpy()
    np.testing.assert_array_equal(both, np.concatenate([pooled["cls"], pooled["avg"]], axis=1))


def test_the_native_pool_is_the_models_own() -> None:
    net = tiny.Net()
    values = unpooled(2, 16, 8, 8)
    assert torch.equal(Pool("native", "NCHW", 0)(net, values), net.forward_head(values, pre_logits=True))


@pytest.mark.parametrize("name", ["cls", "avg", "max", "last", "gem", "cls+avg"])
def test_padding_changes_nothing(name: str) -> None:
    """Whatever stands behind the mask, pools see the samples alone: as if each came by itself."""
    pool, lengths = Pool(name, "NLC", 0), (3, 6, 1)
    values = unpooled(3, 6, 4)
    mask = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    pooled = pool(nn.Identity(), values, mask)
    for row, length in enumerate(lengths):
        alone = pool(nn.Identity(), values[row : row + 1, :length])
        torch.testing.assert_close(pooled[row : row + 1], alone)
    noisy = torch.where(mask[..., None] == 1, values, torch.full_like(values, 1e3))
    torch.testing.assert_close(pool(nn.Identity(), noisy, mask), pooled)


def test_the_last_token_is_found_on_either_side_of_the_padding() -> None:
    values = unpooled(2, 4, 3)
    pooled = Pool("last", "NLC", 0)(nn.Identity(), values, torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]))
    assert torch.equal(pooled, torch.stack([values[0, 1], values[1, 3]]))


def test_the_generalised_mean_lies_between_mean_and_maximum_and_learns_its_exponent() -> None:
    pool, values = Pool("gem", "NCHW", 0), unpooled(2, 3, 4, 5).abs()
    pooled = pool(nn.Identity(), values)
    expected = values.numpy().astype(float).__pow__(3).mean((2, 3)) ** (1 / 3)
    np.testing.assert_allclose(pooled.detach().numpy(), expected, rtol=1e-5)
    assert (pooled > values.mean((2, 3))).all()
    assert (pooled < values.amax((2, 3))).all()
    pooled.sum().backward()
    (exponent,) = pool.parameters()
    assert exponent.grad is not None
    assert list(Pool("avg", "NCHW", 0).parameters()) == []


class _Told(nn.Module):
    """A model that notes what its own pooling is told."""

    def forward_head(self, x: Tensor, pre_logits: bool = False, attention_mask: Tensor | None = None) -> Tensor:
        self.mask = attention_mask
        return x[:, 0]


def test_the_models_own_pool_is_told_the_mask() -> None:
    model, mask = _Told(), torch.ones(2, 4)
    Pool("native", "NLC", 0)(model, unpooled(2, 4, 3), mask)
    assert model.mask is mask
    assert attention_mask({"input_ids": mask, "attention_mask": mask}) is mask
    assert attention_mask({"input_ids": mask}) is None
    assert attention_mask(mask) is None


@pytest.mark.parametrize(("layout", "size"), [("NCHW", (2, 3, 4, 5)), ("NHWC", (2, 4, 5, 3)), ("NLC", (2, 21, 3))])
def test_positions_have_their_channels_last_and_no_prefix(layout: str, size: tuple[int, ...]) -> None:
    values = unpooled(*size)
    pool = Pool("native", layout, 1)
    positions = pool.positions(values)
    assert positions.shape == ((2, 20, 3) if layout == "NLC" else (2, 4, 5, 3))
    first = {"NCHW": (..., 0, 0), "NHWC": (slice(None), 0, 0), "NLC": (slice(None), 1)}[layout]
    assert torch.equal(positions.flatten(1, -2)[:, 0], values[first])
    mask = torch.ones(2, 21)
    visible = pool.visible(mask)
    assert visible is not None
    assert visible.shape == (2, 20)


def test_patches_that_fill_a_square_are_a_map() -> None:
    values, images = unpooled(2, 9, 4), torch.zeros(2, 3, 48, 48)
    assert torch.equal(squared(values, images)[:, 1, 2], values[:, 5])
    assert squared(unpooled(2, 8, 4), images).shape == (2, 8, 4)
    assert squared(unpooled(2, 3, 3, 4), images).shape == (2, 3, 3, 4)
    assert squared(values, {"attention_mask": torch.ones(2, 9)}).shape == (2, 9, 4)
