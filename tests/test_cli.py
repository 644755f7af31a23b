"""The commands: what they print, what they refuse, and the status they leave with."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pluggy
import pytest
from click.testing import CliRunner, Result

import tlbench.executors
import tlbench.plugins
from runs import TOML, Run, measurement, trial
from tlbench import hookspecs
from tlbench.cli import main
from tlbench.components import Backbone, Facts
from tlbench.errors import DataError
from tlbench.executors.events import EpochFinished, JobFinished, JobStarted, Notice, RunStarted
from tlbench.plugins import Plugin, Plugins, SetAside
from tlbench.trial import Job

Fake = Callable[..., None]


def tlbench_(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my file.toml"
    path.write_text(TOML.format(name="mine", metric="accuracy"))
    return path


@pytest.fixture
def replace_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    def replace(fake: Fake) -> None:
        monkeypatch.setattr(tlbench.executors, "local", SimpleNamespace(run=fake), raising=False)

    return replace


def test_run_hands_over_its_options_and_prints_what_was_found(file: Path, tmp_path: Path, replace_run: Any) -> None:
    calls = []

    def fake(benchmark: Any, folder: Path, **options: Any) -> None:
        calls.append((benchmark.name, folder, options))
        job = Job(trial=trial())
        for event in (
            RunStarted(cells=1, jobs_total=4, jobs_done=0),
            JobStarted(job=job),
            EpochFinished(job=job, epoch=1, score=0.5),
            JobFinished(measurement=measurement(trial(), search=0.5), reused=False, jobs_done=1, jobs_total=4),
            JobFinished(
                measurement=measurement(trial(1), "failed", "no\nmemory [b]"), reused=False, jobs_done=2, jobs_total=4
            ),
            Notice(text="time ran out"),
        ):
            options["on_event"](event)
        Run(folder).cell("s1", "zoo/a", [0.8])

    replace_run(fake)
    out, observers = tmp_path / "out", ("--observe", "one", "--observe", "two")
    result = tlbench_("run", file, "--out", out, "--workers", 3, "--skip-bad", "--no-retry-failed", *observers)
    assert result.exit_code == 0, result.output
    name, folder, options = calls[0]
    assert (name, folder) == ("mine", out / "mine")
    assert options.pop("on_event")
    assert options.pop("stopping")() is False
    assert options == {"workers": 3, "skip_bad": True, "retry_failed": False, "observe": ("one", "two"), "speed": False}
    assert result.stderr.splitlines() == [
        "1 cell, about 4 jobs",
        "[1/4] zoo/a basic/full data/digits  0.5000  12 s",
        "[2/4] zoo/a basic/full data/digits  failed: oom: no memory [b]  12 s",
        "time ran out",
    ]
    assert "zoo/a" in result.stdout
    assert str(folder) in result.stdout
    assert (folder / "leaderboard.md").is_file()


def test_reused_results_are_counted_and_not_printed(file: Path, tmp_path: Path, replace_run: Any) -> None:
    def fake(benchmark: Any, folder: Path, **options: Any) -> None:
        options["on_event"](RunStarted(cells=1, jobs_total=4, jobs_done=1))
        found = measurement(trial(), search=0.5)
        options["on_event"](JobFinished(measurement=found, reused=True, jobs_done=1, jobs_total=4))
        Run(folder).cell("s1", "zoo/a", [0.8])

    replace_run(fake)
    result = tlbench_("run", file, "--out", tmp_path)
    assert result.stderr == "1 cell, about 4 jobs; 1 done by an earlier run\n"


def test_run_with_nothing_final_leaves_1(file: Path, tmp_path: Path, replace_run: Any) -> None:
    replace_run(lambda benchmark, folder, **options: Run(folder).opened("s1"))
    result = tlbench_("run", file, "--out", tmp_path)
    assert result.exit_code == 1
    assert "unfinished" in result.stdout


def test_what_the_user_can_mend_is_one_line_and_2(file: Path, tmp_path: Path, replace_run: Any) -> None:
    def fake(*_: Any, **__: Any) -> None:
        raise DataError("two samples\nshare an id")

    replace_run(fake)
    result = tlbench_("run", file, "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (2, "tlbench: error: two samples share an id\n")


def test_a_bug_keeps_its_traceback(file: Path, tmp_path: Path, replace_run: Any) -> None:
    def fake(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    replace_run(fake)
    assert isinstance(tlbench_("run", file, "--out", tmp_path).exception, ZeroDivisionError)


def test_interrupting_says_how_to_go_on(file: Path, tmp_path: Path, replace_run: Any) -> None:
    def fake(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    replace_run(fake)
    result = tlbench_("run", file, "--out", tmp_path, "--skip-bad", "--observe", "one")
    again = f"tlbench run '{file}' --out {tmp_path} --skip-bad --observe one"
    assert (result.exit_code, result.stderr) == (130, f"tlbench: interrupted; to go on: {again}\n")


def test_a_boolean_option_takes_no_value(file: Path, replace_run: Any) -> None:
    replace_run(lambda *_, **__: pytest.fail("ran"))
    assert tlbench_("run", file, "--skip-bad", "False").exit_code == 2


def test_an_unknown_benchmark_is_answered_with_the_closest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = Plugins(active={"zoo": plugin(benchmarks={"quickstart": tmp_path / "quickstart.toml"})})
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: shipped)
    result = tlbench_("run", "zoo/quickstar")
    assert result.exit_code == 2
    assert "did you mean 'zoo/quickstart'?" in result.stderr
    assert "tlbench list benchmarks" in result.stderr


def test_a_shipped_benchmark_runs_by_its_name(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replace_run: Any
) -> None:
    shipped = Plugins(active={"zoo": plugin(benchmarks={"quickstart": file})})
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: shipped)
    replace_run(lambda benchmark, folder, **options: Run(folder).cell("s1", "zoo/a", [0.8]))
    assert tlbench_("run", "zoo/quickstart", "--out", tmp_path).exit_code == 0


def test_quickstart_runs_the_shipped_benchmark_and_says_where_to_look_next(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replace_run: Any
) -> None:
    shipped = Plugins(active={"zoo": plugin(benchmarks={"quickstart": file, "larger": file})})
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: shipped)

    def fake(benchmark: Any, folder: Path, **options: Any) -> None:
        run = Run(folder)
        run.cell("s1", "zoo/a", [0.9])
        run.cell("s2", "zoo/a", [0.8], strategy="basic/scratch", weights="random")

    replace_run(fake)
    out = tmp_path / "my results"
    result = tlbench_("quickstart", "--out", out)
    assert result.exit_code == 0, result.output
    *_, gain, results, empty, heading, larger, show = result.stdout.splitlines()
    assert gain == (
        "data/digits: zoo/a with basic/full reaches 90.0 %, the same architecture from scratch 80.0 %: "
        "pretraining brings 10.0 points."
    )
    assert results.startswith(f"results: {out / 'mine'}")
    assert (empty, heading, larger) == ("", "next:", "  tlbench run zoo/larger")
    command = shlex.split(show)
    assert command[:2] == ["tlbench", "show"]
    assert tlbench_(*command[1:]).exit_code == 0


def test_quickstart_prefers_the_benchmark_that_comes_with_tlbench(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replace_run: Any
) -> None:
    theirs = tmp_path / "theirs.toml"
    theirs.write_text(TOML.format(name="theirs", metric="accuracy"))
    third = replace(plugin(benchmarks={"quickstart": theirs}), name="alpha")
    ours = replace(plugin(benchmarks={"quickstart": file}), distribution="tlbench")
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: Plugins(active={"alpha": third, "zoo": ours}))
    ran = []

    def fake(benchmark: Any, folder: Path, **options: Any) -> None:
        ran.append(benchmark.name)
        Run(folder).cell("s1", "zoo/a", [0.8])

    replace_run(fake)
    assert tlbench_("quickstart", "--out", tmp_path).exit_code == 0
    assert ran == ["mine"]


def test_quickstart_without_a_plugin_that_ships_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: Plugins(active={"zoo": plugin()}))
    result = tlbench_("quickstart")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'tlbench plugins'" in result.stderr


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "results" / "small")
    run.cell("s1", "zoo/a", [0.8, 0.9])
    return run


@pytest.mark.parametrize("whole", [True, False])
def test_leaderboard_takes_a_run_or_a_folder_of_runs(run: Run, whole: bool) -> None:
    result = tlbench_("leaderboard", run.folder.parent if whole else run.folder)
    assert result.exit_code == 0
    assert "zoo/a" in result.stdout


def test_leaderboard_formats_can_be_computed_with(run: Run, tmp_path: Path) -> None:
    assert json.loads(tlbench_("leaderboard", run.folder, "--format", "json").stdout)[0]["test"] == pytest.approx(0.85)
    assert tlbench_("leaderboard", run.folder, "--format", "csv").stdout.startswith("rank,benchmark,dataset,")
    file = tmp_path / "board.parquet"
    result = tlbench_("leaderboard", run.folder, "--format", "parquet", "--output", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert pd.read_parquet(file)["test"].tolist() == pytest.approx([0.85])
    assert tlbench_("leaderboard", run.folder, "--format", "parquet").stdout_bytes == file.read_bytes()


def test_a_terminal_is_spared_parquet(run: Run) -> None:
    code = (
        "import sys; sys.stdout.isatty = lambda: True\n"
        f"from tlbench.cli import main; main(['leaderboard', {str(run.folder)!r}, '--format', 'parquet'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output FILE" in done.stderr


def test_an_output_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    result = tlbench_("leaderboard", run.folder, "--output", tmp_path / "no" / "board.md")
    assert result.exit_code == 2
    assert result.stderr.startswith("tlbench: error: cannot write")


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    result = tlbench_("leaderboard", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("tlbench: error: folder")


def test_show_prints_the_whole_measurement(run: Run) -> None:
    key = trial(backbone="zoo/a", seed=1, stage="final").key
    result = tlbench_("show", key, "--results", run.folder.parent)
    assert result.exit_code == 0, result.output
    pairs = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    lines = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    assert lines["key"] == key
    assert lines["status"] == "complete"
    assert lines["model"] == "-"
    assert lines["params.learning_rate"] == "0.001"
    assert lines["test.accuracy"] == "0.9"
    assert lines["total_s"] == "12.0"
    assert lines["machine.cpu"] == "abacus"
    assert lines["buffers_changed"] == "false"
    assert lines["1"].split() == ["0.5000", "0.2500", "1.5", "s"]


def test_show_prints_what_was_measured_to_be_read_and_the_recipe_exactly(run: Run) -> None:
    of = trial(8, params={"learning_rate": 0.00012345678901})
    cost = {"train_flops": 13_942_310_400, "load_s": 1.6363859549965127, "energy_j": None, "features_cached": True}
    run.store.put(replace(measurement(of), cost=cost), None)
    printed = dict(
        line.split(maxsplit=1)
        for line in tlbench_("show", of.key, "--results", run.folder).stdout.splitlines()
        if len(line.split()) == 2
    )
    assert printed["params.learning_rate"] == "0.00012345678901"
    assert (printed["train_flops"], printed["load_s"]) == ("13,942,310,400", "1.63639")
    assert (printed["energy_j"], printed["features_cached"]) == ("-", "true")
    assert printed["parameters_total"] == "11,177,162"


def test_show_names_the_model_and_the_failure(run: Run) -> None:
    failed = measurement(trial(7), "failed", "no memory")
    run.store.put(failed, None)
    run.store.save_model(failed.key, Path.touch, {})
    stdout = tlbench_("show", failed.key, "--results", run.folder).stdout
    assert str(run.store.model_path(failed.key)) in stdout
    assert "no memory" in stdout


def test_show_takes_a_unique_prefix_and_no_other(run: Run) -> None:
    keys = sorted(run.store.keys())
    prefix = next(
        keys[0][:length] for length in range(1, 17) if sum(key.startswith(keys[0][:length]) for key in keys) == 1
    )
    assert keys[0] in tlbench_("show", prefix, "--results", run.folder).stdout
    ambiguous = tlbench_("show", "", "--results", run.folder)
    assert ambiguous.exit_code == 2
    assert all(key in ambiguous.stderr for key in keys)
    unknown = tlbench_("show", "xyz", "--results", run.folder)
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("tlbench: error: no measurement 'xyz'")


class Net(Backbone):
    summary = "a [bold]net[/bold]"

    def __init__(self, name: str, facts: Facts | None, modality: str = "image") -> None:
        self.name, self._facts, self.modality = name, facts, modality

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise SystemExit("broken\nfacts")
        return self._facts

    @property
    def preprocess(self) -> Any:
        raise NotImplementedError

    def weights(self) -> str:
        raise NotImplementedError

    def load(self, pretrained: bool) -> Any:
        raise NotImplementedError

    def layers(self, module: Any) -> Any:
        raise NotImplementedError


def plugin(benchmarks: dict[str, Path] | None = None, name: str = "zoo", hooks: object = None) -> Plugin:
    manager = pluggy.PluginManager("tlbench")
    manager.add_hookspecs(hookspecs)
    if hooks is not None:
        manager.register(hooks)
    nets = [
        Net("small", Facts(parameters=5_400_000, macs=225_000_000, accuracy=0.753, licence="MIT")),
        Net("odd", None),
    ]
    return Plugin(
        name=name,
        distribution="zoo-plugin",
        distribution_version="1.2",
        module="zoo",
        components={"backbone": {net.name: net for net in nets}, "strategy": {}, "dataset": {}},
        benchmarks=benchmarks or {},
        hooks=manager.hook,
    )


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = (SetAside(name="bad", distribution="bad-plugin", reason="its import raised [red]Error[/red]"),)
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: Plugins(active={"zoo": plugin()}, set_aside=aside))


def test_list_shows_facts_and_survives_a_plugin_that_has_none(zoo: None) -> None:
    result = tlbench_("list", "backbones")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "name       modality  parameters  macs    accuracy  licence  summary",
        "zoo/small  image     5.4 M       0.23 G  75.3 %    MIT      a [bold]net[/bold]",
        "zoo/odd    image                                            a [bold]net[/bold]",
    ]
    assert result.stderr == "tlbench: backbone 'zoo/odd': its facts raised SystemExit: broken facts\n"


def test_list_as_json_keeps_numbers(zoo: None) -> None:
    records = json.loads(tlbench_("list", "backbones", "--format", "json").stdout)
    assert (records[0]["parameters"], records[0]["macs"]) == (5_400_000, 225_000_000)
    assert records[1]["licence"] is None


class Shelf:
    """Hooks of a plugin that knows three more backbones, and one that it registers."""

    @hookspecs.hookimpl
    def known_backbones(self) -> Any:
        yield Net("large", Facts(parameters=90_000_000, macs=4 * 10**9, accuracy=0.853))
        yield Net("new", Facts(parameters=7_000_000, macs=10**9, accuracy=0.76))
        yield Net("small", Facts())
        yield Net("words", Facts(parameters=1_000), modality="text")


class Torn:
    """Hooks of a plugin that breaks after the first."""

    @hookspecs.hookimpl
    def known_backbones(self) -> Any:
        yield Net("one", Facts())
        raise RuntimeError("no\nshelf")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    active = {"zoo": plugin(hooks=Shelf())}
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: Plugins(active=active))


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch) -> None:
    active = {name: plugin(name=name, hooks=hooks) for name, hooks in {"torn": Torn(), "zoo": Shelf()}.items()}
    monkeypatch.setattr(tlbench.plugins, "discover", lambda: Plugins(active=active))


def listed(*options: object) -> list[str]:
    result = tlbench_("list", "backbones", *options, "--format", "json")
    assert result.exit_code == 0, result.output
    return [record["name"] for record in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--max-params", "10M"], ["zoo/small", "zoo/new", "zoo/words"]),
        (["--max-params", "5_400_000"], ["zoo/small", "zoo/words"]),
        (["--max-params", "5.3e6", "--modality", "image"], []),
        (["--max-macs", "1G", "--sort", "accuracy"], ["zoo/new", "zoo/small"]),
        (["--min-accuracy", "75.5%"], ["zoo/large", "zoo/new"]),
        (["--min-accuracy", "0.853"], ["zoo/large"]),
        (["--modality", "text"], ["zoo/words"]),
        (["--sort", "accuracy"], ["zoo/large", "zoo/new", "zoo/small", "zoo/odd", "zoo/words"]),
        (["--sort", "parameters"], ["zoo/words", "zoo/small", "zoo/new", "zoo/large", "zoo/odd"]),
        (["--sort", "macs", "--limit", 2], ["zoo/small", "zoo/new"]),
        (["--sort", "name"], ["zoo/large", "zoo/new", "zoo/odd", "zoo/small", "zoo/words"]),
        (["--limit", 1], ["zoo/small"]),
    ],
)
def test_a_list_is_limited_and_sorted(shelf: None, options: list[object], names: list[str]) -> None:
    assert listed("--all", *options) == names


def test_what_is_left_out_for_an_unknown_figure_is_counted(shelf: None) -> None:
    result = tlbench_("list", "backbones", "--all", "--max-params", "10M", "--min-accuracy", "75%", "--format", "json")
    assert len(json.loads(result.stdout)) == 2
    assert result.stderr.splitlines()[-1] == "tlbench: 2 left out for unknown parameters or accuracy"
    known = tlbench_("list", "backbones", "--modality", "text", "--all", "--max-params", "1k")
    assert "left out" not in known.stderr


def test_all_is_asked_for_and_what_breaks_costs_its_own(shelves: None) -> None:
    assert listed() == ["torn/small", "torn/odd", "zoo/small", "zoo/odd"]
    assert listed("--all") == [*listed(), "zoo/large", "zoo/new", "zoo/words"]
    said = tlbench_("list", "backbones", "--all").stderr
    assert "tlbench: plugin 'torn': known_backbones raised RuntimeError: no shelf\n" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-params", "ten"], "--max-params: 'ten' is not a whole number above 0: write one such as 10M"),
        (["--max-macs", "10ms"], "--max-macs: '10ms' is not a whole number above 0"),
        (
            ["--min-accuracy", "75"],
            "--min-accuracy: '75' is not a fraction above 0 and up to 1: write one such as 0.75",
        ),
        (["--modality", "images"], "no modality 'images': did you mean 'image'?"),
    ],
)
def test_a_wish_that_cannot_be_read_is_one_line(zoo: None, options: list[str], said: str) -> None:
    result = tlbench_("list", "backbones", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) <= 2  # the plugin `zoo` has one of its own
    assert result.stderr.splitlines()[-1].startswith(f"tlbench: error: {said}")


def test_wishes_go_with_backbones_alone() -> None:
    for option in (["--all"], ["--max-params", "10M"], ["--limit", "3"]):
        result = tlbench_("list", "datasets", *option)
        assert result.exit_code == 2
        assert "only --format goes with 'datasets'" in result.stderr


def test_nothing_within_the_limits_says_so(zoo: None) -> None:
    result = tlbench_("list", "backbones", "--max-params", "1k")
    assert (result.exit_code, result.stdout) == (
        0,
        "no backbones known to fit: raise a limit, or look at more with --all\n",
    )


def test_a_list_of_nothing_says_so(zoo: None) -> None:
    assert tlbench_("list", "strategies").stdout.startswith("no strategies")
    assert json.loads(tlbench_("list", "strategies", "--format", "json").stdout) == []


@pytest.mark.parametrize("what", ["backbones", "strategies", "datasets", "benchmarks"])
def test_whatever_is_installed_can_be_listed(what: str) -> None:
    records = json.loads(tlbench_("list", what, "--format", "json").stdout)
    text = tlbench_("list", what).stdout
    assert all(record["name"] in text for record in records)


def test_plugins_shows_what_each_provides_or_why_not(zoo: None) -> None:
    lines = tlbench_("plugins").stdout.splitlines()
    assert lines[1].split() == ["zoo", "active", "zoo-plugin", "1.2", "2", "backbones"]
    assert lines[2].endswith("nothing: its import raised [red]Error[/red]")


def test_a_reader_that_stops_reading_gets_no_traceback() -> None:
    code = "from tlbench.cli import main; main(['list', 'strategies', '--format', 'json'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_the_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert tlbench_("--version").stdout == f"tlbench, version {version('tlbench')}\n"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_wait_briefly_unless_told_otherwise(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what it is in the end is undone
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert tlbench_("cache", "list").exit_code == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected
