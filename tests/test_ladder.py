"""The ladder: who is promoted, and when nothing more is to be learned from longer training."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbench.search.ladder import FACTOR, Ladder, rungs


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (9, [1, 3, 9]), (10, [1, 3, 10])])
def test_rungs(most: int, expected: list[int]) -> None:
    assert rungs(most) == expected


@given(st.integers(1, 500))
def test_rungs_ascend_to_the_most(most: int) -> None:
    found = rungs(most)
    assert found[0] == 1
    assert found[-1] == most
    assert found == sorted(set(found))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True))
def test_a_third_is_promoted_and_it_is_the_best(scores: list[float]) -> None:
    ladder = Ladder(rungs=[1, 3, 9])
    for place, score in enumerate(scores):
        ladder.add(f"r{place}", 1, score)
    promoted = [name for name, epochs in ladder.promotable() if epochs == 3]
    assert len(promoted) == len(scores) // FACTOR
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[: len(promoted)]
    assert promoted == [f"r{place}" for place in best]


def test_nobody_is_promoted_twice_and_the_highest_rung_goes_first() -> None:
    ladder = Ladder(rungs=[1, 3, 9])
    for name, score in zip("abcdefghi", range(9), strict=True):
        ladder.add(name, 1, score / 10)
    assert [name for name, _ in ladder.promotable()] == ["i", "h", "g"]
    for name, score in (("i", 0.5), ("h", 0.9), ("g", 0.6)):
        ladder.promote(name, 3)
        ladder.add(name, 3, score)
    assert ladder.promotable() == [("h", 9)]
    ladder.promote("h", 9)
    assert ladder.promotable() == []


def test_failed_ones_and_the_last_rung_are_never_promoted() -> None:
    ladder = Ladder(rungs=[1, 2])
    for name in "abc":
        ladder.add(name, 1, None)
    assert ladder.promotable(least=1) == []
    ladder.add("d", 2, 0.9)
    assert ladder.promotable(frozenset("d"), least=1) == []


def test_protected_and_least() -> None:
    ladder = Ladder(rungs=[1, 3])
    ladder.add("a", 1, 0.9)
    ladder.add("b", 1, 0.1)
    assert ladder.promotable() == []
    assert ladder.promotable(frozenset("b")) == [("b", 3)]
    assert ladder.promotable(least=1) == [("a", 3)]


def climbed(orders: dict[str, tuple[float, float]]) -> Ladder:
    ladder = Ladder(rungs=[1, 3, 9])
    for name, (low, high) in orders.items():
        ladder.add(name, 1, low)
        ladder.promote(name, 3)
        ladder.add(name, 3, high)
    return ladder


def test_rungs_that_agree_promote_the_best_alone() -> None:
    same = {name: (place / 10, place / 10 + 0.1) for place, name in enumerate("abcdef")}
    assert climbed(same).promotable() == [("f", 9)]


def test_rungs_that_disagree_promote_a_third() -> None:
    turned = {name: (place / 10, 0.9 - place / 10) for place, name in enumerate("abcdef")}
    assert climbed(turned).promotable() == [("a", 9), ("b", 9)]


def test_level_scores_do_not_disagree() -> None:
    level = {name: (place / 10, 0.5 - place / 10000) for place, name in enumerate("abcdef")}
    assert climbed(level).promotable() == [("a", 9)]


def test_who_skips_a_rung_is_not_promoted_to_it_and_orders_nobody_there() -> None:
    ladder = Ladder(rungs=[1, 3, 9, 27])
    for name, score in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        ladder.add(name, 1, score)
    assert ladder.reached("c") == 1
    ladder.promote("c", 9)
    ladder.add("c", 9, 0.9)
    assert ladder.reached("c") == 9
    assert ladder.reached("nobody") == 0
    assert ladder.promotable(protected=frozenset("c"), least=1) == [("c", 27)]
