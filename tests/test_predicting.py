"""`tlbench predict`: what the board says on raw files in a fresh process, and what is skipped or refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import raw
from tlbench.catalog import Catalog
from tlbench.cli import main
from tlbench.commands import predicting
from tlbench.errors import DataError
from tlbench.evaluation import evaluate
from tlbench.evaluation.saved import load_model
from tlbench.leaderboard import finalists
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.samples.inputs import text_samples
from tlbench.samples.reading import read_columns
from tlbench.store import Store

pytestmark = pytest.mark.long

PROBE, LORA, FULL = "basic/linear-probe", "basic/lora", "basic/full"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store, list[np.ndarray]]]:
    """A run on images, one on texts, and the float32 logits of the test samples of every final."""
    exact: list[np.ndarray] = []
    make = evaluate.predictions

    def noting(parts: Mapping[str, Any]) -> Any:
        exact.extend(logits for name, (_, logits) in parts.items() if name == "test")
        return make(parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
        patch.setattr(evaluate, "predictions", noting)
        photos = raw.run_images(tmp_path_factory.mktemp("images"), PROBE, LORA, FULL)
        reviews = raw.run_texts(tmp_path_factory.mktemp("texts"), PROBE, LORA, FULL)
        yield photos, reviews, exact


@pytest.fixture
def photos(runs: Any) -> Store:
    store: Store = runs[0]
    return store


@pytest.fixture
def reviews(runs: Any) -> Store:
    store: Store = runs[1]
    return store


def fresh(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    code = "from tlbench.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def tlbench_(*arguments: object, given: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=given)


def chances(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[name]) for name in row if name.startswith("probability_")] for row in rows])


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: np.ndarray = values / values.sum(1, keepdims=True)
    return probabilities


def check(found: np.ndarray, predicted: list[str], store: Store, measurement: Measurement, exact: Any) -> None:
    """As stored, to float16's rounding, and as they were before it, to 1e-5."""
    _, labels, logits = raw.stored(store, measurement)
    names = load_model(store.model_path(measurement.key)).class_names
    assert predicted == [names[label] for label in labels]
    np.testing.assert_allclose(found, softmax(logits), atol=raw.tolerance(logits))
    (float32,) = {id(each): each for each in exact if np.array_equal(each.astype(np.float16), logits)}.values()
    np.testing.assert_allclose(found, softmax(float32), atol=1e-5)


@pytest.mark.parametrize("strategy", [PROBE, LORA, FULL])
def test_images_are_predicted_as_the_board_says(runs: Any, photos: Store, strategy: str) -> None:
    measurement, root = raw.finals(photos)[strategy], photos.path.parent / "photos"
    ids, _, _ = raw.stored(photos, measurement)
    done = fresh("predict", photos.model_path(measurement.key), *(root / name for name in ids), "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["path"] for row in rows] == [str(root / name) for name in ids]
    check(chances(rows), [row["predicted"] for row in rows], photos, measurement, runs[2])


@pytest.mark.parametrize("strategy", [PROBE, LORA, FULL])
def test_texts_are_predicted_as_the_board_says(runs: Any, reviews: Store, strategy: str, tmp_path: Path) -> None:
    measurement, file = raw.finals(reviews)[strategy], reviews.path.parent / "reviews.csv"
    done = fresh(
        "predict", reviews.model_path(measurement.key), file, "--format", "csv", "--output", tmp_path / "p.csv"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["row"] for row in rows] == [f"{file}:{number}" for number in range(1, 31)]
    entry = Catalog(discover()).dataset("data/texts").component
    train = entry.derive(name="mine/data", path=file, options={}).load(0).train
    places = {text: number for number, text in enumerate(read_columns(file)["review"] or [])}
    where = {name: places[train[index]] for index, name in enumerate(train.ids)}
    of_test = [rows[where[name]] for name in raw.stored(reviews, measurement)[0]]
    check(chances(of_test), [row["predicted"] for row in of_test], reviews, measurement, runs[2])


def test_a_folder_is_searched_and_the_best_final_of_a_run_taken(photos: Store) -> None:
    root = photos.path.parent / "photos"
    result = tlbench_("predict", photos.path, root, root / "red" / "1.jpg")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["path", "predicted", "blue", "green", "red"]
    assert len(lines) == 37
    best = max(raw.finals(photos).values(), key=lambda final: final.scores["validation"]["accuracy"])
    assert "best by validation" in result.stderr
    assert best.scores["validation"]["accuracy"] == photos_score(result.stderr, photos)


def photos_score(told: str, store: Store) -> float:
    """The validation score of the model that was taken."""
    measurement = store.get(Path(told.split(": ")[1]).stem)
    assert measurement is not None
    return float(measurement.scores["validation"]["accuracy"])


def test_json_has_every_class(photos: Store) -> None:
    model = photos.model_path(raw.finals(photos)[PROBE].key)
    image = photos.path.parent / "photos" / "red" / "1.jpg"
    (record,) = json.loads(tlbench_("predict", model, image, "--format", "json").stdout)
    assert (record["path"], record["predicted"]) == (str(image), "red")
    assert list(record["probabilities"]) == list(raw.CLASSES)
    expected = load_model(model)([image])[0]
    np.testing.assert_allclose(list(record["probabilities"].values()), expected, rtol=1e-6)


def test_of_many_classes_a_table_shows_the_most_probable(photos: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "MOST_COLUMNS", 2)
    monkeypatch.setattr(predicting, "MOST_SHOWN", 2)
    model, root = photos.model_path(raw.finals(photos)[PROBE].key), photos.path.parent / "photos"
    heading, line = tlbench_("predict", model, root / "red" / "1.jpg").stdout.splitlines()
    assert heading.endswith("most probable")
    assert line.count(",") == 1
    assert "red 0." in line


def test_what_cannot_be_read_is_named_and_skipped(photos: Store, tmp_path: Path) -> None:
    good = raw.draw(tmp_path / "photos" / "good.jpg", 2, 3)
    (tmp_path / "photos" / "cut.jpg").write_bytes(good.read_bytes()[:-300])
    (tmp_path / "photos" / "empty.png").touch()
    (tmp_path / "photos" / "words.png").write_text("no image")
    (tmp_path / "photos" / "notes.txt").write_text("not even named like one")
    done = fresh("predict", photos.model_path(raw.finals(photos)[PROBE].key), tmp_path / "photos", "--format", "csv")
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["path", str(good)]
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert "cut.jpg does not decode" in lines[0]
    assert lines[1:] == [
        f"tlbench: skipped: {tmp_path}/photos/empty.png does not decode: empty file",
        f"tlbench: skipped: {tmp_path}/photos/words.png does not decode: not an image that Pillow can read",
        "tlbench: 3 of 4 samples skipped",
    ]


def test_many_bad_files_are_counted(photos: Store, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.png").touch()
    raw.draw(tmp_path / "z.jpg", 1, 1)
    result = tlbench_("predict", photos.model_path(raw.finals(photos)[PROBE].key), tmp_path)
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == predicting.MOST_NAMED + 1
    assert result.stderr.splitlines()[-1] == "tlbench: 30 of 31 samples skipped"


def test_texts_come_from_lines_and_arguments(reviews: Store, tmp_path: Path) -> None:
    model = reviews.model_path(raw.finals(reviews)[LORA].key)
    lines = fresh("predict", model, "--format", "csv", given="a good film\n\na bad film\n")
    assert [line.split(",")[0] for line in lines.stdout.splitlines()] == ["row", "-:1", "-:3"]
    assert lines.stderr.splitlines() == [
        "tlbench: skipped: -:2: the text is empty",
        "tlbench: 1 of 3 samples skipped",
    ]
    (tmp_path / "t.txt").write_text("a good film\na bad film")
    from_file = tlbench_("predict", model, tmp_path / "t.txt", "--format", "csv").stdout.splitlines()
    given = tlbench_("predict", model, "--text", "a good film", "--text", "a bad film", "--format", "csv")
    values = [[line.split(",")[1:] for line in text[1:]] for text in (from_file, given.stdout.splitlines())]
    assert values[0] == values[1]
    assert [line.split(",")[0] for line in from_file] == ["row", f"{tmp_path}/t.txt:1", f"{tmp_path}/t.txt:2"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_is_read(suffix: str, tmp_path: Path) -> None:
    texts, file = ["a good, long film", 'a "bad" film', " "], tmp_path / f"t.{suffix}"
    frame = pd.DataFrame({"id": [1, 2, 3], "body": texts})
    if suffix == "parquet":
        frame.to_parquet(file)
    elif suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, sep="," if suffix == "csv" else "\t", index=False)
    found = text_samples([file], None, (), sys.stdin.buffer)
    assert found == [(f"{file}:{number}", text) for number, text in enumerate(texts, 1)]
    assert text_samples([file], "id", (), sys.stdin.buffer)[0][1] == "1"


def test_a_table_may_have_one_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("whatever\ngood\nbad\n")
    assert [text for _, text in text_samples([tmp_path / "t.csv"], None, (), sys.stdin.buffer)] == ["good", "bad"]


TABLES = {
    "two candidates": (
        "one,other\nlong words here,long words there\nshort ones,some more of them\n",
        r"could each be the text column.*--column \"one\"",
    ),
    "no text": ("a,b\n1,2\n3,4\n", "no column looks like the text column"),
    "an empty one": ("text,b\n,2\n,4\n", "column 'text' is empty: name another with --column"),
    "nothing": ("", "has no line with the names of its columns; a column of texts is needed"),
    "no rows": ("text,b\n", "has no rows"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_without_an_obvious_column_is_refused(case: str, tmp_path: Path) -> None:
    content, message = TABLES[case]
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        text_samples([tmp_path / "t.csv"], None, (), sys.stdin.buffer)


REFUSED: dict[str, tuple[list[str], str]] = {
    "a missing file": (["nowhere.jpg"], "no file or folder nowhere.jpg"),
    "a folder without images": (["{tmp}"], "no images below the folder {tmp}"),
    "nothing": ([], "nothing to predict: give image files"),
    "texts": (["--text", "a"], "the model takes images: --text and --column are for models that take texts"),
    "only bad ones": (["{tmp}/bad.jpg.txt"], "none of 1 samples could be predicted"),
    "no place to write": (["{photos}", "--output", "{tmp}/no/p.csv"], "cannot write '{tmp}/no/p.csv': No such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_user_can_mend_is_one_line(photos: Store, tmp_path: Path, case: str) -> None:
    arguments, message = REFUSED[case]
    (tmp_path / "bad.jpg.txt").write_text("no image")
    places = {"tmp": str(tmp_path), "photos": str(photos.path.parent / "photos")}
    model = photos.model_path(raw.finals(photos)[PROBE].key)
    result = tlbench_("predict", model, *(argument.format(**places) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"tlbench: error: {message.format(**places)}")
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.jpg.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "no file nowhere.csv"),
        (["nowhere.txt"], "nowhere.txt cannot be read: No such file or directory"),
        (["{tmp}"], "{tmp} is no table of texts"),
        (["{tmp}/latin.txt"], "{tmp}/latin.txt: line 2 is not UTF-8"),
        (["{table}", "--column", "title"], "{table}: no column 'title'; its columns are 'review', 'stars'"),
        ([], "no text to predict"),
        (["--text", " "], "no text to predict: there are only empty ones"),
    ],
)
def test_what_is_wrong_with_texts_is_one_line(
    reviews: Store, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"good\ns\xe9ance\n")
    places = {"tmp": str(tmp_path), "table": str(reviews.path.parent / "reviews.csv")}
    model = reviews.model_path(raw.finals(reviews)[LORA].key)
    result = tlbench_("predict", model, *(argument.format(**places) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"tlbench: error: {message.format(**places)}")
    assert len(result.stderr.splitlines()) == 1


def test_no_model_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "x.safetensors"):
        result = tlbench_("predict", path, tmp_path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"tlbench: error: no saved model at {path}: needed is a .safetensors file")


def test_a_run_on_several_data_sets_has_no_single_best(photos: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = finalists.read_leaderboard(photos.path)
    frame.loc[0, "dataset"] = "mine/other"
    monkeypatch.setattr(finalists, "read_leaderboard", lambda _: frame)
    result = tlbench_("predict", photos.path, photos.path.parent / "photos")
    assert result.exit_code == 2
    assert "has finals on mine/other, mine/data: give the model of one" in result.stderr
    monkeypatch.setattr(finalists, "read_leaderboard", lambda _: frame.assign(state="not final"))
    assert "has no final with a model yet" in tlbench_("predict", photos.path).stderr
