"""Provenance: which code ran on which machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tlbench.catalog import Entry
from tlbench.evaluation.device import Compute, tf32_allowed
from tlbench.evaluation.machine import machine, version

LIBRARIES = ("tlbench", "torch", "torchvision", "timm", "transformers", "peft", "numpy", "scikit-learn", "optuna")


NETWORKS = ("tlbench", "torch", "torchvision", "timm", "transformers", "peft")
"""Of these, what networks are made of."""


def provenance(compute: Compute, **entries: Entry) -> dict[str, Any]:
    """Plugins, versions and machine, as observed."""
    return {
        "plugins": {
            role: {"plugin": entry.plugin, "distribution": entry.distribution, "version": entry.distribution_version}
            for role, entry in entries.items()
        },
        "libraries": dict(_libraries()),
        "machine": machine(),
        "device": str(compute.device),
        "device_name": torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else None,
        "dtype": compute.dtype_name,
        "tf32": any(tf32_allowed()) if compute.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


def arithmetic(compute: Compute) -> dict[str, Any]:
    """What decides the numbers that come out of a network, to the last bit."""
    known = provenance(compute)
    libraries = {name: known["libraries"][name] for name in NETWORKS}
    where = {"processor": known["machine"]["processor"], "device": compute.device.type, "threads": compute.threads}
    tf32 = list(tf32_allowed()) if compute.device.type == "cuda" else None
    chosen = {"dtype": known["dtype"], "channels_last": compute.channels_last}
    return {"device_name": known["device_name"], **chosen, "tf32": tf32, **where, "libraries": libraries}


@cache
def _libraries() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, version(name)) for name in LIBRARIES)
