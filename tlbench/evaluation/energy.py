"""Energy: the joules that the machine's own meters count while a trial runs. Never a model's guess."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import torch

from tlbench.evaluation.nvml import open_nvml

LEAST_S = 2.0
"""Shortest time of which a meter tells anything: a GPU's counter moves every tenth of a second."""

MOST_W = 600.0
"""No single meter counts more: how often a counter must be read, or it may have started again twice unseen."""

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters of processor packages, to root alone on most machines."""


@final
@dataclass(frozen=True, kw_only=True)
class Meter:
    """Counters of joules, of one kind of hardware."""

    source: str
    """`nvml`: of one GPU; `rapl`: of all processor packages."""

    read: Callable[[], Sequence[float]]
    """Joules so far, by counter. May raise anything."""

    ranges: Sequence[float]
    """Where each counter starts again at 0; infinite: nowhere."""


@final
class Energy:
    """What a meter counts from now on."""

    def __init__(self, meter: Meter | None) -> None:
        self._meter, self._start = meter, time.monotonic()
        self._joules: float | None = None
        self._last: tuple[float, Sequence[float]] | None = None
        self.look()

    def look(self) -> None:
        """Read the counters, now and then in a long window: they start again at 0 when they are full."""
        if self._meter is None:
            return
        try:
            counters = self._meter.read()
        except Exception:  # drivers fail in many ways, none of which is the trial's
            self._meter = None
            return
        now = time.monotonic()
        if self._last is not None:
            seconds, before = now - self._last[0], self._last[1]
            self._joules = (self._joules or 0.0) + self._between(before, counters, seconds)
        self._last = now, counters

    def counted(self) -> Mapping[str, Any]:
        """`energy_j` and `energy_source`, both None where nothing or not long enough was counted."""
        self.look()
        long_enough = time.monotonic() - self._start >= LEAST_S
        if self._meter is None or not long_enough or self._joules is None or not 0 < self._joules < math.inf:
            return {"energy_j": None, "energy_source": None}
        return {"energy_j": self._joules, "energy_source": self._meter.source}

    def _between(self, before: Sequence[float], after: Sequence[float], seconds: float) -> float:
        """Joules between two readings; infinite where nobody knows."""
        assert self._meter is not None
        if seconds * MOST_W > min(self._meter.ranges):
            return math.inf
        return sum((new - old) % most for old, new, most in zip(before, after, self._meter.ranges, strict=True))


@cache
def open_meter(device: torch.device) -> Meter | None:
    """The meter of a device: of the GPU that computes, or of this machine's processors; None where there is none.

    zeus would read both. It takes 1.3 s to import, starts a process per counter to see it start again, which a worker
    of a pool may not do, and installs packages called `tests` and `examples`.
    """
    with suppress(Exception):  # no library, no driver, no permission
        return _nvml(device) if device.type == "cuda" else _rapl()
    return None


def _nvml(device: torch.device) -> Meter:
    nvml, handle = open_nvml(device)

    def read() -> Sequence[float]:
        return [nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3]

    read()
    return Meter(source="nvml", read=read, ranges=[math.inf])


def _rapl() -> Meter | None:
    zones = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if _word(zone / "name").startswith("package")]

    def read() -> Sequence[float]:
        return [int(_word(zone / "energy_uj")) / 1e6 for zone in zones]

    read()
    ranges = [int(_word(zone / "max_energy_range_uj")) / 1e6 for zone in zones]
    return Meter(source="rapl", read=read, ranges=ranges) if zones else None


def _word(file: Path) -> str:
    return file.read_text().strip()
