"""The device of a run: kind, threads, number format, memory that runs out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from tlbench.benchmark import Device
from tlbench.errors import BenchmarkError

BATCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**25}
"""Most input elements that go through a model at once, by kind of device: 21 images of 128 x 128 pixels keep their
activations in a CPU's caches, 222 of 224 x 224 fill a GPU. How a batch is split changes only the last bits.
"""

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Names of glibc's malloc.h for what `mallopt` sets."""


@final
@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and in which number format a worker computes."""

    device: torch.device
    dtype: torch.dtype
    """Of autocast; float32: no autocast."""

    threads: int
    channels_last: bool = False
    """Whether images that pass through frozen networks lie in memory channels last; in training the recipe says."""

    others: tuple[tuple[torch.dtype, bool], ...] = ()
    """Other number formats, and layouts in them, for networks that are faster so; empty: all compute as said above."""

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision as configured."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def dtype_name(self) -> str:
        """The number format in a benchmark file's words."""
        return str(self.dtype).removeprefix("torch.")

    def lay_out(self, inputs: Any) -> Any:
        """Inputs of a frozen network in the layout that was chosen."""
        turned = self.channels_last and are_images(inputs)
        return inputs.contiguous(memory_format=torch.channels_last) if turned else inputs

    def samples_that_fit(self, elements: int) -> int:
        """How many samples of so many input elements go through a model at once; at least one."""
        return max(1, BATCH_ELEMENTS[self.device.type] // max(1, elements))

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def allocated_bytes(self) -> int:
        """What tensors take of the GPU now; 0 on the CPU, where nobody counts."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def open_compute(device: Device, workers: int) -> Compute:
    """The compute that a benchmark's `[device]` asks for; sets this process's threads and GPU.

    `auto` takes the GPU where there is one, and bfloat16 where that GPU has it; a CPU that multiplies bfloat16 computes
    in it what is faster in it, and in float32 all else. The layout of images is chosen likewise. TF32 is off: torch's
    own default has float32 convolutions in TF32 and matrix products not.
    """
    threads = device.threads or max(1, len(os.sched_getaffinity(0)) // workers)
    torch.set_num_threads(threads)
    kind = device.kind
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise BenchmarkError(f"device.kind = '{kind}', but torch sees no GPU: use 'cpu' or 'auto'")
    chosen = torch.device(kind)
    if chosen.type == "cuda":
        _take(chosen)
    dtype = _dtype(device.dtype, chosen)
    others = other_ways(dtype, may_round=device.dtype == "auto" and chosen.type == "cpu" and multiplies_bf16())
    return Compute(device=chosen, dtype=dtype, threads=threads, others=others)


def _take(device: torch.device) -> None:
    """Let this be the GPU that torch means where none is named, and its float32 be float32."""
    if device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise BenchmarkError(f"device.kind = '{device}', but torch sees no GPU beyond 'cuda:{count - 1}'")
        torch.cuda.set_device(device)
    set_tf32(False)


def set_tf32(allowed: bool) -> None:
    """Whether GPUs may multiply float32 in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def tf32_allowed() -> tuple[bool, bool]:
    """Whether they may in matrix products, and in convolutions."""
    return bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)


@contextmanager
def tf32_kept(compute: Compute) -> Iterator[None]:
    """Whether a GPU may use TF32 is afterwards as it was before."""
    if compute.device.type != "cuda":
        yield
        return
    before = tf32_allowed()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def are_images(inputs: Any) -> bool:
    """Whether a network's inputs are a batch of images [n, channels, height, width]."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4


def keep_freed_memory() -> None:
    """Let this process keep up to a GiB that it has freed, where the C library is glibc.

    By default activations of more than 32 MiB go back to the system at once and come as new pages the next time: a
    forward pass of MobileNetV2 over 21 images of 128 x 128 pixels took 1.65 times as much processor time.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**28)
        library.mallopt(_TRIM_THRESHOLD, 2**30)


def return_freed_memory() -> None:
    """Let this process give back to the system what it has freed and kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def other_ways(dtype: torch.dtype, *, may_round: bool) -> tuple[tuple[torch.dtype, bool], ...]:
    """Number formats and layouts beside `dtype` and channels first.

    Of bfloat16 channels last alone: of four networks two are faster so by a fifth and a third, two take as long.
    """
    return ((dtype, True), *(((torch.bfloat16, True),) if may_round else ()))


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16: where they are imitated everything is many times slower."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer versions tell
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
