"""Start-up: commands that only list must not pay for what computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "torch", "torchvision", "pandas", "ray", "optuna", "rich", "transformers", "timm", "sklearn", "scipy",
         "pyarrow", "peft", "datasets"}  # fmt: skip
COMMANDS = [["--help"], ["--version"], ["plugins"], *(["list", what] for what in ("backbones", "strategies", "datasets",
            "benchmarks")), ["list", "backbones", "--all", "--max-params", "10M", "--sort", "accuracy"]]  # fmt: skip
CALLS = {("--help",): 80_000, ("plugins",): 225_000, ("list", "backbones"): 225_000}
"""How many calls of functions, Python's and C's, a command may make, imports included. In an environment of tlbench and
its extras they are 70,000 and 200,000, and take 6 and 11 times as long as `python -c pass`
(`benchmarks/performance/startup.py`); another plugin adds to them."""


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


@pytest.mark.parametrize(("arguments", "limit"), CALLS.items(), ids=[" ".join(arguments) for arguments in CALLS])
def test_a_command_that_lists_does_little(arguments: tuple[str, ...], limit: int) -> None:
    """The same number in every run, which a clock beside other work is not."""
    code = (
        "import cProfile, sys\nprofile = cProfile.Profile()\ntry:\n"
        f"    profile.runcall(exec, {program(list(arguments))!r}, {{}})\n"
        "finally:\n    profile.create_stats()\n"
        "    print(sum(entry[1] for entry in profile.stats.values()), file=sys.stderr)"
    )
    # Isolated: a longer search path is searched for plugins, too.
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert 10_000 < int(done.stderr) < limit


def test_a_search_starts_without_what_few_trials_need() -> None:
    """Each takes half a second or more; the first trial of every process would wait for it."""
    code = "import sys, tlbench.api, tlbench.evaluation.evaluate, tlbench.search.opening; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert loaded & {"sklearn", "scipy.stats", "transformers", "peft", "datasets", "pandas", "ray"} == set()


def test_a_command_looks_for_garbage_rarely() -> None:
    code = (
        f"import gc, sys\ntry:\n    {program(['plugins'])}\nfinally:\n    print(gc.get_threshold()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stderr) == 10_000
