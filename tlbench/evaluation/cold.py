"""A cold start: a fresh process that imports, loads and answers once, and what that takes in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict

from tlbench.errors import SpeedError
from tlbench.evaluation.variant import Source, Variant

TIMEOUT_S = 600.0


def cold_start(source: Source, variant: Variant, device: str, threads: int) -> dict[str, float | None]:
    """`import_s`, `load_s`, `first_ms`; `library_resident`, `peak_resident` and `added_resident` in MiB.

    Imports include everything that the model is built with. Resident memory is the process's own high-water mark: of
    the libraries alone, and with the model after one call at batch 1. Raises `SpeedError` where the process does not
    get that far.
    """
    asked = json.dumps({"source": asdict(source), "variant": asdict(variant), "device": device, "threads": threads})
    program = "from tlbench.evaluation.cold import tell; tell()"
    command = [sys.executable, "-P", "-W", "ignore", "-c", program]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=asked, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SpeedError(f"a fresh process was not ready within {TIMEOUT_S:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise SpeedError(f"a fresh process ended with status {done.returncode}: {last[:200]}")
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell() -> None:
    """Print what `cold_start` returns, in the process of its own."""
    begun = time.perf_counter()
    from tlbench.benchmark import Device
    from tlbench.evaluation.cost import resident_peak_mib
    from tlbench.evaluation.deployed import find, start
    from tlbench.evaluation.device import open_compute
    from tlbench.evaluation.model import shape
    from tlbench.plugins import discover

    asked = json.loads(sys.stdin.read())
    found = find(Source(**asked["source"]), discover())
    shape(found.backbone)  # on the meta device: imports what building needs
    imported, libraries = time.perf_counter(), resident_peak_mib()
    compute = open_compute(Device(kind=asked["device"], threads=asked["threads"]), workers=1)
    running = start(found.load(), Variant(**asked["variant"]), compute)
    loaded = time.perf_counter()
    running.answer(running.inputs(1))
    compute.synchronise()
    answered, peak = time.perf_counter(), resident_peak_mib()
    told = {
        "import_s": imported - begun,
        "load_s": loaded - imported,
        "first_ms": 1000 * (answered - loaded),
        "library_resident": libraries,
        "peak_resident": peak,
        "added_resident": None if peak is None or libraries is None else peak - libraries,
    }
    sys.stdout.write(json.dumps(told) + "\n")
