"""Timing: latencies of single calls and throughput of many, by a clock that waits for the device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from tlbench.evaluation.device import Compute
from tlbench.speed import UNSTEADY, Latency

WINDOW, LEAST_WINDOW = 10, 3
"""Calls whose median is compared with that of as many before them, to see whether latency has settled."""

WINDOW_S = 0.5
"""A window of slow calls is shorter: as many as take so long."""

BOUNDED = {90: 29, 99: 299}
"""Calls from which on a percentile has a one-sided 95 % bound: the least n with 1 - q^n >= 0.95."""

LEAST_CALLS = 30
LEAST_BLOCKS = 3

Call = Callable[[], object]


@final
@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Measures calls on a device that may return from them before they are done."""

    clock: Callable[[], float] = time.perf_counter
    """Seconds, monotonic."""

    wait: Callable[[], None] = lambda: None
    """Returns when the device has nothing left to do."""

    events: bool = False
    """Whether blocks are timed by CUDA's events, which the device itself stamps."""

    def seconds(self, run: Call) -> float:
        """What `run` takes until the device is done."""
        self.wait()
        start = self.clock()
        run()
        self.wait()
        return self.clock() - start

    def block_s(self, run: Call) -> float:
        """The same for many calls in one go: on a GPU by events, without what the host does around them."""
        if not self.events:
            return self.seconds(run)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self.wait()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def stopwatch(compute: Compute) -> Stopwatch:
    """The stopwatch for a device."""
    return Stopwatch(wait=compute.synchronise, events=compute.device.type == "cuda")


@final
@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What was run before anything counts."""

    calls: int
    seconds: float
    settled: bool


def warm_up(call: Call, watch: Stopwatch, most_s: float) -> WarmUp:
    """Call until the median latency of a window differs from that of the one before by less than 3 %, or time is over.

    At least twice, however long that takes.
    """
    times: list[float] = []
    while True:
        times.append(watch.seconds(call))
        window = min(max(math.ceil(WINDOW_S / statistics.median(times)), LEAST_WINDOW), WINDOW)
        last, before = times[-window:], times[-2 * window : -window]
        settled = len(before) == window and abs(statistics.median(last) / statistics.median(before) - 1) < UNSTEADY
        if settled or (len(times) >= 2 and sum(times) >= most_s):
            return WarmUp(calls=len(times), seconds=sum(times), settled=settled)


def single_stream(call: Call, watch: Stopwatch, calls: int, most_s: float) -> Latency:
    """Time `calls` calls, each waited for; after `most_s` fewer, but not fewer than 30."""
    times: list[float] = []
    while len(times) < calls and (len(times) < LEAST_CALLS or sum(times) < most_s):
        times.append(watch.seconds(call))
    return latency(times)


def latency(times_s: Sequence[float]) -> Latency:
    """What is told of latencies in the order measured, in seconds."""
    times = 1000 * np.asarray(times_s)
    half = len(times) // 2
    p90, p99 = (float(np.percentile(times, q)) if len(times) >= least else None for q, least in BOUNDED.items())
    return Latency(
        p50_ms=float(np.median(times)),
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times.mean()),
        std_ms=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        calls=len(times),
        moved=abs(float(np.median(times[half:]) / np.median(times[:half])) - 1) if half else 0.0,
    )


@final
@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Rates of blocks of calls."""

    per_s: float
    """Calls per second, the median."""

    iqr_relative: float
    count: int


def offline(call: Call, watch: Stopwatch, blocks: int, block_s: float, most_s: float) -> Blocks:
    """Time `blocks` blocks of so many calls that each takes `block_s`; after `most_s` fewer, but not fewer than 3.

    A first call is made to warm up and to see how many fill a block.
    """
    call()
    calls = max(1, math.ceil(block_s / max(watch.seconds(call), 1e-9)))

    def block() -> None:
        for _ in range(calls):
            call()

    times: list[float] = []
    while len(times) < blocks and (len(times) < LEAST_BLOCKS or sum(times) < most_s):
        times.append(watch.block_s(block))
    low, middle, high = np.percentile([calls / seconds for seconds in times], [25, 50, 75])
    return Blocks(per_s=float(middle), iqr_relative=float((high - low) / middle), count=len(times))
