"""Start-up: commands that only list must not pay for what computes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

HEAVY = {"numpy", "torch", "torchvision", "pandas", "ray", "optuna", "rich", "transformers", "timm", "sklearn", "scipy",
         "pyarrow", "peft", "datasets"}  # fmt: skip
COMMANDS = [["--help"], ["--version"], ["plugins"], *(["list", what] for what in ("backbones", "strategies", "datasets",
            "benchmarks")), ["list", "backbones", "--all", "--max-params", "10M", "--sort", "accuracy"]]  # fmt: skip
RATIO = 12
"""How many times as long as `python -c pass` a command may take."""


def program(arguments: list[str]) -> str:
    return f"from tlbench.cli import main; main({arguments!r})"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = f"import sys\ntry:\n    {program(arguments)}\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stderr.split()) & HEAVY == set()


def test_the_list_of_heavy_modules_is_real() -> None:
    """A misspelt name above would make the test before this one pass for ever."""
    from importlib.util import find_spec

    assert [name for name in sorted(HEAVY) if find_spec(name) is None] == []


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which modules are compiled once, as they are wherever tlbench is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled"))}


def elapsed_s(code: str, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["list", "backbones"]], ids=" ".join)
def test_a_command_that_lists_starts_fast(arguments: list[str], compiled: dict[str, str]) -> None:
    """The best of at least five each, interleaved; more of them while what else the machine does is in the way."""
    elapsed_s(program(arguments), compiled)
    bare_s, command_s = float("inf"), float("inf")
    for rounds in range(1, 21):
        bare_s = min(bare_s, elapsed_s("pass", compiled))
        command_s = min(command_s, elapsed_s(program(arguments), compiled))
        if rounds >= 5 and command_s < RATIO * bare_s:
            return
    pytest.fail(f"{command_s:.3f} s; python alone {bare_s:.3f} s")


def test_a_search_starts_without_what_few_trials_need() -> None:
    """Each takes half a second or more; the first trial of every process would wait for it."""
    code = (
        "import sys, tlbench.evaluation.evaluate, tlbench.executors.local, tlbench.search.opening; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert loaded & {"sklearn", "scipy.stats", "transformers", "peft", "datasets", "ray"} == set()
