"""Speed of a deployed model: latency, throughput, memory and cold start, with what tells whether to believe them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from tlbench.components import IMAGE, TEXT
from tlbench.errors import SpeedError, TlbenchError
from tlbench.evaluation.cold import cold_start
from tlbench.evaluation.complexity import PROVENANCE as COUNTED_BY
from tlbench.evaluation.complexity import complexity
from tlbench.evaluation.conditions import watched
from tlbench.evaluation.deployed import Running, failure_of, find, libraries, start, torch_dtype
from tlbench.evaluation.device import Compute, is_out_of_memory, tf32_kept
from tlbench.evaluation.hardware import driver
from tlbench.evaluation.machine import machine, version
from tlbench.evaluation.model import seeded
from tlbench.evaluation.timing import Stopwatch, offline, single_stream, stopwatch, warm_up
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import Plugins
from tlbench.speed import Latency, SpeedRecord, Throughput


@final
@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is measured."""

    calls: int = 200
    """Of single stream: enough for the 90th percentile; 300 and more for the 99th."""

    batches: tuple[int, ...] = (1, 8)
    blocks: int = 5
    block_s: float = 0.2
    most_s: float = 8.0
    """For the calls of single stream and for the blocks of a batch size: slow models make fewer, at least 30 and 3."""

    warm_up_s: float = 2.0
    cold: bool = False
    """Whether a fresh process tells cold start and resident memory."""


BRIEF = Protocol(calls=50, batches=(1, 8), blocks=3, block_s=0.1, most_s=2.0, warm_up_s=1.0)
"""For finals of a run and for limits: what a search can spare."""

FULL = Protocol(calls=1000, batches=(1, 8, 32, 128), most_s=20.0, cold=True)

PREPROCESS_CALLS = 30
REFERENCE_CALLS = 20
REFERENCE_WARM_UP_S = 0.3
REFERENCE_SIZE = 224
_MIB = 2**20


def measure(source: Source, variant: Variant, compute: Compute, protocol: Protocol, plugins: Plugins) -> SpeedRecord:
    """Measure a model on this machine. What speaks against the figures is in the record, too.

    Raises `TlbenchError` where there is no such model, or where it cannot be run in this way.
    """
    deployed = find(source, plugins).load()
    try:
        with tf32_kept(compute):
            record = measure_running(start(deployed, variant, compute), protocol)
    except TlbenchError:
        raise
    except Exception as error:  # whatever an architecture, a compiler or a runtime comes up with
        way = variant.in_words or "here"
        name = deployed.subject.backbone.name
        raise SpeedError(f"'{name}' cannot be run {way}: {failure_of(error)}") from error
    if protocol.cold:
        cold = cold_start(source, variant, str(compute.device), compute.threads)
        memory = {name: value for name, value in cold.items() if name.endswith("_resident")}
        times = {name: value for name, value in cold.items() if name not in memory}
        record = replace(record, cold=times, memory={**record.memory, **memory})
    return record


def measured(source: Source, variant: Variant, compute: Compute, protocol: Protocol, plugins: Plugins) -> SpeedRecord:
    """The same, once more where something speaks against the first figures."""
    record = measure(source, variant, compute, protocol, plugins)
    return record if record.speed_ok else measure(source, variant, compute, protocol, plugins)


def measure_running(running: Running, protocol: Protocol) -> SpeedRecord:
    """Measure a model that is ready to run."""
    compute, begun = running.compute, datetime.now(UTC)
    watch = stopwatch(compute)
    memory: dict[str, Any] = {"weights": weights_mib(running.deployed.model, running.variant)}
    with watched(compute) as observed:
        before = reference_ms(compute, watch)
        others = compute.allocated_bytes() - running.placed_bytes
        inputs = running.inputs(1)
        warm = warm_up(partial(running.answer, inputs), watch, protocol.warm_up_s)
        latency = single_stream(partial(running.answer, inputs), watch, protocol.calls, protocol.most_s)
        throughput = [_throughput(running, batch, protocol, watch, memory, others) for batch in protocol.batches]
        alone_ms, together = _with_preprocess(running, watch, protocol)
        after = reference_ms(compute, watch)
    counted = complexity(running.deployed.model, running.deployed.example)
    return SpeedRecord(
        subject=running.deployed.subject,
        setting=running.setting,
        libraries=libraries(),
        latency=latency,
        latency_with_preprocess=together,
        preprocess_ms=alone_ms,
        throughput=throughput,
        settled=warm.settled,
        warm_up={"calls": warm.calls, "seconds": warm.seconds},
        reference_ms=(before, after),
        conditions=observed.conditions,
        complexity={**asdict(counted), **COUNTED_BY},
        memory=memory,
        provenance=_provenance(running, begun),
    )


def reference_ms(compute: Compute, watch: Stopwatch) -> float:
    """Median latency of torchvision's ResNet-18 at 224 x 224: the same work each time, so that it shows a drift."""
    model = _reference()
    if compute.device.type != "cpu":
        model = deepcopy(model).to(compute.device)  # gone in the end: it would be memory that every model takes
    image = torch.zeros(1, 3, REFERENCE_SIZE, REFERENCE_SIZE, device=compute.device)

    def call() -> None:
        with torch.inference_mode():
            model(image)

    warm_up(call, watch, REFERENCE_WARM_UP_S)
    return single_stream(call, watch, REFERENCE_CALLS, most_s=0.0).p50_ms


def weights_mib(model: nn.Module, variant: Variant) -> float:
    """Parameters and buffers as they are served."""
    smaller = torch_dtype(variant) != torch.float32
    tensors = model.state_dict().items()
    return sum(_bytes(tensor, smaller and name.startswith("backbone.")) for name, tensor in tensors) / _MIB


def _bytes(tensor: Tensor, halved: bool) -> int:
    return tensor.numel() * (2 if halved and tensor.is_floating_point() else tensor.element_size())


@cache
def _reference() -> nn.Module:
    with seeded("reference"):
        model: nn.Module = resnet18(weights=None)
    return model.eval()


def _throughput(
    running: Running, batch: int, protocol: Protocol, watch: Stopwatch, memory: dict[str, Any], others: int
) -> Throughput:
    """One batch size; that there is no memory for it is a result, and no smaller one is tried in its place.

    `others`: bytes that something else than the model and its inputs takes of a GPU, and that are not counted.
    """
    device = running.compute.device
    cuda = device.type == "cuda"
    try:
        inputs = running.inputs(batch)
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        found = offline(partial(running.answer, inputs), watch, protocol.blocks, protocol.block_s, protocol.most_s)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if cuda:
            torch.cuda.empty_cache()
        failure = f"oom: {failure_of(error)}"
        return Throughput(batch=batch, per_s=None, iqr_relative=None, blocks=0, failure=failure)
    if cuda:
        memory.setdefault("peak_allocated", {})[str(batch)] = (torch.cuda.max_memory_allocated(device) - others) / _MIB
        memory.setdefault("peak_reserved", {})[str(batch)] = torch.cuda.max_memory_reserved(device) / _MIB
    return Throughput(batch=batch, per_s=found.per_s * batch, iqr_relative=found.iqr_relative, blocks=found.count)


def _with_preprocess(running: Running, watch: Stopwatch, protocol: Protocol) -> tuple[float | None, Latency | None]:
    """Median milliseconds of preprocessing one raw sample, and latency with it; None for a plugin's own modality."""
    raw, prepare = raw_sample(running.deployed.modality), running.deployed.preprocess.prepare
    if raw is None:
        return None, None
    calls = min(PREPROCESS_CALLS, protocol.calls)
    alone = single_stream(lambda: running.converted([prepare(raw)]), watch, calls, most_s=0.0)
    together = single_stream(lambda: running.answer(running.converted([prepare(raw)])), watch, calls, protocol.most_s)
    return alone.p50_ms, together


def raw_sample(modality: str) -> Any:
    """A sample as a data set gives it: an image of 500 x 375, as most of ImageNet are, or 20 words; None for others."""
    if modality == IMAGE:
        return np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    return " ".join(["The second half is better than the first by far."] * 2) if modality == TEXT else None


def _provenance(running: Running, begun: datetime) -> dict[str, Any]:
    return {
        "started_utc": begun.isoformat(),
        "ended_utc": datetime.now(UTC).isoformat(),
        "machine": machine(),
        "driver": driver() if running.compute.device.type == "cuda" else None,
        "tlbench": version("tlbench"),
        "random_weights": running.deployed.random,
    }
