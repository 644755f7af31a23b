"""Observers: who is asked, who is refused, and what each library reads back of what was written for it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import searching
from fabricated import fabricate
from runs import measurement, trial
from tlbench.benchmark import Device
from tlbench.errors import BenchmarkError, ObserverError, PluginError, UnknownNameError
from tlbench.executors.local import run
from tlbench.measurement import Epoch, Failure, Measurement
from tlbench.observers import open_observers
from tlbench.plugins import discover
from tlbench.store import Store

pytestmark = pytest.mark.long

FIRST_PARTY = ("mlflow", "optuna-dashboard", "tensorboard", "wandb")
ALWAYS = """
from tlbench.hookspecs import hookimpl
seen = []
@hookimpl
def trial_finished(measurement):
    seen.append(measurement)
"""
ASKED = """
from tlbench.hookspecs import hookimpl
seen = []
@hookimpl
def start_observing(folder):
    seen.append(folder)
@hookimpl
def trial_finished(folder, measurement):
    seen.append((folder, measurement))
"""


# Who is asked


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("fabricated_")]:
        del sys.modules[name]


def installed(site: Path, name: str, source: str, **options: Any) -> list[Any]:
    """What the observer of this name has seen."""
    module = fabricate(site, name, source, module=f"fabricated_{name}", **options)
    discover()
    seen: list[Any] = sys.modules[module].seen
    return seen


def test_one_that_waits_acts_only_when_asked_and_the_others_always(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always, asked, other = (installed(site, name, source) for name, source in
                            [("always", ALWAYS), ("asked", ASKED), ("other", ASKED)])  # fmt: skip
    told: Any = object()
    open_observers(discover(), site).trial_finished(told)
    assert (always, asked, other) == ([told], [], [])
    open_observers(discover(), site, ["asked"]).trial_finished(told)
    assert (always, asked, other) == ([told] * 2, [site, (site, told)], [])
    monkeypatch.setenv("TLBENCH_OBSERVE", "asked, other,")
    open_observers(discover(), site, ["asked", "always"]).trial_finished(told)
    assert (len(always), len(asked), other) == (3, 4, [site, (site, told)]), "each once, however often it is named"


def test_a_name_that_is_no_observer_s_is_refused_before_any_starts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = installed(site, "asked", ASKED)
    with pytest.raises(UnknownNameError, match="no observer 'tensorbord': did you mean 'tensorboard'"):
        open_observers(discover(), site, ["asked", "tensorbord"])
    with pytest.raises(UnknownNameError, match="no observer 'basic'"):
        open_observers(discover(), site, ["basic"])
    monkeypatch.setenv("TLBENCH_OBSERVE", "askd")
    with pytest.raises(UnknownNameError, match="did you mean 'asked'"):
        open_observers(discover(), site)
    assert asked == []


def test_one_set_aside_is_refused_with_the_reason(site: Path) -> None:
    fabricate(site, "broken", "import no_such_module", module="fabricated_broken")
    with pytest.raises(ObserverError, match=r"'broken' is set aside.*no_such_module"):
        open_observers(discover(), site, ["broken"])


@pytest.mark.parametrize(
    ("requirement", "lacking"),
    [
        ("no-such-library>=3", "no-such-library"),
        ("click>=999", r"click>=999 \(.* is installed\)"),
        ("click", None),
        ("no-such-library; extra == 'another'", None),
    ],
)
def test_what_its_extra_asks_for_has_to_be_there(site: Path, requirement: str, lacking: str | None) -> None:
    if "extra" not in requirement:
        requirement += "; extra == 'asked'"
    asked = installed(site, "asked", ASKED, requires=["tlbench", requirement])
    if lacking is None:
        open_observers(discover(), site, ["asked"])
        assert asked == [site]
        return
    with pytest.raises(ObserverError, match=rf"observer 'asked' needs {lacking}: pip install 'asked\[asked\]'"):
        open_observers(discover(), site, ["asked"])
    assert asked == []


def test_what_start_observing_raises_ends_the_run(site: Path) -> None:
    source = "from tlbench.errors import BenchmarkError\n" + ASKED.replace("seen.append(folder)", "raise {}")
    installed(site, "mends", source.replace("{}", "BenchmarkError('no key')"))
    installed(site, "bugs", source.replace("{}", "SystemExit(3)"))
    with pytest.raises(BenchmarkError, match=r"^no key$"):
        open_observers(discover(), site, ["mends"])
    with pytest.raises(PluginError, match="'bugs': start_observing raised SystemExit: 3"):
        open_observers(discover(), site, ["bugs"])


def test_one_that_raises_is_logged_and_harmless(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    installed(site, "raising", ASKED.replace("seen.append((folder, measurement))", "raise OSError('disk full')"))
    calm = installed(site, "zcalm", ASKED)
    open_observers(discover(), site, ["raising", "zcalm"]).trial_finished(measurement(trial()))
    assert len(calm) == 2
    assert [record.getMessage() for record in caplog.records] == ["plugin 'raising': trial_finished raised"]


def test_every_new_result_is_told_and_none_that_the_folder_had(
    site: Path, tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLBENCH_PLUGINS", "tiny,asked")
    told = installed(site, "asked", ASKED)
    bench = replace(searching.benchmark(("means",), seeds=(0,), trials=2), device=Device(kind="cpu", threads=1))
    run(bench, site / "results")
    assert told == []
    (site / "results").rename(site / "unobserved")
    for _ in range(2):
        run(bench, site / "results", observe=["asked"])
    starts = [one for one in told if one == site / "results"]
    keys = [measured.key for _, measured in (one for one in told if isinstance(one, tuple))]
    assert len(starts) == 2
    assert sorted(keys) == sorted(found.key for found in Store(site / "results").measurements())
    run(bench, site / "unobserved", observe=["asked"])
    assert len(told) == len(starts) + len(keys) + 1, "what was found unobserved stays so"
    with pytest.raises(UnknownNameError):
        run(bench, site / "new", observe=["nobody"])
    assert not list((site / "new").glob("measurements/*"))


# What the libraries read back

PROGRAM = """
import json, sys
from pathlib import Path
from tlbench.executors.local import run
from tlbench.measurement import Measurement
from tlbench.observers import open_observers
from tlbench.plugins import discover

folder, name = Path(sys.argv[1]), sys.argv[2]
observers = open_observers(discover(), folder, [name])
for line in (folder / "told.jsonl").read_text().splitlines():
    observers.trial_finished(Measurement.from_json(json.loads(line)))
"""


def measurements() -> list[Measurement]:
    """One of each kind, with what is awkward in a recipe, in scores and in a curve."""
    times = {"started_utc": "2026-01-02T03:04:05+00:00", "ended_utc": "2026-01-02T03:05:05+00:00"}
    curve = [
        Epoch(epoch=1, train_loss=0.5, search_score=0.25, elapsed_s=1.5),
        Epoch(epoch=2, train_loss=math.inf, search_score=0.5, elapsed_s=3.0),
    ]

    def made(number: int, status: str = "complete", **changes: Any) -> Measurement:
        params = {"learning_rate": 10.0 ** -(number + 1), "head": ("linear", "mlp")[number % 2], "patience": None,
                  "layers": [1, 2], "batch_size": 32, "mixup": 0.0, "channels_last": True}  # fmt: skip
        of = trial(params=params, **changes)
        one = measurement(of, status, search=0.5 + number / 10, validation=0.6)
        return replace(one, curve=curve, provenance=times)

    failure = Failure(kind="oom", stage="train", type="MemoryError", message="no memory\nleft " + "x" * 9000)
    lost = Failure(kind="infrastructure", stage="run", type="LostWorker", message="2 workers died")
    final = made(0, stage="final", seed=1)
    return [
        made(0),
        made(1, "pruned"),
        replace(made(2, "failed"), scores={}, failure=failure),
        replace(made(3, "failed"), scores={}, curve=(), provenance={}, failure=lost),
        made(4),
        replace(final, scores={**final.scores, "test": {"accuracy": 0.75, "confusion": [[1]]}}),
        made(5, backbone="none", dataset="data/../my photos"),
    ]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder, `bench`, and what there is to tell."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    folder = tmp_path / "bench"
    folder.mkdir()
    lines = [json.dumps(one.to_json()) for one in measurements()]
    (folder / "told.jsonl").write_text("\n".join(lines))
    return folder


def observe(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Tell the observer, in a process of its own: the libraries warn at import, start threads and set signals."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), name], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert "raised" not in done.stderr, done.stderr
    assert done.stdout == ""
    return done


def read(folder: Path, code: str) -> Any:
    """What a program prints as JSON; `folder` is there."""
    program = f"import json; from pathlib import Path; folder = Path({str(folder)!r})\n{dedent(code)}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_mlflow_reads_runs_with_recipe_curve_scores_and_outcome(told: Path) -> None:
    pytest.importorskip("mlflow")
    assert observe(told, "mlflow").returncode == 0
    runs = read(told / "observers" / "mlflow", """
        from mlflow import MlflowClient
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.get_experiment_by_name("bench")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.created"], max_results=100)
        print(json.dumps({run.data.tags["key"]: {
            "status": run.info.status, "tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics,
            "s": (run.info.end_time - run.info.start_time) / 1000,
            "curve": [[point.step, point.value] for point in client.get_metric_history(run.info.run_id,
            "epoch/search_score")]} for run in runs}))
        """)  # fmt: skip
    first, pruned, failed, lost, _, final, _ = (runs[one.key] for one in measurements())
    assert len(runs) == 7
    assert [one["status"] for one in (first, pruned, failed, lost)] == ["FINISHED", "KILLED", "FAILED", "FAILED"]
    assert pruned["tags"]["status"] == "pruned"
    assert first["s"] == 60
    assert first["params"] == {"learning_rate": "0.1", "head": "linear", "patience": "None", "layers": "[1, 2]",
                               "batch_size": "32", "mixup": "0.0", "channels_last": "True"}  # fmt: skip
    assert first["tags"]["mlflow.runName"] == "zoo/a basic/full data/digits"
    assert first["metrics"]["search/accuracy"] == 0.5
    assert first["metrics"]["cost/total_s"] == 12
    assert first["metrics"]["counts/parameters_total"] == 11_177_162
    assert first["curve"] == [[1, 0.25], [2, 0.5]]
    assert first["metrics"]["epoch/train_loss"] == 0.5, "the infinite one is left out"
    assert failed["tags"]["failure_kind"] == "oom"
    assert failed["tags"]["failure"].startswith("MemoryError: no memory\nleft x")
    assert final["metrics"]["test/accuracy"] == 0.75
    assert final["tags"]["stage"] == "final"


def test_mlflow_writes_where_the_user_says(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    observe(told, "mlflow")
    assert (tmp_path / "mine.db").is_file()
    assert not (told / "observers").exists()


def test_tensorboard_reads_curves_scores_and_recipes(told: Path) -> None:
    pytest.importorskip("tensorboard")
    for _ in range(2):  # told again, a trial's events are replaced
        assert observe(told, "tensorboard").returncode == 0
    runs = read(told / "observers" / "tensorboard", """
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        found = {}
        for file in folder.rglob("events.*"):
            events = EventAccumulator(str(file.parent)).Reload()
            content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
            hparams = HParamsPluginData.FromString(content).session_start_info.hparams
            found[str(file.parent.relative_to(folder))] = {
                "recipe": {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()},
                **{tag: [[point.step, point.value] for point in events.Scalars(tag)]
                   for tag in events.Tags()["scalars"]},
            }
        print(json.dumps(found))
        """)  # fmt: skip
    keys = [one.key for one in measurements()]
    assert set(runs) == {
        *(f"data_digits/zoo_a/basic_full/search-{key}" for key in keys[:5]),
        f"data_digits/zoo_a/basic_full/final-{keys[5]}",
        f"data_.._my photos/none/basic_full/search-{keys[6]}",
    }
    first = runs[f"data_digits/zoo_a/basic_full/search-{keys[0]}"]
    assert first["epoch/search_score"] == [[1, 0.25], [2, 0.5]]
    assert first["epoch/train_loss"] == [[1, 0.5]]
    assert first["search/accuracy"] == [[0, 0.5]]
    assert first["recipe"]["head"] == "linear"
    assert first["recipe"]["learning_rate"] == 0.1
    assert first["recipe"]["patience"] == "none"
    failed = runs[f"data_digits/zoo_a/basic_full/search-{keys[2]}"]["recipe"]
    assert (failed["status"], failed["failure_kind"]) == ("failed", "oom")


WANDB_FILE = """
from wandb.proto.wandb_internal_pb2 import Record

def records(data):  # LevelDB's log format: blocks of 32 KiB, records in parts with a header of 7 bytes
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole one, or the last part of one
            yield Record.FromString(whole)
            whole = b""

def items(updates):
    return {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in updates}
"""


def test_wandb_leaves_offline_runs_to_be_synchronised(told: Path) -> None:
    pytest.importorskip("wandb")
    assert observe(told, "wandb").returncode == 0
    code = WANDB_FILE + dedent("""
        found = {}
        for file in folder.glob("offline-run-*/*.wandb"):
            run = {"history": [], "summary": {}}
            for record in records(file.read_bytes()):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    run |= {"project": record.run.project, "name": record.run.display_name, "tags": [*record.run.tags]}
                    run |= {"config": items(record.run.config.update), "stage": record.run.job_type}
                elif kind == "history":
                    run["history"].append(items(record.history.item))
                elif kind == "summary":
                    run["summary"] |= items(record.summary.update)
                elif kind == "exit":
                    run["exit"] = record.exit.exit_code
            found[run["config"]["trial"]["key"]] = run
        print(json.dumps(found))
        """)
    runs = read(told / "observers" / "wandb", code)
    first, pruned, failed, _, _, final, _ = (runs[one.key] for one in measurements())
    assert len(runs) == 7
    assert (first["project"], first["name"], first["stage"]) == ("bench", "zoo/a basic/full data/digits", "search")
    assert [one["tags"] for one in (first, pruned, failed)] == [["complete"], ["pruned"], ["failed"]]
    assert [one["exit"] for one in (first, pruned, failed)] == [0, 0, 1]
    assert first["config"]["learning_rate"] == 0.1
    assert failed["config"]["trial"]["failure_kind"] == "oom"
    assert [(point["epoch"], point["search_score"]) for point in first["history"]] == [(1, 0.25), (2, 0.5)]
    assert first["summary"]["search/accuracy"] == 0.5
    assert final["summary"]["test/accuracy"] == 0.75


def test_wandb_that_is_to_go_online_without_a_key_is_one_line(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(told))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(told), "wandb"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert "PluginError: plugin 'wandb': start_observing raised UsageError: No API key" in done.stderr


def test_optuna_reads_a_study_per_cell_with_ranges_that_fit(told: Path) -> None:
    assert observe(told, "optuna-dashboard").returncode == 0
    studies = read(told / "observers", """
        import optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{folder}/optuna.db"
        print(json.dumps({name: {"best": study.best_trial.user_attrs["key"], "metric": study.user_attrs["metric"],
            "direction": study.direction.name, "trials": [{"state": trial.state.name, "params": trial.params,
            "curve": list(trial.intermediate_values.items()), "attributes": trial.user_attrs, "value": trial.value,
            "s": trial.duration.total_seconds(),
            "ranges": {name: str(known) for name, known in trial.distributions.items()}} for trial in study.trials]}
            for name in optuna.get_all_study_names(storage) for study in [optuna.load_study(study_name=name,
            storage=storage)]}))
        """)  # fmt: skip
    keys = [one.key for one in measurements()]
    cell = "zoo/a basic/full data/digits"
    assert set(studies) == {cell, f"{cell} finals", "none basic/full data/../my photos"}
    study = studies[cell]
    assert (study["best"], study["metric"], study["direction"]) == (keys[4], "accuracy", "MAXIMIZE")
    assert [one["attributes"]["key"] for one in study["trials"]] == keys[:5], "in the order they were told"
    assert [one["state"] for one in study["trials"]] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "COMPLETE"]
    first, pruned, failed, *_ = study["trials"]
    assert first["params"] == {"learning_rate": 0.1, "head": "linear", "patience": None, "layers": "[1, 2]",
                               "batch_size": 32, "mixup": 0.0, "channels_last": True}  # fmt: skip
    assert (first["value"], first["s"]) == (0.5, 60)
    assert pruned["curve"] == [["1", 0.25], ["2", 0.5]] or pruned["curve"] == [[1, 0.25], [2, 0.5]]
    assert failed["attributes"]["failure_kind"] == "oom"
    assert len({json.dumps(one["ranges"], sort_keys=True) for one in study["trials"]}) == 1, "or nothing is compared"
    final = studies[f"{cell} finals"]["trials"][0]
    assert (final["value"], final["attributes"]["test/accuracy"]) == (0.6, 0.75)


VALUES: list[Sequence[Any]] = [
    [3e-4], [1e-3, 1.0, 1e-7], [0.0, 0.2], [32], [1, 1000], [0, 3], [1, 0.5], [-2.5, 4.0], [-3], [None, 0.65],
    [True, 1], ["a", "b", "a"], [True, False], [1e-300], [float("nan"), 1.0], ["[1]", None, 0],
]  # fmt: skip


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_a_distribution_has_the_values_it_was_made_of(values: Sequence[Any]) -> None:
    from tlbench_observers.optuna_studies import distribution, has

    made = distribution(values)
    for value in values:
        if value == value:  # of nan only that it is a choice
            assert has(made, value)
            assert made._contains(made.to_internal_repr(value))


def test_a_number_between_the_ends_is_had_and_nothing_else() -> None:
    from tlbench_observers.optuna_studies import distribution, has

    rates = distribution([1e-4, 3e-3])
    assert has(rates, 5e-4)
    assert not has(rates, 0.5)
    assert not has(rates, "0.001")
    assert not has(rates, None)
    assert not has(distribution([1, 5]), 2.5)
    assert not has(distribution([True]), 1)


def test_none_of_the_libraries_is_imported_unless_asked_for() -> None:
    """Not even when their plugins are loaded."""
    code = "import sys; from tlbench.plugins import discover; print(*discover().active); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    active, modules = (set(line.split()) for line in done.stdout.splitlines())
    assert active >= set(FIRST_PARTY)
    assert modules & {"mlflow", "optuna", "tensorboard", "wandb", "torch", "numpy"} == set()
