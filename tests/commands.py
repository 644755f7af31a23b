"""Runs in processes of their own, to be interrupted and killed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tlbench.benchmark import load_benchmark
from tlbench.journal import Journal
from tlbench.store import Store

_server = multiprocessing.get_context("forkserver")

PATIENCE_S = 300.0
"""How long a busy machine may take for what should take seconds."""


class Runs:
    """A benchmark file run again and again into one results folder, each time by a process of its own."""

    def __init__(self, file: Path, out: Path) -> None:
        self.file, self.out, self.folder = file, out, out / file.stem

    def start(self, workers: int = 1) -> ForkServerProcess:
        """The run in a process group of its own, forked from a server that has done the imports."""
        _server.set_forkserver_preload(["tlbench.executors.local", "tlbench.evaluation.images"])
        process = _server.Process(target=_run, args=(self.file, self.folder, workers, sys.path, dict(os.environ)))
        process.start()
        return process

    def start_command(self, workers: int = 1) -> subprocess.Popen[str]:
        """The same as a command, as a user types it; an interrupt reaches it even from a background job."""
        hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        call = f"{hears}; from tlbench.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", call, "run", str(self.file), "--out", str(self.out), "--workers", str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Run to the end, in a process like the others."""
        process = self.start()
        process.join(PATIENCE_S)
        assert process.exitcode == 0

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in Journal(self.folder / "journal.jsonl").events() if event["event"] == kind]

    def mtimes(self) -> dict[str, int]:
        """When each finished result was written, by key."""
        folder = self.folder / "measurements"
        told = {event["key"] for event in self.events("told")}
        return {key: (folder / key / "measurement.json").stat().st_mtime_ns for key in told}

    def outcome(self) -> dict[str, Any]:
        """Everything but times that two runs of one benchmark must agree on; arrays as bytes."""
        store, results = Store(self.folder), {}
        told: dict[str, list[tuple[int | None, str, str]]] = {}
        for found in store.measurements():
            predictions = store.predictions(found.key)
            arrays = predictions and (predictions.predicted.tobytes(), predictions.logits.tobytes())
            curve = [(point.epoch, point.train_loss, point.search_score) for point in found.curve]
            results[found.key] = (found.status, found.failure, found.scores, curve, found.frozen, arrays)
        for event in self.events("told"):
            told.setdefault(event["study"], []).append((event["number"], event["key"], event["status"]))
        return {"results": results, "told": told, "models": store.model_keys()}


def _run(file: Path, folder: Path, workers: int, path: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    sys.path[:] = path
    os.environ.update(environment)
    from tlbench.executors.local import run

    run(load_benchmark(file), folder, workers=workers)


def wait_for(what: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def workers_of(process: int | None) -> list[int]:
    """Processes that multiprocessing started from `process`."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
