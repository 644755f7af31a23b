"""Neighbours left one out, against heads and scikit-learn on all other samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from tlbench.evaluation import neighbours
from tlbench.evaluation.heads import NeighbourHead
from tlbench.evaluation.neighbours import cosine, euclidean, leave_one_out

VOTES = [(1, 0.07), (7, 0.07), (20, 0.5), (5, math.inf)]


def digits(classes: int = 10, samples: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy ones, of which no two are equally far from a third."""
    values, labels = load_digits(n_class=classes, return_X_y=True)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(values).float() + noise)[:samples], torch.from_numpy(labels[:samples])


def test_it_is_what_heads_without_the_sample_say() -> None:
    features, labels = digits()
    found = leave_one_out(features, labels, VOTES)
    for logits, (count, temperature) in zip(found, VOTES, strict=True):
        for left_out in range(len(labels)):
            rest = torch.arange(len(labels)) != left_out
            head = NeighbourHead(64, len(labels) - 1, 10, count, temperature)
            head.remember(features[rest], labels[rest])
            torch.testing.assert_close(logits[left_out], head(features[[left_out]])[0], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_euclidean_votes_are_scikit_learns(count: int) -> None:
    """With equal weights, and with those that fall with half the squared distance."""
    features, labels = digits()
    weightings = {math.inf: "uniform", 50.0: lambda distances: np.exp(-(distances**2) / 2 / 50.0)}
    found = leave_one_out(features, labels, [(count, each) for each in weightings], similarity=euclidean)
    for logits, weights in zip(found, weightings.values(), strict=True):
        for left_out in range(len(labels)):
            rest = np.arange(len(labels)) != left_out
            model = KNeighborsClassifier(count, weights=weights, algorithm="brute")
            model.fit(features[rest].double().numpy(), labels[rest].numpy())
            expected = model.predict_proba(features[[left_out]].double().numpy())[0]
            np.testing.assert_allclose(logits[left_out].softmax(0), expected, atol=1.5e-3)


def test_similarities_agree_on_features_of_length_one() -> None:
    features, labels = digits()
    unit = torch.nn.functional.normalize(features.double())
    one = leave_one_out(unit, labels, VOTES, similarity=euclidean)
    torch.testing.assert_close(one, leave_one_out(unit, labels, VOTES, similarity=cosine), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("similarity", [cosine, euclidean])
def test_neither_parts_nor_order_matter(monkeypatch: pytest.MonkeyPatch, similarity: neighbours.Similarity) -> None:
    features, labels = digits()
    expected = leave_one_out(features, labels, VOTES, similarity=similarity)
    monkeypatch.setattr(neighbours, "MOST_ELEMENTS", 120 * 7)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    found = leave_one_out(features[order], labels[order], VOTES, similarity=similarity)
    torch.testing.assert_close(found, expected[:, order], rtol=0.0, atol=1e-4)


def test_scale_and_offset() -> None:
    """Cosines know no scale of a sample, distances no offset; both bear any scale."""
    features, labels = digits()
    scaled = features.double() * torch.logspace(-30, 30, len(features))[:, None].double()
    torch.testing.assert_close(
        leave_one_out(scaled, labels, VOTES), leave_one_out(features, labels, VOTES), rtol=0.0, atol=1e-4
    )
    equal = [(count, math.inf) for count in (1, 5)]
    expected = leave_one_out(features, labels, equal, similarity=euclidean)
    for changed in (features.double() + 1e4, features * 1e30, features * 1e-30):
        found = leave_one_out(changed, labels, equal, similarity=euclidean)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_a_repeated_sample_is_its_own_neighbour_and_a_lonely_one_has_none() -> None:
    features, labels = digits(samples=30)
    for similarity in (cosine, euclidean):
        twice = leave_one_out(features.repeat(2, 1), labels.repeat(2), [(1, 0.07)], similarity=similarity)
        assert (twice[0].argmax(1) == labels.repeat(2)).all()
        alone = leave_one_out(features[:1], labels[:1], VOTES, similarity=similarity, classes=10)
        torch.testing.assert_close(alone.softmax(2), torch.full((4, 1, 10), 0.1))


def test_more_neighbours_than_others_are_all_of_them() -> None:
    features, labels = digits(samples=12)
    many, others = leave_one_out(features, labels, [(50, 0.07), (11, 0.07)], classes=14)
    assert many.shape == (12, 14)
    torch.testing.assert_close(many, others)


@pytest.mark.parametrize("similarity", [cosine, euclidean])
def test_features_that_never_vary_are_harmless(similarity: neighbours.Similarity) -> None:
    for value in (0.0, 7.0):
        assert (
            leave_one_out(torch.full((9, 2), value), torch.arange(9) % 3, VOTES, similarity=similarity).isfinite().all()
        )
