"""Cost: what a trial takes of the machine: time, memory, energy."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import torch

from tlbench.evaluation.device import Compute, return_freed_memory
from tlbench.evaluation.energy import Energy, open_meter

PROCESS = Path("/proc/self")
"""Where Linux shows this process."""

_RESET_PEAK = "5"
"""Written to `clear_refs`, lets the highest resident size start again at the present one (proc(5), Linux 4.0)."""


@final
class Cost:
    """What is taken from now on. Unknown is None."""

    def __init__(self, compute: Compute, workers: int) -> None:
        """`workers`: where several share the machine, no meter can tell what one of them takes."""
        self._start = time.monotonic()
        self._device = compute.device if _forget_device_peak(compute.device) else None
        self._resident = _forget_resident_peak()
        self._energy = Energy(open_meter(compute.device) if workers == 1 else None)

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start

    def look(self) -> None:
        """Read what has to be read now and then."""
        self._energy.look()

    def so_far(self) -> dict[str, Any]:
        """Seconds, the most memory held at once, joules.

        `peak_reserved_mib` and `peak_rss_mib` count what the process keeps for later trials, libraries included.
        """
        allocated = reserved = None
        if self._device is not None:
            allocated = torch.cuda.max_memory_allocated(self._device) / 2**20
            reserved = torch.cuda.max_memory_reserved(self._device) / 2**20
        return {
            "total_s": self.elapsed_s,
            "peak_allocated_mib": allocated,
            "peak_reserved_mib": reserved,
            "peak_rss_mib": resident_peak_mib() if self._resident else None,
            **self._energy.counted(),
        }


def _forget_device_peak(device: torch.device) -> bool:
    """Let a GPU's peaks start again; whether that was done."""
    if device.type != "cuda":
        return False
    with suppress(RuntimeError):  # a GPU that others filled: the trial itself will say so
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
        return True
    return False


def _forget_resident_peak() -> bool:
    """Let the process's highest resident size start again; whether the kernel allows it."""
    return_freed_memory()  # else the trial before would be part of it
    try:
        (PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def resident_peak_mib() -> float | None:
    """The most memory this process has held since it began, or since that was forgotten.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    try:
        status = (PROCESS / "status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 2**10 if found else None
