"""The command `tlbench search`: what it understands, what it runs, what it answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checkpoints import make
from test_bad_input import photos
from tlbench.benchmark import Device, Limits, load_benchmark
from tlbench.catalog import Catalog
from tlbench.cli import main
from tlbench.errors import BenchmarkError, DataError, TlbenchError, UnknownNameError, WeightsError
from tlbench.evaluation import hub
from tlbench.leaderboard.table import read_leaderboard
from tlbench.plugins import discover
from tlbench.proposal import Wishes, find_target, propose, slug
from tlbench.store import Store

QUICK = ["--backbones", "zoo/efficientnet_mini", "--strategies", "basic/linear-probe", "--trials", "1", "--seeds", "2",
         "--device", "cpu"]  # fmt: skip


def tlbench_(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub out of reach, for whatever reason the machine has none of its own."""
    monkeypatch.setattr(hub, "reachable", lambda: "the cable is cut")
    return "the cable is cut"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One search of a folder of photographs, one of which does not open, from the command line."""
    root = tmp_path_factory.mktemp("searched")
    folder = photos(root / "My photos")
    (folder / "train" / "red" / "broken.png").write_bytes(b"no image")
    shutil.copy(folder / "train" / "red" / "0.png", folder / "test" / "red" / "copy.png")
    return tlbench_("search", folder, "--out", root / "out", *QUICK), root


# One search, from the data to the answer


def test_it_says_what_it_understood_before_it_starts(searched: tuple[Result, Path]) -> None:
    result, root = searched
    assert result.exit_code == 0, result.output
    understood = result.stdout.partition("searching for 10 min; ")[0]
    assert "mine/My-photos: 30 images in 3 classes (blue, green, red), 10 each" in understood
    assert "1 image cannot be used and will be left out: " in understood
    assert "train/red/broken.png" in understood
    assert "9 images for test are there for training, too" in understood
    assert "1 backbone (zoo/efficientnet_mini), 1 strategy (linear-probe)" in understood
    assert str(root / "out" / "My-photos") in result.stdout


def test_it_answers_in_words_and_names_the_model_and_the_command(searched: tuple[Result, Path]) -> None:
    result, root = searched
    answer = result.stdout.partition("best for mine/My-photos: ")[2]
    assert answer.startswith("zoo/efficientnet_mini with basic/linear-probe\nrecipe: ")
    assert "test accuracy: " in answer
    assert "2 seeds" in answer
    assert "without any backbone: zoo/efficientnet_mini with basic/linear-probe is " in answer
    assert re.search(
        r"costs: 279 k parameters, 1\.1 MiB on disk, \S+ ms a sample \(90 % within \S+ ms\) on .+ thread", answer
    )
    assert f"use it: tlbench predict {root / 'out' / 'My-photos'} FILE..." in answer
    predicted = tlbench_("predict", root / "out" / "My-photos", root / "My photos" / "test" / "red", "--format", "csv")
    assert predicted.exit_code == 0, predicted.output
    assert predicted.stdout.count("\n") == 1 + 5
    file = root / "out" / "My-photos" / "benchmark.toml"
    assert f"tlbench run {file} --out elsewhere --skip-bad" in answer.replace("'", "")


def test_few_photos_validate_in_turn_and_test_ones_stay_the_same(searched: tuple[Result, Path]) -> None:
    _, root = searched
    store = Store(root / "out" / "My-photos")
    parts: dict[str, list[set[str]]] = {"validation": [], "test": []}
    for row in store.rows():
        if row["trial_stage"] == "final" and row["trial_strategy_name"] == "basic/linear-probe":
            assert row["trial_fold"] == row["trial_seed"]
            predictions = store.predictions(row["key"])
            assert predictions is not None
            of_part = {part: set[str]() for part in parts}
            for sample, part in zip(predictions.sample_id, predictions.split, strict=True):
                of_part[part].add(sample)
            for part, samples in of_part.items():
                parts[part].append(samples)
    first, second = parts["validation"]
    assert first
    assert second
    assert not first & second
    assert parts["test"][0] == parts["test"][1]


def test_the_benchmark_it_wrote_repeats_it(searched: tuple[Result, Path], tmp_path: Path) -> None:
    _, root = searched
    file = root / "out" / "My-photos" / "benchmark.toml"
    again = tlbench_("run", file, "--out", tmp_path, "--skip-bad")
    assert again.exit_code == 0, again.output
    columns = ["backbone", "strategy", "test", "validation", "key"]
    first, second = (read_leaderboard(out / "My-photos")[columns] for out in (root / "out", tmp_path))
    assert first.equals(second)


def test_run_again_it_computes_nothing_and_answers_the_same(searched: tuple[Result, Path]) -> None:
    result, root = searched
    written = {path: path.stat().st_mtime_ns for path in root.glob("out/My-photos/measurements/*/*")}
    assert written
    again = tlbench_("search", root / "My photos", "--out", root / "out", *QUICK)
    assert {path: path.stat().st_mtime_ns for path in root.glob("out/My-photos/measurements/*/*")} == written
    assert "[1/" not in again.stderr  # a line per job that is computed
    first, second = (each.stdout.partition("costs")[0].rpartition("time:") for each in (result, again))
    assert first[0] == second[0]
    assert first[1] == second[1] == "time:", "to ask for what is known takes some, too"


def test_events_come_as_lines_of_json(tmp_path: Path) -> None:
    result = tlbench_("search", photos(tmp_path / "photos"), "--out", tmp_path / "out", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run_started", "leaderboard")
    finished = [event for event in events if event["event"] == "job_finished"]
    assert {event["stage"] for event in finished} == {"search", "final"}
    assert finished[-1]["jobs_done"] == finished[-1]["jobs_total"] == len(finished)
    assert {row["backbone"] for row in events[-1]["rows"]} == {"zoo/efficientnet_mini", "none"}
    assert result.stderr == ""


def test_limits_are_written_into_the_benchmark_and_kept(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    limits = ["--max-params", "300k", "--max-macs", "1G", "--max-latency", "500s", "--max-memory", "4000"]
    two = ["--backbones", "zoo/vgg_mini", "--min-throughput", "0.01", *limits]
    result = tlbench_("search", folder, "--out", tmp_path, *QUICK, *two)
    assert result.exit_code == 0, result.output
    assert "zoo/vgg_mini any: excluded: max_params = 300,000: 528,000 parameters" in result.stdout
    written = load_benchmark(tmp_path / "photos" / "benchmark.toml").limits
    assert written == Limits(
        max_latency_ms=500_000, min_throughput_per_s=0.01, max_params=300_000, max_memory_mib=4000, max_macs=10**9
    )
    nothing = tlbench_("search", folder, "--out", tmp_path / "none", *QUICK, "--max-params", "1k")
    assert nothing.exit_code == 2
    assert "no backbone keeps the limits (zoo/efficientnet_mini: max_params = 1,000: " in nothing.stderr
    assert tlbench_("search", folder, "--max-latency", "10").exit_code == 2


def test_in_ci_it_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = tlbench_("search", photos(tmp_path / "photos"), "--out", tmp_path / "out", *QUICK)
    assert (result.exit_code, result.stderr) == (0, "")


def test_texts_are_searched_with_a_checkpoint_folder(tmp_path: Path, offline: str) -> None:
    rows = [f"{word} film number {number},{word}" for number in range(30) for word in ("good", "bad")]
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\n" + "\n".join(rows) + "\n")
    folder = make("bert", tmp_path / "my.model")
    arguments = ["--backbones", folder, "--strategies", "basic/linear-probe", "--trials", 1, "--seeds", 1]
    result = tlbench_("search", table, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 0, result.output
    assert "60 texts in 2 classes" in result.stdout
    assert "best for mine/reviews: mine/my with basic/linear-probe" in result.stdout


# Which data


def test_a_listed_data_set_is_taken_by_its_name() -> None:
    assert find_target("data/digits", discover(), None).declaration is None
    few = find_target("data/digits", discover(), 5)
    assert (few.name, few.dataset.name) == ("mine/digits", "mine/digits")
    assert few.declaration is not None
    assert (few.declaration.base, few.declaration.shots) == ("data/digits", 5)


def test_an_id_of_the_hub_is_looked_for_there() -> None:
    with pytest.raises(DataError, match=r"hub data set 'stanfordnlp/sst2' does not load: .* fetch it once"):
        find_target("stanfordnlp/sst2", discover(), 5)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ("photoz", UnknownNameError, "'photoz' is neither a file or folder here nor a data set"),
        ("data/digitz", UnknownNameError, "did you mean 'data/digits'?"),
        ("/no/such/folder", DataError, "no file or folder /no/such/folder"),
        ("loop", DataError, "a link to what is not there"),
        ("empty", DataError, "a folder without a data set"),
        ("notes.txt", DataError, "is a file but no table"),
    ],
)
def test_what_is_no_data_set_is_told(
    data: str, error: type[TlbenchError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("empty").mkdir()
    Path("notes.txt").write_text("nothing")
    with pytest.raises(error, match=said):
        find_target(data, discover(), None)


@pytest.mark.parametrize(
    ("given", "made"), [("my photos", "my-photos"), ("sst2.csv", "sst2"), ("ünsinn é", "nsinn"), ("...", "data")]
)
def test_names_are_made_of_what_a_name_may_hold(given: str, made: str) -> None:
    assert slug(given) == made


# Which benchmark


def proposed(wishes: Wishes, offline: str = "", train_size: int = 1000) -> tuple[Any, list[str]]:
    plugins = discover()
    target = find_target("data/digits", plugins, wishes.shots)
    return propose(target, train_size, wishes, plugins, Device(kind="cpu"), offline)


def test_the_pool_is_what_plugins_propose_and_can_be_written_down(tmp_path: Path) -> None:
    benchmark, left_out = proposed(Wishes())
    catalog = Catalog(discover())
    defaults = {one.full_name for one in catalog.registered("backbone") if one.component.default}
    assert set(benchmark.backbones) == {name for name in defaults if not name.startswith("transformers/")}
    assert "basic/linear-probe" in benchmark.strategies
    assert "basic/scratch" in benchmark.strategies
    assert left_out == []
    file = tmp_path / "made.toml"
    file.write_text(benchmark.to_toml())
    assert load_benchmark(file) == benchmark


def test_offline_the_pool_is_what_is_here_and_the_rest_is_named() -> None:
    benchmark, left_out = proposed(Wishes(), "the cable is cut")
    assert all(name.startswith("zoo/") for name in benchmark.backbones)
    assert len(left_out) == 1
    assert left_out[0].startswith("left out: timm/")
    assert left_out[0].endswith("(the cable is cut)")


def test_where_nothing_is_here_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "zoo")
    with pytest.raises(WeightsError, match="none of the 24 backbones for image has its weights on this machine"):
        proposed(Wishes(), "the cable is cut")


def test_small_data_are_trained_on_for_more_epochs() -> None:
    epochs = {size: proposed(Wishes(), train_size=size)[0].search.epochs for size in (50, 1000, 2000, 10**6)}
    assert epochs == {50: 15, 1000: 15, 2000: 10, 10**6: 3}
    assert proposed(Wishes(epochs=7))[0].search.epochs == 7


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("zoo/resnet_mimi", UnknownNameError, "did you mean 'zoo/resnet_mini'?"),
        ("here", BenchmarkError, "'here' is no checkpoint that a plugin can load"),
    ],
)
def test_backbones_that_are_not_to_be_had_are_told(
    name: str, error: type[TlbenchError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    with pytest.raises(error, match=said):
        Catalog(discover()).backbones(proposed(Wishes(backbones=(name,)))[0].backbones)


def test_a_bare_name_is_looked_for_in_every_plugin() -> None:
    assert proposed(Wishes(backbones=("resnet18",)))[0].backbones == ("timm/resnet18.a1_in1k",)


# What is typed wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "soon"], "'soon' is not a duration"),
        (["--metric", "accurracy"], "did you mean 'accuracy'?"),
        (["--shots", "0"], "0 is not in the range"),
        (["--strategies", "basic/ful"], "did you mean 'basic/full'?"),
    ],
)
def test_options_that_cannot_be_are_one_line(arguments: list[str], said: str, tmp_path: Path, offline: str) -> None:
    result = tlbench_("search", "data/digits", "--out", tmp_path, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
