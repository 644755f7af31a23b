"""The machine and what is installed on it, as far as they can be seen without importing any of it."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Host, system, processor, the cores this process may use, memory."""
    return dict(_machine())


def version(distribution: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, FileNotFoundError):  # the latter of importlib_metadata 9, half removed
        return None


def quota() -> float | None:
    """How many cores a container's quota lets this process use at once; None: there is none."""
    with suppress(OSError, ValueError):
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(most) / int(period)
    return None


@cache
def _machine() -> tuple[tuple[str, Any], ...]:
    return (
        ("host", socket.gethostname()),
        ("system", platform.platform()),
        ("python", platform.python_version()),
        ("processor", _processor()),
        ("cores", len(os.sched_getaffinity(0))),
        ("memory_mib", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20),
    )


def _processor() -> str | None:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or None
