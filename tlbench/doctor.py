"""The doctor: what this environment has, and what would make it better."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlbench import caches
from tlbench.entrypoints import missing_requirements
from tlbench.evaluation import hardware, hub
from tlbench.evaluation.machine import machine, version
from tlbench.observers import lacks, observes, waits_to_be_asked
from tlbench.plugins import discover

Findings = Mapping[str, Any]

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft", "datasets", "huggingface-hub", "safetensors",
             "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "optuna", "ray", "pluggy")  # fmt: skip

LITTLE_DISK_BYTES = 5 * 2**30
"""Free space below which a few downloaded networks fill a disk."""


def examine() -> dict[str, Any]:
    """Everything there is to know, a section each; one that cannot be examined says why. `advice` comes last."""
    found = {
        "versions": _guarded(_versions),
        "cpu": _guarded(hardware.cpu),
        **_torch(),
        "folders": _guarded(_folders),
        "hugging_face_hub": _guarded(_hub),
        "plugins": _guarded(_plugins),
    }
    return {**found, "advice": list(advice(found))}


def advice(found: Findings) -> Iterator[str]:
    """What would make it better, a line each; nothing where nothing is wrong."""
    yield from _unexamined(found)
    yield from _installed(found)
    yield from _gpu(found)
    cores, quota = found["cpu"].get("cores"), found["cpu"].get("quota_cores")
    if quota is not None and quota < cores:
        yield f"a quota allows {quota:g} of {cores} cores: set device.threads = {max(1, int(quota))} in benchmark files"
    yield from _disk(found)
    for aside in found["plugins"].get("set_aside", ()):
        if not aside["by_choice"]:
            yield f"plugin '{aside['name']}' is set aside: {aside['reason']}"


def _torch() -> dict[str, Any]:
    """The sections that only torch can fill, and the driver beside them."""
    seen = _guarded(hardware.seen_by_torch)
    if "error" in seen:
        seen = dict.fromkeys(("imports", "gpus", "cuda", "threads"), seen)
    return {**seen, "cuda": {**seen["cuda"], "driver": _guarded(hardware.driver)}}


def _versions() -> dict[str, str | None]:
    return {"tlbench": version("tlbench"), "python": machine()["python"], **{name: version(name) for name in LIBRARIES}}


def _folders() -> dict[str, Any]:
    return {
        "cache": _folder(caches.root(), caches.size),
        "hub_cache": _folder(hub.cache_folder(), lambda _: (0, sum(size for _, size in hub.cached_repositories()))),
        "working_directory": _folder(Path.cwd(), None),
    }


def _folder(path: Path, measure: Callable[[Path], tuple[int, int]] | None) -> dict[str, Any]:
    """A folder, whether it can be written, what it takes and what its disk has left; it need not be there yet."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    found = {
        "path": str(path),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "free_bytes": shutil.disk_usage(there).free,
    }
    return found if measure is None else {**found, "size_bytes": measure(path)[1] if path.is_dir() else 0}


def _hub() -> dict[str, Any]:
    reason = hub.reachable()
    return {"reachable": not reason, "reason": reason or None}


def _plugins() -> dict[str, Any]:
    plugins = discover()
    observers = {
        plugin.name: lacks(plugin) or ("ready" if waits_to_be_asked(plugin) else "observes always")
        for plugin in plugins.active.values()
        if observes(plugin)
    }
    aside = [{"name": one.name, "reason": one.reason, "by_choice": one.by_choice} for one in plugins.set_aside]
    return {"active": list(plugins.active), "set_aside": aside, "observers": observers}


def _guarded(look: Callable[[], Any]) -> Any:
    """What `look` finds, or `error` and why it finds nothing: whatever is broken is what this command is there for."""
    try:
        return look()
    except (Exception, SystemExit) as error:
        return {"error": hub.one_line(error)}


def _unexamined(found: Findings) -> Iterator[str]:
    for name, section in found.items():
        told = name in ("gpus", "cuda", "threads") and found["imports"]
        if isinstance(section, dict) and "error" in section and not told:
            yield f"{name} cannot be examined: {section['error']}"


def _installed(found: Findings) -> Iterator[str]:
    again = "pip install --force-reinstall torch torchvision"
    broken, versions = found["imports"], found["versions"]
    if "torch" in broken:
        yield f"torch cannot be imported ({broken['torch']}): {again}"
    if "torchvision" in broken:
        fit = f"torchvision {versions.get('torchvision')} does not fit torch {versions.get('torch')}"
        yield f"{fit} ({broken['torchvision']}): {again}"
    missing = _guarded(lambda: missing_requirements("tlbench"))
    if missing and isinstance(missing, list):
        yield f"tlbench needs {', '.join(missing)}: install it again"


def _gpu(found: Findings) -> Iterator[str]:
    """Where there is a GPU that torch does not see: why."""
    cuda = found["cuda"]
    if found["gpus"] or not isinstance(cuda.get("driver"), str):
        return
    if cuda["visible"] is not None:
        yield f"CUDA_VISIBLE_DEVICES={cuda['visible']} hides the GPU: unset it to compute there"
    elif cuda["torch_cuda"] is None:
        yield "torch is built for CPUs only, and this machine has a GPU: install torch for CUDA"
    else:
        yield (
            f"torch sees no GPU though the NVIDIA driver {cuda['driver']} is there: torch's CUDA {cuda['torch_cuda']}"
            " may need a newer one"
        )


def _disk(found: Findings) -> Iterator[str]:
    for name, folder in found["folders"].items():
        if isinstance(folder, dict):
            what = f"{folder['path']} ({name.replace('_', ' ')})"
            if folder["free_bytes"] < LITTLE_DISK_BYTES:
                yield f"{caches.text(folder['free_bytes'])} are left on the disk of {what}"
            if not folder["writable"]:
                yield f"{what} cannot be written"
