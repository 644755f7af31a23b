"""Bundles: heads evaluated together give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tlbench.evaluation import bundle
from tlbench.evaluation.bundle import logits_alone, logits_of
from tlbench.evaluation.heads import LinearHead, MlpHead, NeighbourHead
from tlbench.evaluation.probe import neighbours


def features(samples: int = 30) -> torch.Tensor:
    return torch.randn(samples, 6, generator=torch.Generator().manual_seed(samples))


def heads() -> list[nn.Module]:
    torch.manual_seed(0)
    labels = torch.arange(40) % 3
    votes = [(1, 0.07), (5, 0.5), (90, 0.1)]
    banks = [neighbours(features(40), labels, votes), neighbours(features(41)[:40], labels, votes)]
    mixed: list[nn.Module] = [LinearHead(6, 3), *banks[0], LinearHead(6, 3, dropout=0.5), MlpHead(6, 4, 3), *banks[1]]
    return [*mixed, LinearHead(6, 3), nn.Linear(6, 3), NeighbourHead(6, 40, 3, 2, 0.1)]


@pytest.mark.parametrize("elements", [1, 200, 2**24])
def test_logits_are_those_of_each_head_alone(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(bundle, "MOST_ELEMENTS", elements)
    values = features()
    for head, logits in zip(heads(), logits_of(heads(), values), strict=True):
        assert isinstance(logits, np.ndarray)
        assert (logits.dtype, logits.shape) == (np.float32, (30, 3))
        with torch.inference_mode():
            np.testing.assert_allclose(logits, head.eval()(values), atol=1e-5)


def test_heads_of_one_memory_share_it_and_its_search(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 3
    many = neighbours(features(40), labels, [(count, 0.1) for count in range(1, 20)])
    assert len({head.bank.data_ptr() for head in many}) == 1
    searched: list[int] = []
    real = torch.Tensor.topk

    def topk(self: torch.Tensor, count: int, dim: int) -> object:
        searched.append(count)
        return real(self, count, dim=dim)

    monkeypatch.setattr(torch.Tensor, "topk", topk)
    logits_of(many, features())
    assert searched == [19]


def test_neighbours_are_searched_for_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(40) % 3
    many = neighbours(features(40), labels, [(1, 0.07), (5, 0.5), (90, 0.1)])
    whole = logits_of(many, features())
    with torch.inference_mode():
        np.testing.assert_array_equal(whole, [head(features()).numpy() for head in many])
    searched: list[int] = []
    real = torch.Tensor.topk

    def topk(self: torch.Tensor, count: int, dim: int) -> object:
        searched.append(self.numel())
        return real(self, count, dim=dim)

    monkeypatch.setattr(torch.Tensor, "topk", topk)
    monkeypatch.setattr(bundle, "MOST_ELEMENTS", 8 * 40)
    np.testing.assert_allclose(logits_of(many, features()), whole, atol=1e-5)
    np.testing.assert_allclose(logits_alone(many[1], features()), whole[1], atol=1e-5)
    assert searched == [8 * 40, 8 * 40, 8 * 40, 6 * 40] * 2
    assert logits_alone(many[1], features()[:0]).shape == (0, 3)


def test_a_head_that_fails_fails_alone() -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise SystemExit("bye")

    first, broken, last = logits_of([LinearHead(6, 3), Broken(6, 3), LinearHead(6, 3)], features())
    assert isinstance(broken, SystemExit)
    assert isinstance(first, np.ndarray)
    assert isinstance(last, np.ndarray)
