"""Latency: how long a saved model takes for one sample on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import final

import torch

from tlbench.evaluation.shipped import SavedModel

CALLS = 50
MOST_S = 5.0
WARM_UP = 5


@final
@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of single samples, one after the other, on the CPU: forward pass with normalisation, without decoding."""

    median_ms: float
    p90_ms: float
    calls: int
    threads: int


def measure_latency(model: SavedModel) -> Latency:
    """Time calls with a prepared example, batch size 1, after some that do not count."""
    example, times = model.preprocess.example(), []
    generator, device = torch.Generator(), torch.device("cpu")
    end = time.perf_counter() + MOST_S
    with torch.inference_mode():
        for call in range(WARM_UP + CALLS):
            start = time.perf_counter()
            model.model(model.preprocess.batch([example], {}, False, generator, device))
            now = time.perf_counter()
            if call >= WARM_UP:
                times.append(1000 * (now - start))
            if now > end and len(times) >= 2:
                break
    p90_ms = statistics.quantiles(times, n=10, method="inclusive")[-1]
    return Latency(median_ms=statistics.median(times), p90_ms=p90_ms, calls=len(times), threads=torch.get_num_threads())
