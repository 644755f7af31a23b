"""Heads: logits of their shape, padding ignored, and the same head again from its description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from tlbench.errors import BenchmarkError
from tlbench.evaluation.heads import (
    UNPOOLED,
    AttentionHead,
    ConvHead,
    LinearHead,
    MlpHead,
    NeighbourHead,
    fresh,
    restored,
)
from tlbench.spaces import HEADS, resolve

MADE: list[Any] = [
    LinearHead(12, 3),
    MlpHead(12, 5, 3),
    NeighbourHead(12, 20, 3, neighbours=4, temperature=0.1),
    ConvHead(1, 12, 5, 3),
    ConvHead(2, 12, 5, 3),
    AttentionHead(12, 3),
]


def values(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def inputs(head: nn.Module) -> Tensor:
    if not isinstance(head, UNPOOLED):
        return values(6, 12)
    return values(6, 4, 5, 12) if getattr(head, "axes", 1) == 2 else values(6, 7, 12)


@pytest.mark.parametrize("head", MADE, ids=lambda head: f"{head.kind}-{getattr(head, 'axes', '')}")
def test_a_head_is_rebuilt_from_its_description(head: Any) -> None:
    if isinstance(head, NeighbourHead):
        head.remember(values(20, 12, seed=1), torch.arange(20) % 3)
    again = restored(head.description)
    again.load_state_dict(head.state_dict())
    logits = head.eval()(inputs(head))
    assert logits.shape == (6, 3)
    assert torch.isfinite(logits).all()
    assert torch.equal(again.eval()(inputs(head)), logits)


def test_an_unknown_description_is_refused() -> None:
    with pytest.raises(KeyError):
        restored({"kind": "quantum"})


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("axes", [1, 2])
def test_a_recipe_gives_every_head(name: str, axes: int) -> None:
    recipe = resolve({"head": name, "head_width": 7, "dropout": 0.5})
    head = fresh(recipe, width=10, axes=axes, channels=12, classes=3).train()
    given = inputs(head) if isinstance(head, UNPOOLED) else values(6, 10)
    assert head(given).shape == (6, 3)
    assert not torch.equal(head(given), head(given)), "dropout"
    assert torch.equal(head.eval()(given), head(given))


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_a_head_that_pools_needs_positions(name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"head '{name}' needs features with positions"):
        fresh(resolve({"head": name}), width=10, axes=0, channels=0, classes=3)


@pytest.mark.parametrize("head", [ConvHead(1, 12, 5, 3), AttentionHead(12, 3)], ids=["conv", "attention"])
def test_padding_changes_no_logit(head: nn.Module) -> None:
    """One sample alone, and among padding that holds anything."""
    alone = values(1, 4, 12)
    padded = torch.cat([alone, torch.full((1, 3, 12), 50.0)], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(head(padded, mask), head(alone), rtol=1e-4, atol=1e-5)


def test_a_convolution_sees_neighbours_and_a_plain_pool_does_not() -> None:
    head, sequence = ConvHead(1, 12, 5, 3), values(2, 9, 12)
    assert not torch.allclose(head(sequence), head(sequence[:, torch.randperm(9)]), atol=1e-4)


def test_neighbours_agree_with_scikit_learn() -> None:
    bank, labels, new = values(60, 8, seed=1), torch.arange(60) % 3, values(40, 8, seed=2)
    head = NeighbourHead(8, 60, 3, neighbours=7, temperature=0.2)
    head.remember(bank, labels)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.2)

    reference = KNeighborsClassifier(7, weights=weights, metric="cosine", algorithm="brute")
    expected = reference.fit(bank.numpy(), labels.numpy()).predict_proba(new.numpy())
    np.testing.assert_allclose(head(new).softmax(1).numpy(), expected, atol=2e-3)
    np.testing.assert_array_equal(head(new).argmax(1).numpy(), expected.argmax(1))
    torch.testing.assert_close(head(5 * new), head(new))


def test_more_neighbours_than_samples_are_all_of_them() -> None:
    head = NeighbourHead(4, 3, 2, neighbours=50, temperature=1.0)
    head.remember(values(3, 4), torch.tensor([0, 1, 1]))
    assert torch.isfinite(head(values(5, 4))).all()
