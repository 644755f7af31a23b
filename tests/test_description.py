"""What is said of a data set before anything is trained: sizes, parts, what is left out, copies."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

import tiny
from tlbench.components import Dataset
from tlbench.evaluation.data import load_data
from tlbench.evaluation.description import Description, describe
from tlbench_data.images import ImageFolder
from tlbench_data.tables import TextTables


def draw(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade % 256, shade // 256, 9)).save(path)
    return path


def photos(root: Path, sizes: Mapping[str, int]) -> Path:
    """Images `class/00.png`, ..., no two alike."""
    for number, (name, size) in enumerate(sizes.items()):
        for i in range(size):
            draw(root / name / f"{i:02}.png", 1000 * number + i)
    return root


def table(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def images(path: Path) -> ImageFolder:
    return ImageFolder("photos", path)


def described(dataset: Dataset, shots: int | None = None) -> Description:
    problems = dataset.problems()
    excluded = frozenset(problem.sample_id for problem in problems)
    data = load_data(dataset, split_seed=0, shots=shots, excluded=excluded)
    return describe(dataset, data, shots, problems)


@pytest.fixture(autouse=True)
def closed_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test split stays closed, whatever is said of it."""

    def opened(self: Dataset, seed: int) -> None:
        raise AssertionError("the test split was opened")

    for kind in (ImageFolder, TextTables, tiny.Blobs):
        monkeypatch.setattr(kind, "load_test", opened)


# Sizes and parts


def test_a_flat_folder_is_said_in_two_lines(tmp_path: Path) -> None:
    found = described(images(photos(tmp_path, {"dog": 10, "cat": 20, "bird": 15, "emu": 10, "fly": 10})))
    assert found.lines() == [
        "photos: 65 images in 5 classes (bird, cat, dog and 2 more), 10 to 20 each",
        "41 images to train on, 11 to validate; validation and test are a stratified fifth each, the data bring none; "
        "as they are few, finals validate on another fifth with every seed",
    ]
    assert found.class_counts == {"bird": 15, "cat": 20, "dog": 10, "emu": 10, "fly": 10}


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["train"], "12 images to train on, 4 to validate; validation and test are a stratified fifth each"),
        (["train", "test"], "16 images to train on, 4 to validate; test is a split of its own, validation a str"),
        (["train", "val"], "16 images to train on, 20 to validate; validation is a split of its own, test a str"),
        (["train", "val", "test"], "20 images to train on, 20 to validate; validation and test are splits of their"),
    ],
)
def test_where_validation_and_test_come_from(tmp_path: Path, splits: list[str], said: str) -> None:
    sizes = {f"{split}/{name}": 10 for split in splits for name in ("cat", "dog")}
    first, second = described(images(photos(tmp_path, sizes))).lines()
    assert first == "photos: 20 images in 2 classes (cat, dog), 10 each"
    assert second.startswith(said)


def test_few_shots_are_told(tmp_path: Path) -> None:
    found = described(images(photos(tmp_path, {"cat": 10, "dog": 10})), shots=3)
    assert found.lines()[1].startswith("6 images to train on (at most 3 of a class), 4 to validate")


@pytest.mark.parametrize(("smallest", "told"), [(5, False), (4, True)])
def test_classes_of_unlike_size_get_a_word_of_advice(tmp_path: Path, smallest: int, told: bool) -> None:
    found = described(images(photos(tmp_path, {"cat": 50, "dog": smallest, "emu": 20})))
    advice = "class 'cat' is 12 times as large as 'dog': metric = \"balanced_accuracy\" counts every class alike"
    assert found.lines()[2:] == [advice] * told
    assert found.imbalance == 50 / smallest


def test_a_data_set_that_knows_nothing_of_copies_is_described(tiny_plugin: object) -> None:
    assert described(tiny.Blobs()).lines() == [
        "blobs: 90 images in 3 classes (red, green, blue), 30 each",
        "90 images to train on, 60 to validate; validation and test are splits of their own",
    ]


# What is left out


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    root = photos(tmp_path, {"cat": 20, "dog": 10})
    whole = (root / "cat" / "00.png").read_bytes()
    for number in range(5):
        (root / "cat" / f"{number:02}.png").write_bytes(b"")
    (root / "dog" / "00.png").write_text("no image")
    (root / "dog" / "01.png").write_bytes(whole[:45])
    found = described(images(root))
    assert sum(found.class_counts.values()) == 23
    assert {reason: len(where) for reason, where in found.unusable.items()}["empty file"] == 5
    (line,) = found.lines()[2:]
    assert line.startswith(
        "7 images cannot be used and will be left out: empty file (cat/00.png, cat/01.png, cat/02.png and 2 more); "
        "not an image that Pillow can read (dog/00.png); "
    )
    assert line.endswith(" (dog/01.png)")


def test_a_row_is_named_by_its_place(tmp_path: Path) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
    found = described(TextTables("reviews", table(tmp_path / "a.csv", [*rows, ("", "a"), ("lost", "")])))
    (line,) = found.lines()[2:]
    assert line == (
        "2 texts cannot be used and will be left out: its text is empty (row 21 of a.csv); "
        "it has no label (row 22 of a.csv)"
    )


def test_a_line_stays_a_line(tmp_path: Path) -> None:
    found = described(images(photos(tmp_path, {"c\na\x1b[31mt": 10, "d" * 200: 10})))
    assert all(line.isprintable() and len(line) <= 500 for line in found.lines())


# Copies


def test_copies_are_grouped_whatever_their_split_and_class(tmp_path: Path) -> None:
    root = photos(tmp_path, {"train/cat": 5, "train/dog": 5, "test/cat": 5, "test/dog": 5})
    assert images(root).duplicates() == ()
    for name in ("test/dog/09.png", "train/dog/08.png"):
        draw(root / name, 2)
    for name in ("train/cat/empty.png", "test/cat/empty.png"):
        (root / name).write_bytes(b"")
    assert images(root).duplicates() == (("test/dog/09.png", "train/cat/02.png", "train/dog/08.png"),)


def test_images_in_two_splits_are_counted(tmp_path: Path) -> None:
    root = photos(tmp_path, {"train/cat": 5, "train/dog": 5, "val/cat": 5, "val/dog": 5, "test/cat": 5, "test/dog": 5})
    for name in ("test/cat/10.png", "test/cat/11.png", "val/cat/12.png"):
        draw(root / name, 0)
    draw(root / "test/dog/13.png", 3001)
    assert described(images(root)).lines()[2:] == [
        "2 images for test are there for training, too, such as test/cat/10.png = train/cat/00.png: "
        "scores come out too high",
        "1 image for validation is there for training, too, such as val/cat/12.png = train/cat/00.png: "
        "scores come out too high",
        "3 images for test are there for validation, too, such as test/cat/10.png = val/cat/12.png: "
        "scores come out too high",
    ]


def test_texts_in_two_splits_are_shown(tmp_path: Path) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
    table(tmp_path / "train.csv", rows)
    table(tmp_path / "validation.csv", [("fresh", "a"), ("new", "b")])
    table(tmp_path / "test.csv", [*rows[3:6], ("another", "a")])
    found = described(TextTables("reviews", tmp_path))
    (leak,) = found.copies.leaks
    assert (leak.seen, leak.scored, leak.count) == ("train", "test", 3)
    (line,) = found.lines()[2:]
    assert line.startswith("3 texts for test are there for training, too, such as 'text ")


def test_copies_in_one_table_are_counted_where_they_fall(tmp_path: Path) -> None:
    """A table without a test split: copies are dealt to train, validation and test like all rows."""
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(50)]
    found = described(TextTables("reviews", table(tmp_path / "a.csv", rows * 2)))
    counts = {(leak.seen, leak.scored): leak.count for leak in found.copies.leaks}
    assert 0 < counts["train", "test"] <= 20
    assert 0 < counts["train", "validation"] <= 16
    assert counts["train", "test"] + counts["train", "validation"] + 2 * found.copies.repeated == found.train
    shots = described(TextTables("reviews", tmp_path / "a.csv"), shots=4)
    assert {leak.scored for leak in shots.copies.leaks} <= {"validation"}


def test_one_text_in_two_classes_is_told(tmp_path: Path) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
    found = described(TextTables("reviews", table(tmp_path / "a.csv", [*rows, ("text 3", "a"), ("text 3", "b")])))
    assert found.copies.contradictory == 1
    assert found.lines()[-1] == "1 text is there in more than one class, such as 'text 3' in 'a' and 'b'"
