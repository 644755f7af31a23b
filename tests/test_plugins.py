from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from fabricated import COMPONENTS, GOOD, fabricate
from tlbench import timelimit
from tlbench.entrypoints import one_line
from tlbench.errors import DataError, PluginError
from tlbench.observers import open_observers
from tlbench.plugins import Plugins, discover

HOOK = "from tlbench.hookspecs import hookimpl\n"
SWALLOW = "import time\nwhile True:\n    try:\n        time.sleep(0.01)\n    except BaseException:\n        pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for variable in ("TLBENCH_PLUGINS", "TLBENCH_DISABLE_PLUGINS", "TLBENCH_PLUGIN_TIMEOUT", "TLBENCH_STRICT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def backbones(*body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body)
    return f"{COMPONENTS}\n@hookimpl\ndef register_backbones():\n{lines}"


def reason(plugins: Plugins, name: str) -> str:
    (item,) = [item for item in plugins.set_aside if item.name == name]
    return item.reason


BAD = {
    "import-error": ("import no_such_module_anywhere\n", "ModuleNotFoundError.*no_such_module_anywhere"),
    "syntax-error": ("def broken(:\n", "SyntaxError"),
    "exit-at-import": ("import sys\nsys.exit(3)\n", "its import raised SystemExit: 3"),
    "raises-after-yield": (backbones("yield Net('one')", "raise RuntimeError('disk')"), "register_backbones.*disk"),
    "exits-in-hook": (backbones("raise SystemExit('bye')"), "register_backbones.*bye"),
    "returns-none": (backbones("return None"), "register_backbones: returned None"),
    "returns-scalar": (backbones("return 3"), "returned int where an iterable"),
    "returns-text": (backbones("return 'abc'"), "returned str where an iterable"),
    "wrong-type": (backbones("return [object()]"), "object where a Backbone"),
    "wrong-kind": (backbones("return [Data('x')]"), "Data where a Backbone"),
    "a-class": (backbones("return [Net]"), "where a Backbone"),
    "twice": (backbones("return [Net('x'), Net('x')]"), "two components named 'x'"),
    "no-modality": (backbones("Net.modality = None", "return [Net('x')]"), "modality has to be a word"),
    "unknown-hook": (HOOK + "@hookimpl\ndef register_backbone():\n    return []\n", "'register_backbones'"),
    "wrong-argument": (HOOK + "@hookimpl\ndef find_backbone(label):\n    return None\n", "find_backbone.*label"),
    "wrapper": (HOOK + "@hookimpl(wrapper=True)\ndef register_backbones():\n    return (yield)\n", "only plain hooks"),
    "forgot-the-mark": ("def register_backbones():\n    return []\n", "no hook.*hookimpl"),
    "another-task": (COMPONENTS + dedent("""
        class Boxes(Data):
            task = "detection"
        @hookimpl
        def register_datasets():
            return [Boxes("boxes")]
        """), "boxes.*'detection'.*only 'classification'"),
    "no-benchmark": (HOOK + dedent("""
        from pathlib import Path
        @hookimpl
        def register_benchmarks():
            return [Path("/no/such/file.toml")]
        """), r"existing \.toml"),
    "benchmark-as-text": (HOOK + "@hookimpl\ndef register_benchmarks():\n    return [__file__]\n", r"existing \.toml"),
    "bare-strategy": (COMPONENTS + dedent("""
        from tlbench.strategies import Strategy
        class Mine(Strategy):
            name, summary = "mine", "of neither kind"
            defaults = space = lambda self, *arguments: {}
        @hookimpl
        def register_strategies():
            return [Mine()]
        """), "Mine where a TrainedStrategy or FrozenStrategy"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_plugin_costs_only_itself_and_is_named(folder: Path, case: str) -> None:
    source, expected = BAD[case]
    fabricate(folder, f"bad-{case}", source, module=f"bad_{case.replace('-', '_')}")
    fabricate(folder, "kept", GOOD)
    plugins = discover()
    assert f"bad-{case}" not in plugins.active
    assert list(plugins.active["kept"].components["backbone"]) == ["small", "large"]
    text = reason(plugins, f"bad-{case}")
    assert re.search(expected, text), text
    assert text.isprintable()


NAMES = [
    "../up",
    "a/../b",
    "/etc/passwd",
    "a//b",
    "a/",
    "a/./b",
    "a\\b",
    "[bold]x[/bold]",
    "<b>x</b>",
    "a b",
    "a\n",
    "",
]


@pytest.mark.parametrize("name", [*NAMES, "\x1b[31mred", "é", ".hidden", "-option", "a..b", 3, None])
def test_component_name_that_is_a_path_or_markup_is_refused(folder: Path, name: object) -> None:
    fabricate(folder, "badname", backbones("yield Net('fine')", f"yield Net({name!r})"))
    plugins = discover()
    assert "badname" not in plugins.active
    assert ascii(name) in reason(plugins, "badname")


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "org/model@main", "a:b-c_d", "7"])
def test_documented_names_are_accepted(folder: Path, name: str) -> None:
    fabricate(folder, "named", backbones(f"return [Net({name!r})]"))
    assert list(discover().active["named"].components["backbone"]) == [name]


ATTRIBUTES: dict[str, list[object]] = {"summary": ["two\nlines", " ", 3, "\x1b[2J"], "version": [0, True, "1", 1.0]}


@pytest.mark.parametrize(("attribute", "value"), [(name, value) for name in ATTRIBUTES for value in ATTRIBUTES[name]])
def test_summary_is_one_line_and_version_a_positive_integer(folder: Path, attribute: str, value: object) -> None:
    fabricate(folder, "attributes", backbones(f"Net.{attribute} = {value!r}", "return [Net('x')]"))
    assert f"its {attribute} has to be" in reason(discover(), "attributes")


def test_good_plugin_is_described_by_its_distribution(folder: Path) -> None:
    fabricate(folder, "Good-One", GOOD, entry_point="good", version="2.5", module="good_module")
    plugin = discover().active["good"]
    assert (plugin.distribution, plugin.distribution_version, plugin.module) == ("Good-One", "2.5", "good_module")
    assert {kind: list(found) for kind, found in plugin.components.items()} == {
        "backbone": ["small", "large"],
        "strategy": ["probe"],
        "dataset": ["shapes"],
    }


def test_shipped_benchmarks_are_known_by_their_stem(folder: Path) -> None:
    (folder / "quick.toml").write_text("")
    source = dedent("""
        from pathlib import Path

        @hookimpl
        def register_benchmarks():
            return [Path(__file__).parent / "quick.toml"]
    """)
    fabricate(folder, "shipping", HOOK + source)
    assert discover().active["shipping"].benchmarks == {"quick": folder / "quick.toml"}


@pytest.mark.parametrize(
    ("requirement", "works"),
    [
        ("tlbench>=99", False),
        ("TLbench [x] (<0.0.1)", False),
        ("tlbench==0.0.1 ; python_version > '3'", False),
        ("tlbench @ not a url at all", False),
        ("tlbench", True),
        ("tlbench>=0.0.1", True),
        ("tlbench>=99 ; python_version < '3'", True),
        ("tlbench>=99 ; extra == 'later'", True),
        ("tlbench-plus>=99", True),
        ("numpy>=99", True),
    ],
)
def test_unmet_requirement_on_tlbench_sets_aside(folder: Path, requirement: str, works: bool) -> None:
    fabricate(folder, "demanding", GOOD, requires=[requirement])
    plugins = discover()
    assert ("demanding" in plugins.active) is works
    assert works or "tlbench" in reason(plugins, "demanding")


def test_name_of_a_first_party_plugin_is_reserved(folder: Path) -> None:
    fabricate(folder, "thief", "raise RuntimeError('never imported')\n", entry_point="timm")
    plugins = discover()
    (stolen,) = [item for item in plugins.set_aside if item.distribution == "thief"]
    assert (stolen.name, "reserved" in stolen.reason) == ("timm", True)
    assert "timm" not in plugins.active or plugins.active["timm"].distribution == "tlbench"
    assert "thief" not in sys.modules


def test_thief_with_the_very_entry_point_of_the_owner_is_reported(folder: Path) -> None:
    fabricate(folder, "twin", "", entry_point="timm", module="tlbench_timm")
    (folder / "tlbench_timm.py").unlink()
    assert [item.name for item in discover().set_aside if item.distribution == "twin"] == ["timm"]


def test_two_third_parties_on_one_name_are_both_set_aside(folder: Path) -> None:
    fabricate(folder, "first-park", GOOD, entry_point="park")
    fabricate(folder, "second-park", GOOD, entry_point="park")
    plugins = discover()
    assert "park" not in plugins.active
    aside = [item for item in plugins.set_aside if item.name == "park"]
    assert {item.distribution for item in aside} == {"first-park", "second-park"}
    assert all("first-park, second-park" in item.reason for item in aside)


def test_plugin_name_that_is_markup_is_refused(folder: Path) -> None:
    fabricate(folder, "marked", GOOD, entry_point="[red]zoo")
    assert "plugin name" in reason(discover(), "[red]zoo")


def test_distribution_without_metadata_is_set_aside(folder: Path) -> None:
    fabricate(folder, "headless", GOOD)
    (folder / "headless-1.0.dist-info" / "METADATA").unlink()
    plugins = discover()
    assert "headless" not in plugins.active
    assert "metadata" in reason(plugins, "headless")


def test_what_a_plugin_prints_does_not_reach_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prints = "print('at import')\n" + GOOD.replace('yield Net("small")', 'print("in hook"); yield Net("small")')
    prints = prints.replace("    return Net(name +", "    print('in find')\n    return Net(name +")
    fabricate(folder, "chatty", prints)
    plugin = discover().active["chatty"]
    assert plugin.find_backbone("hidden") is not None
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line for line in captured.err.splitlines() if line] == ["at import", "in hook", "in find"]


def test_stdout_is_parseable_and_start_is_light_in_a_fresh_process(folder: Path) -> None:
    fabricate(folder, "chatty-good", "print('hello')\n" + GOOD)
    fabricate(folder, "endless", "while True:\n    pass\n")
    code = dedent("""
        import json, sys
        from tlbench.catalog import Catalog
        from tlbench.plugins import discover
        plugins = discover()
        Catalog(plugins).registered("backbone")
        heavy = sorted({"numpy", "torch", "pandas", "ray", "optuna", "rich", "packaging"} & set(sys.modules))
        print(json.dumps({"active": list(plugins.active), "heavy": heavy}))
    """)
    environment = {**os.environ, "PYTHONPATH": str(folder), "TLBENCH_PLUGIN_TIMEOUT": "0.2"}
    environment["TLBENCH_PLUGINS"] = "chatty-good,endless"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {"active": ["chatty-good"], "heavy": []}
    assert "hello" in ran.stderr


ENDLESS = {
    "busy": "while True:\n    pass\n",
    "asleep": "import time\ntime.sleep(60)\n",
    "catches-exception": "import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass\n",
    "catches-once": "import time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\ntime.sleep(60)\n",
    "catches-for-ever": SWALLOW,
    "in-a-hook": backbones("while True: pass"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_endless_plugin_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setenv("TLBENCH_PLUGIN_TIMEOUT", "0.2")
    fabricate(folder, f"endless-{case}", ENDLESS[case])
    fabricate(folder, "kept-with-endless", GOOD)
    handler, tracer, started = signal.getsignal(signal.SIGALRM), sys.gettrace(), time.monotonic()
    plugins = discover()
    assert time.monotonic() - started < 10
    assert "0.2 s" in reason(plugins, f"endless-{case}")
    assert "kept-with-endless" in plugins.active
    assert (signal.getsignal(signal.SIGALRM), sys.gettrace()) == (handler, tracer)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_slow_import_is_named_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timelimit, "SLOW_S", 0.05)
    fabricate(folder, "slow", "import time\ntime.sleep(0.3)\n" + GOOD)
    fabricate(folder, "quick", GOOD)
    assert {"slow", "quick"} <= discover().active.keys()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "still loading" in line]
    assert "'slow'" in line
    assert "20 s" in line


def test_timer_of_the_caller_goes_on() -> None:
    def nap() -> str:
        time.sleep(0.05)
        return "done"

    rung: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert timelimit.limited(nap, 5.0, "a plugin") == "done"
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.15
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert rung == [signal.SIGALRM]


def test_discovery_works_in_another_thread(folder: Path) -> None:
    fabricate(folder, "threaded", GOOD)
    found: list[Plugins] = []
    thread = threading.Thread(target=lambda: found.append(discover()))
    thread.start()
    thread.join()
    assert "threaded" in found[0].active


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_senseless_timeout_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TLBENCH_PLUGIN_TIMEOUT", text)
    with pytest.raises(PluginError, match=f"TLBENCH_PLUGIN_TIMEOUT={text}"):
        discover()


def test_variables_choose_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        fabricate(folder, f"var-{name}", GOOD)
    monkeypatch.setenv("TLBENCH_PLUGINS", "var-one, var-two,")
    assert list(discover().active) == ["var-one", "var-two"]
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "var-two")
    plugins = discover()
    assert list(plugins.active) == ["var-one"]
    assert "TLBENCH_DISABLE_PLUGINS" in reason(plugins, "var-two")
    assert "TLBENCH_PLUGINS" in reason(plugins, "var-three")
    assert "var_three" not in sys.modules
    monkeypatch.delenv("TLBENCH_PLUGINS")
    assert {"var-one", "var-three"} <= discover().active.keys()


def test_plugin_asked_for_and_not_installed_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_PLUGINS", "no-such-plugin")
    plugins = discover()
    assert plugins.active == {}
    assert "no installed distribution" in reason(plugins, "no-such-plugin")


def test_strict_makes_a_plugin_set_aside_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(folder, "strict-good", GOOD)
    fabricate(folder, "strict-bad", "raise ValueError('no licence')\n")
    monkeypatch.setenv("TLBENCH_STRICT", "1")
    monkeypatch.setenv("TLBENCH_PLUGINS", "strict-good,strict-bad")
    with pytest.raises(PluginError, match=r"'strict-bad'.*no licence"):
        discover()
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "strict-bad")
    assert list(discover().active) == ["strict-good"]
    monkeypatch.setenv("TLBENCH_STRICT", "0")
    monkeypatch.delenv("TLBENCH_DISABLE_PLUGINS")
    assert list(discover().active) == ["strict-good"]


def test_find_asks_one_plugin_and_vets_what_it_finds(folder: Path) -> None:
    fabricate(folder, "finder", GOOD)
    fabricate(folder, "loud", COMPONENTS + "@hookimpl\ndef find_backbone(name):\n    raise SystemExit(name)\n")
    fabricate(folder, "rude", COMPONENTS + "@hookimpl\ndef find_dataset(name):\n    return Data('../' + name)\n")
    plugins = discover().active
    found = plugins["finder"].find_backbone("hidden1")
    assert found is not None
    assert found.name == "hidden1.exact"
    assert plugins["finder"].find_backbone("small") is None
    assert plugins["finder"].find_dataset("shapes") is None
    with pytest.raises(PluginError, match=r"plugin 'loud': find_backbone.*SystemExit: x"):
        plugins["loud"].find_backbone("x")
    with pytest.raises(PluginError, match=r"plugin 'rude': find_dataset.*'../x'"):
        plugins["rude"].find_dataset("x")


def knowing(*body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body)
    return f"{GOOD}\n@hookimpl\ndef known_backbones():\n{lines}"


def test_known_backbones_are_asked_for_late_and_registered_ones_are_none_of_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noted = "print('asked')"
    fabricate(folder, "expert", knowing(noted, "yield Net('hidden1.exact')", "yield Net('small')"))
    fabricate(folder, "plain", GOOD)
    plugins = discover().active
    assert plugins["plain"].known_backbones() == {}
    assert capsys.readouterr() == ("", "")
    assert list(plugins["expert"].known_backbones()) == ["hidden1.exact"]
    assert capsys.readouterr() == ("", "asked\n")


BAD_KNOWN = {
    "raises-after-yield": (
        ["yield Net('one')", "raise RuntimeError('disk')"],
        "known_backbones raised RuntimeError: disk",
    ),
    "exits": (["raise SystemExit('bye')"], "known_backbones raised SystemExit: bye"),
    "returns-none": (["return None"], "known_backbones: returned None where an iterable is needed"),
    "returns-names": (["return ['one']"], "known_backbones: str where a Backbone is needed"),
    "wrong-name": (["return [Net('../one')]"], "known_backbones: backbone name '../one' cannot be used"),
    "twice": (["return [Net('x'), Net('x')]"], "known_backbones: two components named 'x'"),
}


@pytest.mark.parametrize("case", BAD_KNOWN)
def test_bad_known_backbones_cost_nothing_that_is_registered(folder: Path, case: str) -> None:
    body, message = BAD_KNOWN[case]
    fabricate(folder, f"known-{case}", knowing(*body))
    found = discover()
    plugin = found.active[f"known-{case}"]
    assert list(plugin.components["backbone"]) == ["small", "large"]
    assert not any(item.name == plugin.name for item in found.set_aside)
    with pytest.raises(PluginError, match=f"^plugin 'known-{case}': {re.escape(message)}"):
        plugin.known_backbones()


def test_users_error_raised_by_a_plugin_passes_as_it_is(folder: Path) -> None:
    raising = "from tlbench.errors import DataError\n@hookimpl\ndef find_dataset(name):\n    raise DataError('empty')\n"
    fabricate(folder, "helpful", HOOK + raising)
    with pytest.raises(DataError, match=r"^empty$"):
        discover().active["helpful"].find_dataset("photos")


OBSERVER = "seen = []\n@hookimpl\ndef trial_finished(measurement):\n    seen.append(measurement)\n"


@pytest.mark.parametrize("failure", ["raise RuntimeError('observer')", "raise SystemExit(1)"])
def test_observer_that_raises_is_logged_and_stops_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    calm = [fabricate(folder, name, HOOK + OBSERVER) for name in ("a-calm", "z-calm")]
    fabricate(folder, "m-raising", f"{HOOK}{OBSERVER}    {failure}\n")
    measurement: Any = object()
    with caplog.at_level(logging.WARNING):
        open_observers(discover(), folder).trial_finished(measurement)
    assert [sys.modules[module].seen for module in calm] == [[measurement], [measurement]]
    assert [record.getMessage() for record in caplog.records] == ["plugin 'm-raising': trial_finished raised"]


def test_nothing_is_remembered_between_discoveries(folder: Path) -> None:
    assert "late" not in discover().active
    fabricate(folder, "late", GOOD)
    assert "late" in discover().active


def test_control_characters_in_a_reason_are_made_harmless(folder: Path) -> None:
    fabricate(folder, "painter", "raise ValueError('\\x1b[2Jgone\\n' + 'x' * 9999)\n")
    text = reason(discover(), "painter")
    assert text.isprintable()
    assert "gone" in text
    assert len(text) <= 500


@pytest.mark.parametrize("clean", ["", "one line", "é [x]"])
def test_one_line_leaves_one_line_alone(clean: str) -> None:
    assert one_line(clean) == clean
