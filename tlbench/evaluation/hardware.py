"""Hardware: what torch can compute on here, and whether it can be imported at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlbench.evaluation.hub import one_line
from tlbench.evaluation.machine import machine, quota

TORCH_TIMEOUT_S = 120.0
"""For the first import of torch from a slow disk."""

DRIVER_TIMEOUT_S = 10.0
"""For `nvidia-smi`, which hangs where a driver does."""

_CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX bfloat16"}
"""What of /proc/cpuinfo tells how fast which number format is."""


def seen_by_torch() -> dict[str, Any]:
    """`imports` (why torch or torchvision cannot be used), `gpus`, `cuda` and `threads`, each or its `error`.

    Asked in a process of its own: a library that does not fit the machine may end the process that loads it.
    """
    program = "from tlbench.evaluation.hardware import tell; tell()"
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            timeout=TORCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _without_torch(f"it was not imported within {TORCH_TIMEOUT_S:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return _without_torch(f"it ends the process with status {done.returncode}: {last[:200]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell() -> None:
    """Print what `seen_by_torch` returns as JSON, in the process of its own."""
    broken: dict[str, str] = {}
    with _noting(broken, "torch"):
        import torch  # noqa: F401
    if broken:
        found = _without_torch(broken["torch"])
    else:
        with _noting(broken, "torchvision"):
            from torchvision.ops import nms  # noqa: F401
        found = {"imports": broken}
        for look in (gpus, cuda, threads):
            unseen: dict[str, str] = {}
            with _noting(unseen, "error"):
                found[look.__name__] = look()
            found.setdefault(look.__name__, unseen)
    sys.stdout.write(json.dumps(found) + "\n")


def _without_torch(reason: str) -> dict[str, Any]:
    unseen = {"error": "torch cannot be imported"}
    return {"imports": {"torch": reason}, "gpus": unseen, "cuda": unseen, "threads": unseen}


def cpu() -> dict[str, Any]:
    """Processor, cores, memory, and the instructions that matter."""
    found = machine()
    known = {name: found[name] for name in ("processor", "cores")}
    flags: set[str] = set()
    if Path("/proc/cpuinfo").exists():
        line = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
        flags = set(line.split())
    instructions = [text for flag, text in _CPU_FLAGS.items() if flag in flags]
    return {**known, "quota_cores": quota(), "memory_mib": round(found["memory_mib"]), "instructions": instructions}


def gpus() -> list[dict[str, Any]]:
    """Every GPU that torch sees, with its memory and the number formats it is fast in. Needs torch."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        dtypes = ["float16"]
        if properties.major >= 8:  # Ampere
            dtypes += ["bfloat16", "tf32"]
        found.append(
            {
                "name": properties.name,
                "memory_mib": properties.total_memory // 2**20,
                "capability": f"{properties.major}.{properties.minor}",
                "dtypes": dtypes,
            }
        )
    return found


def cuda() -> dict[str, Any]:
    """The CUDA that torch was built for, None for a build without. Needs torch."""
    import torch

    return {"torch_cuda": torch.version.cuda, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


def driver() -> str | None:
    """The version of the NVIDIA driver; None where there is none, or none that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def threads() -> dict[str, Any]:
    """How many threads torch would use, and the variables that say so. Needs torch."""
    import torch

    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    given = {name: os.environ[name] for name in variables if name in os.environ}
    return {"torch": torch.get_num_threads(), "torch_between_operations": torch.get_num_interop_threads(), **given}


@contextmanager
def _noting(broken: dict[str, str], name: str) -> Iterator[None]:
    """Write down what ends an import, which may be anything that native code and its loader come up with."""
    try:
        yield
    except (Exception, SystemExit) as error:
        broken[name] = one_line(error)
