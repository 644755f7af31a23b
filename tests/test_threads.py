"""Samples read in threads, or without where they are too quick for them."""

from __future__ import annotations

import threading
import time

import pytest

from tlbench.samples.threads import ENOUGH, QUICK_S, THREADS, Each

HERE = threading.current_thread().name


def slow(item: int) -> tuple[int, str]:
    time.sleep(2 * QUICK_S)
    return item, threading.current_thread().name


def quick(item: int) -> tuple[int, str]:
    return item, threading.current_thread().name


def test_results_come_in_order() -> None:
    for work in (slow, quick):
        for count in (0, 1, ENOUGH, ENOUGH + 1, 40):
            assert [item for item, _ in Each(work)(range(count))] == list(range(count))


def test_slow_work_is_done_by_threads() -> None:
    others = {name for _, name in Each(slow)(range(40))[ENOUGH:]}
    assert HERE not in others
    assert 1 <= len(others) <= THREADS


def test_quick_work_is_done_here() -> None:
    """Also where every third sample waits for something."""
    for work in (quick, lambda item: quick(item) if item % ENOUGH else slow(item)):
        assert {name for _, name in Each(work)(range(40))} == {HERE}


def test_quick_ones_before_slow_ones_tell_nothing() -> None:
    """As of an image folder whose first files are empty."""
    found = Each(lambda item: quick(item) if item < 20 else slow(item))(range(60))
    assert {name for _, name in found[:20]} == {HERE}
    assert HERE not in {name for _, name in found[20 + ENOUGH :]}


def test_what_was_seen_is_remembered() -> None:
    work = Each(slow)
    work(range(ENOUGH))
    assert HERE not in {name for _, name in work(range(ENOUGH))}


def test_the_first_failure_is_raised() -> None:
    def broken(item: int) -> int:
        slow(item)
        if item >= 7:
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 7"):
        Each(broken)(range(40))
