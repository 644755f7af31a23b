"""Whether tlbench's clock agrees with `torch.utils.benchmark.Timer`, on the same model, threads and input.

    python benchmarks/performance/speed_agreement.py

prints a Markdown table. Per round each model is timed by both in turn, ours first in even rounds and last in odd ones;
reported are the medians over the rounds of ours divided by the Timer's (`blocked_autorange`): latency of single
samples and throughput of batches of 8. The last column compares tlbench's two figures with each other: throughput at
batch 1 times median latency, which is 1 where every call is waited for.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.benchmark import Timer

from tlbench.benchmark import Device
from tlbench.evaluation.deployed import Running, find, start
from tlbench.evaluation.device import Compute, open_compute
from tlbench.evaluation.timing import offline, single_stream, stopwatch, warm_up
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import discover

MODELS = (
    "timm/resnet18.a1_in1k",
    "timm/mobilenetv3_small_100.lamb_in1k",
    "timm/efficientnet_b0.ra_in1k",
    "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "timm/convnext_atto.d2_in1k",
)
CALLS = 60
BATCH = 8


def timer_s(running: Running, batch: int, threads: int) -> float:
    """Seconds of one call by torch's own timer, the median of its blocks."""
    names = {"run": running.run, "inputs": running.inputs(batch), "torch": torch}
    timer = Timer("with torch.inference_mode(): run(inputs)", globals=names, num_threads=threads)
    return timer.blocked_autorange(min_run_time=1.0).median


def ours(running: Running, compute: Compute) -> tuple[float, float, float]:
    """Median latency in seconds, samples a second in batches of 8 and of 1."""
    watch, call = stopwatch(compute), partial(running.answer, running.inputs(1))
    warm_up(call, watch, most_s=2.0)
    latency = single_stream(call, watch, CALLS, most_s=60.0)
    rates = [
        batch * offline(partial(running.answer, running.inputs(batch)), watch, 5, 0.2, 60.0).per_s
        for batch in (BATCH, 1)
    ]
    return latency.p50_ms / 1000, rates[0], rates[1]


def compared(name: str, compute: Compute, rounds: int) -> str:
    """A line of the table."""
    running = start(find(Source(backbone=name, classes=1000), discover()).load(), Variant(), compute)
    latencies, throughputs, products = [], [], []
    for number in range(rounds):
        both: list[Callable[[], tuple[float, ...]]] = [
            lambda: ours(running, compute),
            lambda: (timer_s(running, 1, compute.threads), BATCH / timer_s(running, BATCH, compute.threads)),
        ]
        first, second = (both[0](), both[1]()) if number % 2 == 0 else tuple(reversed((both[1](), both[0]())))
        latencies.append(first[0] / second[0])
        throughputs.append(first[1] / second[1])
        products.append(first[2] * first[0])
    cells = (f"{statistics.median(ratios):.3f}" for ratios in (latencies, throughputs, products))
    return f"| `{name}` | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    compute = open_compute(Device(kind=options.device, threads=options.threads), workers=1)
    print("| backbone | latency, ours : Timer | throughput, ours : Timer | throughput x latency |")
    print("| :-- | --: | --: | --: |")
    for name in MODELS:
        print(compared(name, compute, options.rounds), flush=True)


if __name__ == "__main__":
    main()
