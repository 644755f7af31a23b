"""Inputs: what a user names to be predicted, as samples with names. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tlbench.errors import DataError
from tlbench.samples.cells import word
from tlbench.samples.columns import text_column
from tlbench.samples.reading import read_columns, table_stem
from tlbench.samples.walk import image_files

STANDARD_INPUT = Path("-")

Named = tuple[str, str]
"""A name to tell a sample by, and the sample: the path of an image, or a text."""


def image_samples(places: Sequence[Path]) -> list[Named]:
    """Image files, and all that are named like images below folders, each once. Raises `DataError`."""
    paths: dict[Path, None] = {}
    for place in places:
        found = image_files(place) if place.is_dir() else [place]
        if not found:
            raise DataError(f"no images below the folder {place}")
        if not place.exists():
            raise DataError(f"no file or folder {place}")
        paths.update(dict.fromkeys(found))
    if not paths:
        raise DataError("nothing to predict: give image files, or folders of them")
    return [(_shown(path), str(path)) for path in paths]


def text_samples(places: Sequence[Path], column: str | None, given: Sequence[str], stream: BinaryIO) -> list[Named]:
    """Texts `given` as such, those of tables, and lines of `.txt` files and, as the place `-`, of `stream`.

    The `column` of texts is found where it is not named. Raises `DataError`.
    """
    found = [(f"text:{number}", word(text)) for number, text in enumerate(given, 1)]
    for place in places:
        found += _lines(place, stream) if _has_lines(place) else _rows(place, column)
    if not any(text.strip() for _, text in found):
        raise DataError("no text to predict: there are only empty ones" if found else "no text to predict")
    return found


def _has_lines(place: Path) -> bool:
    return place == STANDARD_INPUT or place.suffix.lower() == ".txt"


def _lines(place: Path, stream: BinaryIO) -> Iterator[Named]:
    """A text on each line."""
    try:
        lines: Iterable[bytes] = (stream.read() if place == STANDARD_INPUT else place.read_bytes()).splitlines()
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            yield f"{place}:{number}", line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: line {number} is not UTF-8: save the file with that encoding") from error


def _rows(place: Path, column: str | None) -> Iterator[Named]:
    if not place.exists():
        raise DataError(f"no file {place}")
    if place.is_dir() or table_stem(place) is None:
        raise DataError(f"{place} is no table of texts: a .csv, .tsv, .parquet or .jsonl file is needed, or a .txt one")
    columns = read_columns(place, fewest=1)
    single = {name: words for name, words in columns.items() if words is not None}
    if column in columns and column not in single:
        raise DataError(f"{place}: column '{column}' holds lists or tables; texts are needed")
    try:
        name = text_column(single, column, '--column "{name}"')
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    if not any(text.strip() for text in single[name]):
        raise DataError(f"{place}: column '{name}' is empty: name another with --column")
    yield from ((f"{place}:{number}", text) for number, text in enumerate(single[name], 1))


def _shown(path: Path) -> str:
    """The path as valid Unicode: bytes of a file name that are no UTF-8 are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()
