"""Provenance: which code ran on which machine."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tlbench.catalog import Entry
from tlbench.evaluation.device import Compute

LIBRARIES = ("tlbench", "torch", "torchvision", "timm", "transformers", "peft", "numpy", "scikit-learn", "optuna")


def provenance(compute: Compute, **entries: Entry) -> dict[str, Any]:
    """Plugins, versions and machine, as observed."""
    return {
        "plugins": {
            role: {"plugin": entry.plugin, "distribution": entry.distribution, "version": entry.distribution_version}
            for role, entry in entries.items()
        },
        "libraries": dict(_libraries()),
        "machine": dict(_machine()),
        "device": str(compute.device),
        "device_name": torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else None,
        "dtype": str(compute.dtype).removeprefix("torch."),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32) if compute.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


@cache
def _libraries() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, _version(name)) for name in LIBRARIES)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
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
