"""Screening: what a round keeps and drops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tlbench.components import Facts
from tlbench.search.screening import SURVIVORS, Standing, champions, cut, sizes


def standing(name: str, accuracy: float, samples: int = 500) -> Standing:
    return Standing(backbone=name, accuracy=accuracy, samples=samples)


def test_sizes() -> None:
    assert sizes(100) == [100]
    assert sizes(1600) == [512]
    assert sizes(50_000) == [512, 2000]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_better_half_is_kept_and_the_dropped_are_clearly_worse(accuracies: list[float]) -> None:
    all_of_them = [standing(f"b{place}", accuracy) for place, accuracy in enumerate(accuracies)]
    by_name = {one.backbone: one for one in all_of_them}
    found = cut(all_of_them, frozenset())
    assert set(found.kept) | set(found.dropped) == set(by_name)
    assert len(found.kept) >= min(len(by_name), max(SURVIVORS, len(by_name) // 2))
    accuracies_kept = [by_name[name].accuracy for name in found.kept]
    assert accuracies_kept == sorted(accuracies_kept, reverse=True)
    better = [one for one in all_of_them if one.backbone in found.kept]
    for name in found.dropped:
        assert sum(by_name[name].interval[1] < one.interval[0] for one in better) >= SURVIVORS


def test_what_is_close_to_the_line_stays() -> None:
    near = [standing(f"b{place}", 0.9) for place in range(SURVIVORS)] + [standing("near", 0.88), standing("far", 0.5)]
    found = cut(near, frozenset())
    assert "near" in found.kept
    assert set(found.dropped) == {"far"}
    assert "0.500" in found.dropped["far"]
    assert cut(near, frozenset({"far"})).dropped == {}


def test_champions() -> None:
    facts = {
        "a": Facts(pretraining="supervised", accuracy=0.7),
        "b": Facts(pretraining="supervised", accuracy=0.9),
        "c": Facts(pretraining="masked"),
        "d": Facts(pretraining="masked"),
    }
    found = champions(facts, [standing("a", 0.9), standing("b", 0.1), standing("c", 0.2), standing("d", 0.3)])
    assert found == {"a", "b", "d"}
    assert champions({"c": Facts()}, []) == frozenset()
    assert champions(facts, [standing("a", 0.9), standing("c", 0.2)]) == {"a", "c"}, "of those looked at"
    equal = {name: Facts(pretraining="supervised", accuracy=0.7) for name in "dba"}
    found = champions(equal, [standing("a", 0.1), standing("b", 0.2), standing("d", 0.1)])
    assert found == {"b", "d"}, "of equal ones the first given"
