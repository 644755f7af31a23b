"""Bad data: a data set of the user's own is used, or refused in one line, or loses samples that are counted."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tiny
from fabricated import fabricate
from tlbench import files
from tlbench.cli import main
from tlbench.components import Dataset
from tlbench.errors import DataError
from tlbench.evaluation.data import load_data
from tlbench.evaluation.description import describe
from tlbench.store import Store
from tlbench_data.images import ImageFolder
from tlbench_data.tables import TextTables

HERE = Path(__file__).parent
COLOURS = ("green", "red")
Build = Callable[[Path], Path | None]
"""Makes the data set in the folder it is given; returns its path where that is another."""


# The command line


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def refusal(self) -> str:
        """The one line of a command that ran nothing."""
        assert self.status == 2, self.stdout + self.stderr
        (line,) = self.stderr.splitlines()
        assert line.startswith("tlbench: error: ")
        assert line.isprintable()
        assert not list(self.folder.glob("measurements/*"))
        return line

    @property
    def used(self) -> int:
        """Samples that trained, validated or were tested on."""
        assert self.status == 0, self.stdout + self.stderr
        assert "Warning" not in self.stderr
        (final,) = [each for each in Store(self.folder).measurements() if each.trial.stage == "final"]
        assert final.status == "complete", final.failure
        return sum(final.counts[part] for part in ("train", "validation", "test_evaluated"))


def search(path: Path, out: Path) -> Ran:
    """Let the command line find a model for the data at `path`: a frozen probe, one trial, one seed."""
    is_text = path.suffix in (".csv", ".tsv", ".gz", ".json", ".jsonl", ".parquet") or bool([*path.glob("*.csv")])
    backbone = "mini/bert" if is_text else "tiny/net"
    quick = ["--strategies", "basic/ridge-probe", "--trials", "1", "--seeds", "1", "--device", "cpu", "--name", "quick"]
    result = CliRunner().invoke(main, ["search", str(path), "--out", str(out), "--backbones", backbone, *quick])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return Ran(result.exit_code, result.stdout, result.stderr, out / "quick")


@pytest.fixture(scope="session")
def mini_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plugin `mini` is installed."""
    site = tmp_path_factory.mktemp("mini_site")
    fabricate(site, "mini", (HERE / "miniatures.py").read_text())
    return site


@pytest.fixture
def out(tiny_plugin: object, mini_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go; the backbones are there."""
    monkeypatch.syspath_prepend(mini_site)
    return tmp_path / "out"


def dataset(path: Path) -> Dataset:
    return TextTables("data", path) if path.is_file() or [*path.glob("*.csv")] else ImageFolder("data", path)


def lines(path: Path) -> list[str]:
    """What is said of the data set before anything is trained."""
    found = dataset(path)
    problems = found.problems()
    excluded = frozenset(problem.sample_id for problem in problems)
    data = load_data(found, split_seed=0, shots=None, excluded=excluded)
    return describe(found, data, None, problems).lines()


def made(build: Build, tmp_path: Path) -> Path:
    """The path of the data set that `build` makes."""
    root = tmp_path / "data"
    root.mkdir()
    return build(root) or root


# Images


def photo(label: int, number: int) -> Image.Image:
    """An image of its own, coloured by its class."""
    return Image.fromarray(tiny._Blobs([label] * (number + 1), 5)[number])


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photo(0, 99)).save(path, **options)
    return path


def put(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def photos(root: Path, count: int = 6, *splits: str) -> Path:
    """Two classes of `count` images in each split, or flat."""
    for number, split in enumerate(splits or ("",)):
        for label, name in enumerate(COLOURS):
            for i in range(count):
                save(root / split / name / f"{i}.png", photo(label, 10 * number + i))
    return root


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def also(change: Callable[[Path], object], *splits: str) -> Build:
    """A usable folder of images, and what `change` does to it."""

    def build(root: Path) -> None:
        change(photos(root, 6, *splits))

    return build


def linked_class(root: Path) -> None:
    (root / "blue").symlink_to(root / "nowhere")


REFUSED_FOLDERS: Mapping[str, tuple[Build, str]] = {
    "a wrong path": (lambda root: root / "nowhere", "no file or folder "),
    "an empty folder": (lambda root: None, "is a folder without a data set (it has no files)"),
    "a folder of other files": (
        lambda root: put(root / "notes" / "a.txt", "x") and None,
        "is a folder without a data set (1 files: 1 .txt): a folder of images for each class",
    ),
    "images without class folders": (lambda root: save(root / "a.png") and None, "(1 files: 1 .png)"),
    "an archive": (
        lambda root: put(root / "photos.zip", b"PK\3\4"),
        "photos.zip' is a file but no table: a folder or a file such as reviews.csv is needed",
    ),
    "one class": (lambda root: save(root / "red" / "a.png") and None, "has a single class, 'red'"),
    "a class with one image": (also(lambda root: save(root / "blue" / "a.png")), "class 'blue' has 1 image; at least"),
    "a class of nothing but damaged images": (
        also(lambda root: [put(root / "blue" / f"{i}.jpg") for i in range(9)]),
        "class 'blue' has 0 images; at least 3 needed",
    ),
    "a class only the test split has": (
        also(lambda root: save(root / "test" / "blue" / "a.png"), "train", "test"),
        "class 'blue' of the test split in ",
    ),
    "two validation folders": (
        lambda root: photos(root, 6, "train", "val", "validation") and None,
        "two folders for its validation split; validation/ is one of them: keep one",
    ),
    "a test folder without classes": (
        also(lambda root: save(root / "test" / "a.png")),
        "test has images but no class folders: sort them by class",
    ),
    "nothing to train on": (lambda root: photos(root, 6, "test") and None, "has a test split but no train/<class>/"),
    "a class folder that is a link to nothing": (also(linked_class), "blue is a link to nothing, where a class"),
}


@pytest.mark.parametrize("kind", REFUSED_FOLDERS)
def test_a_folder_of_images_is_refused_in_one_line(kind: str, out: Path, tmp_path: Path) -> None:
    build, expected = REFUSED_FOLDERS[kind]
    assert expected in search(made(build, tmp_path), out).refusal


def loop(path: Path) -> None:
    path.symlink_to(path)


def corrupt(path: Path) -> None:
    """A bit of the pixels flips."""
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 1
    put(path, bytes(data))


DAMAGED: Mapping[str, tuple[str, Callable[[Path], object], str]] = {
    "an empty file": ("bad.jpg", put, "empty file"),
    "a truncated JPEG": ("bad.jpg", lambda path: put(path, encoded(noise(), "JPEG")[:900]), "image file is truncated"),
    "a truncated PNG": ("bad.png", lambda path: put(path, encoded(noise())[:900]), ""),
    "a flipped bit": ("bad.png", corrupt, ""),
    "a text": ("bad.jpg", lambda path: put(path, "<html>404 not found</html>"), "not an image that Pillow can read"),
    "a telephone's HEIC": ("bad.HEIC", lambda path: put(path, b"\0\0\0\x18ftypheic"), "not an image that Pillow can"),
    "a link to itself": ("bad.png", loop, "cannot be read: Too many levels of symbolic links"),
    "a link to nothing": ("bad.png", lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
    "a decompression bomb": ("bad.png", lambda path: put(path, declared(60000, 60000)), "too many pixels (decom"),
    "a pipe": ("bad.png", os.mkfifo, "no regular file"),
    "pixels without a range": (
        "bad.tif",
        lambda path: save(path, Image.fromarray(np.eye(4, dtype="f4"))),
        "floating-point pixels have no fixed range",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_an_image_that_does_not_decode_is_left_out_and_counted(kind: str, out: Path, tmp_path: Path) -> None:
    name, damage, reason = DAMAGED[kind]
    root = made(also(lambda root: damage(root / "red" / name)), tmp_path)
    assert search(root, out).used == 12
    (said,) = lines(root)[2:]
    assert said.startswith(f"1 image cannot be used and will be left out: {reason}")
    assert said.endswith(f"(red/{name})")


def forbid(monkeypatch: pytest.MonkeyPatch, forbidden: Path) -> None:
    """Whoever runs the tests, root too, may not read this file."""
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_an_image_that_may_not_be_read_is_left_out(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "data")
    forbid(monkeypatch, root / "red" / "3.png")
    assert search(root, out).used == 11
    assert lines(root)[2] == (
        "1 image cannot be used and will be left out: cannot be read: Permission denied (red/3.png)"
    )


def test_several_kinds_of_damage_are_counted_by_kind(out: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "data", 9)
    for number in range(4):
        put(root / "red" / f"{number}.png")
    put(root / "green" / "0.png", "text")
    assert search(root, out).used == 13
    assert lines(root)[2] == (
        "5 images cannot be used and will be left out: not an image that Pillow can read (green/0.png); "
        "empty file (red/0.png, red/1.png, red/2.png and 1 more)"
    )


WIDE = np.tile(np.array([[200], [100], [0]], np.uint8), (1, 6))[..., None].repeat(3, 2)


def turned(path: Path) -> None:
    """Stored on its side; EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.kron(WIDE, np.ones((16, 16, 1), np.uint8))
    save(path, Image.fromarray(np.ascontiguousarray(np.rot90(upright))), quality=100, exif=exif)


def palette(path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    save(path, image, transparency=1)


def animation(path: Path) -> None:
    frames = [Image.new("RGB", (2, 1), colour) for colour in ("red", "lime", "blue")]
    save(path, frames[0], save_all=True, append_images=frames[1:])


UNUSUAL: Mapping[str, tuple[str, Callable[[Path], object], Any]] = {
    "16 bits of grey": (
        "odd.png",
        lambda path: save(path, Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))),
        [[[0] * 3, [100] * 3, [255] * 3]],
    ),
    "printing colours": (
        "odd.jpg",
        lambda path: save(path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100),
        [[[255, 0, 0]] * 8] * 8,
    ),
    "a palette with a transparent colour": ("odd.png", palette, [[[10, 20, 30], [255] * 3]]),
    "an animation": ("odd.gif", animation, [[[255, 0, 0]] * 2]),
    "turned by EXIF": ("odd.jpg", turned, np.kron(WIDE, np.ones((16, 16, 1), np.uint8)).tolist()),
    "one pixel": ("odd.png", lambda path: save(path, Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]]),
    "a line of 100,000 pixels": (
        "odd.png",
        lambda path: save(path, Image.new("RGB", (100_000, 1), (1, 2, 3))),
        [[[1, 2, 3]] * 100_000],
    ),
    "black and white": ("odd.bmp", lambda path: save(path, Image.new("1", (1, 1), 1)), [[[255] * 3]]),
    "an ending that lies": (
        "odd.jpg",
        lambda path: put(path, encoded(Image.new("RGB", (1, 1), (1, 2, 3)))),
        [[[1, 2, 3]]],
    ),
    "a name that is no Unicode": (
        os.fsdecode(b"\xe9t\xe9.png"),
        lambda path: save(path, Image.new("RGB", (1, 1), (1, 2, 3))),
        [[[1, 2, 3]]],
    ),
    "a name of two lines": (
        "o\ndd'\".png",
        lambda path: save(path, Image.new("RGB", (1, 1), (1, 2, 3))),
        [[[1, 2, 3]]],
    ),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_image_is_used(kind: str, out: Path, tmp_path: Path) -> None:
    name, write, expected = UNUSUAL[kind]
    root = made(also(lambda root: write(root / "red" / name)), tmp_path)
    assert search(root, out).used == 13
    assert len(lines(root)) == 2
    train = dataset(root).load(0).train
    (index,) = [
        i for i, name in enumerate(train.ids) if name not in {f"{c}/{n}.png" for c in COLOURS for n in range(6)}
    ]
    pixels = np.array(expected)
    assert (train[index].dtype, train[index].shape) == (np.uint8, pixels.shape)
    assert np.abs(train[index].astype(int) - pixels).max() <= 4


def test_an_image_that_pillow_calls_large_is_used_without_a_word(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from 89 million pixels on and refuses twice as many; the numbers are smaller here."""
    root = made(also(lambda root: save(root / "red" / "large.png", Image.new("RGB", (15, 10)))), tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert search(root, out).used == 13
    save(root / "red" / "larger.png", Image.new("RGB", (21, 10)))
    assert [problem.sample_id for problem in dataset(root).problems()] == ["red/larger.png"]


def test_a_folder_that_is_its_own_child_ends(out: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    (root / "red" / "again").symlink_to(root)
    (root / "red" / "self").symlink_to(root / "red")
    assert search(root, out).used == 12


def test_folders_and_files_beside_the_images_do_not_matter(out: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    put(root / "README.md", "photos")
    put(root / ".DS_Store")
    put(root / "red" / "Thumbs.db")
    (root / "red" / "folder.jpg").mkdir()
    (root / "empty").mkdir()
    assert search(root, out).used == 12


def test_an_image_that_goes_away_is_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "data")
    train = dataset(root).load(0).train
    (root / "green" / "0.png").unlink()
    with pytest.raises(DataError, match=r"green/0\.png does not decode: cannot be read: No such file"):
        train[0]


# Texts

Rows = Sequence[Sequence[Any]]
GOOD: Rows = [(f"a text of the number {i}, {COLOURS[i % 2]}", COLOURS[i % 2]) for i in range(12)]


def table(path: Path, rows: Rows = GOOD, header: Sequence[str] = ("text", "label"), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows([header, *rows] if header else rows)
    return path


def spelled(encoding: str) -> Build:
    return lambda root: put(root / "a.csv", table(root / "b.csv", [("é", "x"), *GOOD]).read_text().encode(encoding))


def tables(**splits: Rows) -> Build:
    def build(root: Path) -> None:
        for name, rows in splits.items():
            table(root / f"{name}.csv", rows)

    return build


REFUSED_TABLES: Mapping[str, tuple[Build, str]] = {
    "a wrong path": (lambda root: root / "a.csv", "no file or folder "),
    "an empty file": (lambda root: put(root / "a.csv"), "a.csv: the table has no line with the names of its columns"),
    "a header alone": (lambda root: put(root / "a.csv", "text,label\n"), "a.csv has no rows"),
    "no header": (lambda root: table(root / "a.csv", header=()), "a.csv: its first line holds a sample ('"),
    "Latin-1": (spelled("latin-1"), "a.csv: line 2 is not UTF-8: save the file with that encoding"),
    "UTF-16": (spelled("utf-16"), "a.csv: line 1 is not UTF-8: save the file with that encoding"),
    "UTF-16 without its mark": (
        lambda root: put(root / "a.csv", table(root / "b.csv").read_text().encode("utf-16-le")),
        "a.csv: line 1 holds a NUL character: it is damaged, or UTF-16",
    ),
    "NUL characters": (
        lambda root: put(root / "a.csv", table(root / "b.csv").read_text().replace("number 3", "number \0")),
        "a.csv: line 5 holds a NUL character",
    ),
    "a spreadsheet by another name": (lambda root: put(root / "a.csv", b"PK\3\4\xff\xfe"), "line 1 is not UTF-8"),
    "gzip that is none": (lambda root: put(root / "a.csv.gz", b"text,label"), "it cannot be read: Not a gzipped file"),
    "gzip that ends early": (
        lambda root: put(root / "a.csv.gz", gzip.compress(table(root / "b.csv").read_bytes(), mtime=0)[:-9]),
        "it cannot be read: Compressed file ended",
    ),
    "Parquet that is none": (lambda root: put(root / "a.parquet", b"PAR1"), "a.parquet: it cannot be read: "),
    "JSON that breaks off": (
        lambda root: put(root / "a.jsonl", '{"text": "a", "label": 1}\n{"text": '),
        "a.jsonl: line 2: ",
    ),
    "a single column": (lambda root: put(root / "a.csv", "text\na\nb\n"), "the table has one column, 'text'"),
    "no label column": (
        lambda root: table(root / "a.csv", [(f"a {i}", f"b {i}") for i in range(9)], ("text", "notes")),
        "no column looks like the label column; its columns are 'text', 'notes'",
    ),
    "two columns of one name": (
        lambda root: table(root / "a.csv", [("a", "b", "c")], ("text", "label", "text")),
        "2 columns are called 'text'",
    ),
    "a row too long": (
        lambda root: table(root / "a.csv", [*GOOD, ("a", "red", "c")]),
        "line 14 ends a row of 3 values, but there are 2 columns",
    ),
    "a row too short": (lambda root: table(root / "a.csv", [*GOOD, ("a",)]), "line 14 ends a row of 1 values"),
    "a quote that never closes": (
        lambda root: put(root / "a.csv", table(root / "b.csv").read_text() + '"open,red\n'),
        "unexpected end of data",
    ),
    "no label at all": (lambda root: table(root / "a.csv", [("a", ""), ("b", " ")]), "column 'label' is empty"),
    "one class": (lambda root: table(root / "a.csv", [("a", "red"), ("b", "red")]), "has a single class, 'red'"),
    "a class with one text": (
        lambda root: table(root / "a.csv", [*GOOD, ("one", "blue")]),
        "class 'blue' has 1 text; at least 3 needed",
    ),
    "quantities for labels": (
        lambda root: table(root / "a.csv", [(f"text {i}", f"{i / 7:.3f}") for i in range(40)]),
        "a.csv has 40 different numbers as labels in 40 rows: they look like quantities",
    ),
    "a label only the test table has": (
        tables(train=GOOD, test=[("new", "blue")]),
        "class 'blue' in test.csv has no rows in train.csv to train on",
    ),
    "two validation tables": (
        tables(train=GOOD, val=GOOD, validation=GOOD),
        "two tables for its validation split, val.csv and validation.csv: keep one",
    ),
    "a pipe": (lambda root: os.mkfifo(root / "a.csv") or root / "a.csv", "a.csv is no regular file"),
}


@pytest.mark.parametrize("kind", REFUSED_TABLES)
def test_a_table_is_refused_in_one_line(kind: str, out: Path, tmp_path: Path) -> None:
    build, expected = REFUSED_TABLES[kind]
    assert expected in search(made(build, tmp_path), out).refusal


def test_a_table_that_may_not_be_read_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "data" / "a.csv")
    forbid(monkeypatch, path)
    assert f"{path}: it cannot be read: Permission denied" in search(path, out).refusal


def frame(path: Path, text: Sequence[Any], label: Sequence[Any]) -> Path:
    import pandas as pd

    pd.DataFrame({"text": text, "label": label}).to_parquet(path)
    return path


LEFT_OUT: Mapping[str, tuple[Build, Sequence[str]]] = {
    "an empty label": (lambda root: table(root / "a.csv", [*GOOD, ("a", " ")]), ["it has no label (row 13 of a.csv)"]),
    "an empty text": (
        lambda root: table(root / "a.csv", [("", "red"), *GOOD, (" \n", "green")]),
        ["its text is empty (row 1 of a.csv, row 14 of a.csv)"],
    ),
    "gaps of a data frame": (
        lambda root: frame(
            root / "a.parquet",
            [*(text for text, _ in GOOD), None, "a", float("nan")],
            [*(float(i % 2) for i in range(12)), 1.0, float("nan"), 0.0],
        ),
        ["its text is empty (row 13 of a.parquet, row 15 of a.parquet)", "it has no label (row 14 of a.parquet)"],
    ),
    "null in JSON": (
        lambda root: put(
            root / "a.jsonl",
            "".join(
                json.dumps({"text": text, "label": label}) + "\n" for text, label in [*GOOD, (None, "red"), ("a", None)]
            ),
        ),
        ["its text is empty (row 13 of a.jsonl)", "it has no label (row 14 of a.jsonl)"],
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_rows_that_cannot_be_used_are_left_out_and_counted(kind: str, out: Path, tmp_path: Path) -> None:
    build, reasons = LEFT_OUT[kind]
    path = made(build, tmp_path)
    assert search(path, out).used == 12
    (said,) = lines(path)[2:]
    assert all(reason in said for reason in reasons)


USED: Mapping[str, tuple[Build, int]] = {
    "a text of a mebibyte": (lambda root: table(root / "a.csv", [*GOOD, ("ab " * 2**20, "red")]), 13),
    "a byte order mark": (lambda root: put(root / "a.csv", b"\xef\xbb\xbf" + table(root / "b.csv").read_bytes()), 12),
    "semicolons": (lambda root: table(root / "a.csv", delimiter=";"), 12),
    "empty lines": (lambda root: put(root / "a.csv", table(root / "b.csv").read_text().replace("\n", "\n\n")), 12),
    "a text of several lines": (lambda root: table(root / "a.csv", [*GOOD, ('one\n"two"\r\n3', "red")]), 13),
    "numbers of rows that repeat": (
        lambda root: table(root / "a.csv", [(1, *row) for row in GOOD], ("id", "text", "label")),
        12,
    ),
    "fractions for classes": (
        lambda root: table(root / "a.csv", [(f"text {i}", ("0.5", "1.5")[i % 2]) for i in range(12)]),
        12,
    ),
    "classes called NA and null": (
        lambda root: table(root / "a.csv", [(f"text {i}", ("NA", "null")[i % 2]) for i in range(12)]),
        12,
    ),
    "half a surrogate pair": (
        lambda root: put(
            root / "a.jsonl",
            "".join(json.dumps({"text": f"{text} \ud800", "label": label}) + "\n" for text, label in GOOD),
        ),
        12,
    ),
}


@pytest.mark.parametrize("kind", USED)
def test_an_unusual_table_is_used(kind: str, out: Path, tmp_path: Path) -> None:
    build, rows = USED[kind]
    path = made(build, tmp_path)
    assert search(path, out).used == rows
    assert len(lines(path)) == 2


def test_rows_that_repeat_are_used_and_told(out: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [*GOOD, *GOOD])
    assert search(path, out).used == 24
    said = " ".join(lines(path)[2:])
    assert "for training, too" in said or "repeat another one" in said


def test_a_row_in_train_and_in_test_is_used_and_told(out: Path, tmp_path: Path) -> None:
    root = made(tables(train=GOOD, test=[*GOOD[:3], ("new", "red")]), tmp_path)
    assert search(root, out).used == 16
    (final,) = [each for each in Store(out / "quick").measurements() if each.trial.stage == "final"]
    told = [line for line in lines(root) if "texts for test are there for training, too" in line]
    assert len(told) == 1
    assert final.counts["test_duplicates"] <= 3


# Places


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Times of every file and folder, by name."""
    paths = [root, *sorted(root.rglob("*"))]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_mode) for path in paths}


@pytest.mark.parametrize("build", [also(lambda root: None), tables(train=GOOD, test=GOOD)], ids=["images", "tables"])
def test_data_that_may_only_be_read_is_enough(build: Build, out: Path, tmp_path: Path) -> None:
    root = made(build, tmp_path)
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(root)
    try:
        assert search(root, out).used > 0
        assert contents(root) == before  # root may write whatever the mode says
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)


def test_a_results_folder_that_is_a_file_is_told(out: Path, tmp_path: Path) -> None:
    put(out / "quick", "a file")
    said = search(photos(tmp_path / "data"), out).refusal
    assert said.endswith(f"the results folder '{out / 'quick'}' cannot be used: it is a file")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_results_folder_that_cannot_be_written_is_told(
    code: int, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if out / "quick" in (path, *path.parents):
            raise OSError(code, os.strerror(code), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert search(photos(tmp_path / "data"), out).refusal.endswith(f"cannot be used: {os.strerror(code)}")


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_loses_nothing(
    writes: int, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, write, left = photos(tmp_path / "data"), files.write, [writes]

    def filling(path: Path, content: bytes | memoryview) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        left[0] -= 1
        write(path, content)

    with monkeypatch.context() as full:
        full.setattr(files, "write", filling)
        ran = search(root, out)
    assert ran.status == 2, ran.stdout
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("tlbench: error: ")
    assert f"could not be written to '{out / 'quick'}': No space left on device" in last
    assert not list(out.rglob(".part-*"))
    assert search(root, out).used == 12
