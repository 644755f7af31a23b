"""Conditions: what else goes on on the machine while something is measured on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, final

import psutil

from tlbench.evaluation.device import Compute
from tlbench.evaluation.nvml import open_nvml
from tlbench.speed import Conditions

_THROTTLING = {
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat (software)",
    "nvmlClocksEventReasonHwThermalSlowdown": "heat (hardware)",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's names of what slows a GPU down, and ours. Its power limit is none: that is how a GPU runs under full load."""


@final
@dataclass(kw_only=True)
class Watched:
    """Filled when the watch ends."""

    conditions: Conditions = field(default_factory=Conditions)


@contextmanager
def watched(compute: Compute) -> Iterator[Watched]:
    """Observe the machine while the block runs, whose outcome is then in `conditions`."""
    found, gpu = Watched(), _Gpu(compute)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    start, busy_s, before = time.monotonic(), _others_s(), gpu.read()
    yield found
    seconds, after = time.monotonic() - start, gpu.read()
    foreign = None if busy_s is None else max(0.0, (_others_s() or busy_s) - busy_s) / seconds
    cores = psutil.cpu_count()
    pairs = {name: (before[name], after[name]) for name in before if name in after and name != "throttled"}
    throttled = {*before.get("throttled", ()), *after.get("throttled", ())}
    found.conditions = Conditions(
        load_average=load,
        foreign_cores=foreign,
        free_cores=None if cores is None else float(max(0, cores - compute.threads)),
        throttled=tuple(sorted(throttled)),
        **pairs,
    )


def _others_s() -> float | None:
    """Seconds of processor time that everything but this process and its children has taken since the machine began.

    Stolen time, which a virtual machine waited for, is others' as well.
    """
    with suppress(psutil.Error, OSError):
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        names = ("user", "nice", "system", "irq", "softirq", "steal")
        busy = sum(getattr(machine, name, 0.0) for name in names)
        return float(busy - own.user - own.system - own.children_user - own.children_system)
    return None


@final
class _Gpu:
    """NVML's sensors of the GPU that computes, where it can be asked."""

    def __init__(self, compute: Compute) -> None:
        self._nvml: Any = None
        if compute.device.type == "cuda":
            with suppress(Exception):  # no library, no driver, no permission: unknown then
                self._nvml, self._handle = open_nvml(compute.device)

    def read(self) -> dict[str, Any]:
        """Clock, temperature, power and reasons for throttling; what is unknown is left out."""
        found: dict[str, Any] = {}
        nvml = self._nvml
        if nvml is None:
            return found
        with suppress(Exception):
            found["sm_clock_mhz"] = nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM)
        with suppress(Exception):
            found["temperature_c"] = nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)
        with suppress(Exception):
            found["power_w"] = nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        with suppress(Exception):
            reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
            found["throttled"] = [text for name, text in _THROTTLING.items() if reasons & getattr(nvml, name, 0)]
        return found
