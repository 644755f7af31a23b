"""Bad plugins, all installed at once: every command still works, each is named with its reason, none is registered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

import tlbench
from fabricated import COMPONENTS, GOOD, fabricate

HOOK = "from tlbench.hookspecs import hookimpl\n"


def backbones(*body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body)
    return f"{COMPONENTS}\n@hookimpl\ndef register_backbones():\n{lines}"


# A name, a source and what `tlbench plugins` has to say of it.
BAD = {
    "bad-import": ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
    "bad-syntax": ("def broken(:\n", "SyntaxError"),
    "bad-exit": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "bad-endless": ("while True:\n    pass\n", "1 s"),
    "bad-late": (backbones("yield Net('first')", "raise RuntimeError('disk')"), "disk"),
    "bad-hook-exit": (backbones("raise SystemExit('bye')"), "bye"),
    "bad-none": (backbones("return None"), "returned None"),
    "bad-type": (backbones("return [object()]"), "object where a Backbone"),
    "bad-twice": (backbones("return [Net('x'), Net('x')]"), "two components named 'x'"),
    "bad-path": (backbones("return [Net('../up')]"), r"'\.\./up'"),
    "bad-markup": (backbones("return [Net('[bold]x[/bold]')]"), "bold"),
    "bad-unknown-hook": (HOOK + "@hookimpl\ndef register_backbone():\n    return []\n", "register_backbones"),
    "bad-wrapper": (HOOK + "@hookimpl(wrapper=True)\ndef register_backbones():\n    return (yield)\n", "plain hooks"),
    "bad-argument": (HOOK + "@hookimpl\ndef find_backbone(label):\n    return None\n", "label"),
    "bad-control": ("raise ValueError('\\x1b[2Jgone\\n' + 'x' * 9999)\n", "gone"),
}

PROGRAM = "from tlbench.cli import main; main()"
BENCHMARK = """
backbones = ["tiny/net"]
strategies = ["tiny/means"]
datasets = ["tiny/blobs"]
seeds = [0]
[search]
trials = 2
[device]
kind = "cpu"
threads = 1
"""
OBSERVER = """
import json, os
from tlbench.hookspecs import hookimpl


@hookimpl
def trial_finished(measurement):
    with open(os.environ["TLBENCH_TEST_SEEN"], "a") as file:
        file.write(json.dumps(measurement.to_json()) + "\\n")
"""
RAISING = HOOK + "@hookimpl\ndef trial_finished(measurement):\n    raise {error}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_site: Path) -> Path:
    """A folder with every bad plugin, two that claim what is not theirs, and good ones; their results beside them."""
    folder = tmp_path_factory.mktemp("bad_site")
    for name, (source, _) in BAD.items():
        fabricate(folder, name, source)
    fabricate(folder, "thief", GOOD, entry_point="timm")
    fabricate(folder, "first-park", GOOD, entry_point="park")
    fabricate(folder, "second-park", GOOD, entry_point="park")
    fabricate(folder, "demanding", GOOD, requires=["tlbench>=99"])
    fabricate(folder, "chatty", "print('hello from chatty')\n" + GOOD)
    fabricate(folder, "watching", OBSERVER)
    fabricate(folder, "moody", RAISING.format(error="RuntimeError('observer')"))
    fabricate(folder, "leaving", RAISING.format(error="SystemExit(5)"))
    (folder / "tiny.toml").write_text(BENCHMARK)
    return folder


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TLBENCH_")}
    ours = {"TLBENCH_PLUGIN_TIMEOUT": "1", "TLBENCH_TEST_SEEN": str(site / "seen.jsonl"), "PYTHONPATH": str(site)}
    return {**kept, **ours, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}


CONTROLS = ("controls/majority", "controls/pixel-svm")


def command(
    environment: dict[str, str], *arguments: object, program: str = PROGRAM
) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    # An observer's own traceback is logged; a command has none.
    assert "tlbench/cli.py" not in ran.stderr
    return ran


@pytest.fixture(scope="module")
def ran(environment: dict[str, str], site: Path, tiny_site: Path) -> subprocess.CompletedProcess[str]:
    """`tlbench run` with everything installed, and the plugin `tiny`, whose import takes its time."""
    more = {"PYTHONPATH": os.pathsep.join([str(site), str(tiny_site)])}
    program = f"import torch, tlbench.evaluation.images; {PROGRAM}"
    return command(environment | more, "run", site / "tiny.toml", "--out", site / "results", program=program)


def test_every_plugin_is_named_with_its_reason(environment: dict[str, str]) -> None:
    listed = command(environment, "plugins").stdout
    assert all(line.isprintable() for line in listed.splitlines())
    lines = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    for name, (_, expected) in BAD.items():
        assert "set aside" in lines[name], name
        assert re.search(expected, lines[name]), lines[name]
    for name in ("basic", "data", "timm", "chatty", "watching", "moody", "leaving"):
        assert any(line.split()[0] == name and "active" in line for line in listed.splitlines()), name
    aside = [line for line in listed.splitlines() if "set aside" in line]
    assert any(line.startswith("timm ") and "reserved" in line for line in aside)
    assert len([line for line in aside if line.startswith("park ")]) == 2
    assert "tlbench>=99" in lines["demanding"].replace(" ", "")


def test_nothing_of_theirs_is_registered(environment: dict[str, str]) -> None:
    for what in ("backbones", "strategies", "datasets"):
        output = command(environment, "list", what, "--format", "json")
        names = [record["name"] for record in json.loads(output.stdout)]
        owners = {name.partition("/")[0] for name in names}
        assert not owners & {*BAD, "park", "demanding", "thief"}
        assert "chatty" in owners
        assert "timm/small" not in names


def test_help_works(environment: dict[str, str]) -> None:
    assert "run" in command(environment, "--help").stdout


def test_a_benchmark_runs_and_can_be_looked_at(
    ran: subprocess.CompletedProcess[str], environment: dict[str, str], site: Path
) -> None:
    assert "tiny/means" in ran.stdout
    rows = json.loads(command(environment, "leaderboard", site / "results", "--format", "json").stdout)
    assert {row["strategy"]: row["state"] for row in rows} == dict.fromkeys(["tiny/means", *CONTROLS], "final")
    shown = command(environment, "show", rows[0]["key"], "--results", site / "results").stdout
    assert rows[0]["key"] in shown
    assert "tiny/blobs" in shown


def test_what_plugins_print_is_no_part_of_the_output(ran: subprocess.CompletedProcess[str]) -> None:
    assert "hello from chatty" not in ran.stdout


def test_an_observer_sees_every_measurement_and_one_that_raises_is_harmless(
    ran: subprocess.CompletedProcess[str], site: Path
) -> None:
    from tlbench.store import Store

    lines = [json.loads(line) for line in (site / "seen.jsonl").read_text().splitlines()]
    stored = Store(site / "results" / "tiny").measurements()
    assert sorted(line["key"] for line in lines) == sorted(result.key for result in stored)
    strategies = Counter(result.trial.strategy.name for result in stored)
    assert strategies == {"tiny/means": 3, "controls/pixel-svm": 3, "controls/majority": 2}
    assert {line["status"] for line in lines} == {"complete"}
    for name in ("moody", "leaving"):
        assert f"plugin '{name}': trial_finished raised" in ran.stderr


STRATEGIES = dedent("""
    from tlbench.strategies import ParameterGroup, TrainedStrategy
    from tlbench.hookspecs import hookimpl


    class Once(TrainedStrategy):
        summary = "misbehaves in one place"

        def __init__(self, name):
            self.name = name

        def defaults(self, context):
            return {"batch_size": 16}

        def space(self, trial, context):
            return {}

        def adapt(self, model, params):
            if self.name == "leaves":
                raise SystemExit(7)
            if self.name == "nothing":
                return []
            if self.name == "none":
                return None
            return [ParameterGroup(list(model.parameters()))]

        def begin_epoch(self, model, params, epoch, epochs):
            return [3] if self.name == "odd-groups" else None

        def deploy(self, model):
            if self.name == "no-deploy":
                raise RuntimeError("cannot be merged")
            return model


    @hookimpl
    def register_strategies():
        return [Once(name) for name in ("leaves", "nothing", "none", "odd-groups", "no-deploy")]
""")


def test_a_strategy_that_breaks_its_contract_costs_its_own_cell(
    tiny_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(tmp_path, "rogue", STRATEGIES)
    monkeypatch.syspath_prepend(tmp_path)
    text = BENCHMARK.replace('"tiny/means"', '"rogue/*", "tiny/means"').replace("trials = 2", "trials = 1\nepochs = 1")
    (tmp_path / "rogue.toml").write_text(text)
    frame = tlbench.run_benchmark(tmp_path / "rogue.toml", tmp_path / "out")
    states = dict(zip(frame["strategy"], frame["state"], strict=True))
    assert states.pop("tiny/means") == "final"
    assert set(states.values()) == {"failed"}
    assert len(states) == 5
    reasons = dict(zip(frame["strategy"], frame["reason"], strict=True))
    assert "cannot be merged" in reasons["rogue/no-deploy"]
