"""Answering: validation chooses, and nobody is the better for easy folds."""

from __future__ import annotations

import pytest

from tlbench.search.answering import Contender, Validated, in_order
from tlbench.trial import NO_BACKBONE


def contender(
    name: str, *validations: tuple[int, float], is_default: bool = False, backbone: str = "zoo/a", samples: int = 100
) -> Contender[str]:
    """`validations`: fold and score of each seed."""
    return Contender(
        of=name,
        validations=[Validated(fold=fold, score=score, samples=samples) for fold, score in validations],
        names=(backbone, name),
        is_default=is_default,
    )


def names(contenders: list[Contender[str]], metric: str) -> list[str]:
    return [placed.of for placed in in_order(contenders, metric)]


def test_the_mean_over_seeds_decides_and_equal_ones_are_in_order_of_names() -> None:
    several = [contender("b", (0, 0.7), (0, 0.9)), contender("c", (0, 0.75)), contender("a", (0, 0.8))]
    assert names(several, "accuracy") == ["a", "b", "c"]
    assert names(several, "nll") == ["c", "a", "b"]


def test_easy_folds_that_others_lack_count_for_nobody() -> None:
    unlucky = contender("unlucky", (0, 0.82), (1, 0.2), (2, 0.2))
    lucky = contender("lucky", (0, 0.81), (3, 0.99))
    assert names([lucky, unlucky], "accuracy") == ["unlucky", "lucky"]


def test_who_lacks_folds_leaves_the_others_theirs() -> None:
    """The unbalanced two-way layout by hand: a and b differ by 0.02 on three folds, c is 0.005 behind a on its one."""
    a = contender("a", (0, 0.8), (1, 0.6), (2, 0.7))
    b = contender("b", (0, 0.82), (1, 0.62), (2, 0.72))
    c = contender("c", (0, 0.795))
    placed = in_order([a, b, c], "accuracy")
    assert [one.of for one in placed] == ["b", "a", "c"]
    assert [one.validation for one in placed] == pytest.approx([0.72, 0.7, 0.695])


def test_without_a_shared_fold_each_one_s_own_decide() -> None:
    assert names([contender("a", (0, 0.5)), contender("b", (1, 0.6))], "accuracy") == ["b", "a"]


def test_a_control_without_a_fold_takes_it_from_nobody() -> None:
    control = contender("control", (0, 0.1), backbone=NO_BACKBONE.name)
    several = [contender("a", (0, 0.6), (1, 0.1)), contender("b", (0, 0.5), (1, 0.5)), control]
    assert names(several, "accuracy") == ["b", "a", "control"]


@pytest.mark.parametrize(("folds", "first"), [(1, "default"), (5, "better")])
def test_more_folds_tell_what_is_better_than_the_defaults_from_noise(folds: int, first: str) -> None:
    default = contender("default", *((fold, 0.70) for fold in range(folds)), is_default=True)
    better = contender("better", *((fold, 0.73) for fold in range(folds)))
    assert names([default, better], "accuracy")[0] == first


def test_nobody_is_in_no_order() -> None:
    assert names([], "accuracy") == []
