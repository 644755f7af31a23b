"""Threads: many samples read and decoded, several at a time where that is quicker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

THREADS = min(8, len(os.sched_getaffinity(0)))

QUICK_S = 5e-4
"""Of a sample that takes less, threads spend more on waiting for each other than they gain: 3,000 JPEG files of 32 x 32
pixels, 0.15 ms each, took 1.1 s with two threads and 0.4 s with none; 60 of 1,200 x 1,200 pixels, 15 ms each, 0.6 and
0.9 s."""

ENOUGH = 3
"""Samples in a row that take longer, after which threads do all others: one may have waited for an import or a disk."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@final
class Each(Generic[Item, Result]):
    """Does some work with every item, alone as long as that is quick; what it saw of earlier items it remembers."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work, self._slow = work, 0

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """What the work makes of them, in order; raises what it raises for the first that fails."""
        found = list[Result]()
        while len(found) < len(items) and self._slow < ENOUGH:
            start = time.perf_counter()
            found.append(self._work(items[len(found)]))
            self._slow = self._slow + 1 if time.perf_counter() - start >= QUICK_S else 0
        if len(found) == len(items):
            return found
        from concurrent.futures import ThreadPoolExecutor  # commands that only list do without

        with ThreadPoolExecutor(THREADS) as pool:
            return [*found, *pool.map(self._work, items[len(found) :])]
