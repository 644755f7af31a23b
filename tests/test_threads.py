"""Samples read in threads, or without where they are too quick for them."""

from __future__ import annotations

import threading
import time

import pytest

from tlbench.samples.threads import QUICK_S, THREADS, TRIED, each


def slow(item: int) -> tuple[int, str]:
    time.sleep(2 * QUICK_S)
    return item, threading.current_thread().name


def quick(item: int) -> tuple[int, str]:
    return item, threading.current_thread().name


def test_results_come_in_order() -> None:
    for work in (slow, quick):
        for count in (0, 1, TRIED, TRIED + 1, 40):
            assert [item for item, _ in each(work, range(count))] == list(range(count))


def test_slow_work_is_done_by_threads_and_quick_work_here() -> None:
    here = threading.current_thread().name
    assert {name for _, name in each(quick, range(40))} == {here}
    others = {name for _, name in each(slow, range(40))[TRIED:]}
    assert here not in others
    assert 1 <= len(others) <= THREADS


def test_one_quick_sample_of_the_first_tells() -> None:
    """Whatever the first brings with it."""
    here = threading.current_thread().name
    found = each(lambda item: slow(item) if item < TRIED - 1 else quick(item), range(40))
    assert {name for _, name in found} == {here}


def test_the_first_failure_is_raised() -> None:
    def broken(item: int) -> int:
        slow(item)
        if item >= 7:
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 7"):
        each(broken, range(40))
