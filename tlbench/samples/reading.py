"""Reading: a table file as columns of words, nothing guessed: "NA" is a word, and 1 is "1"."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlbench.errors import DataError
from tlbench.samples.cells import word

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
_LARGEST_FIELD = 2**31 - 1
"""Characters of one value; the csv module stops at 131,072 unless told otherwise."""


def table_stem(path: Path) -> str | None:
    """The file's name without its endings, or None where it is not named like a table."""
    name = path.name.removesuffix(".gz")
    stem, dot, suffix = name.rpartition(".")
    if not stem or dot + suffix.lower() not in SUFFIXES:
        return None
    return stem if suffix.lower() != "parquet" or name == path.name else None


def read_columns(path: Path, fewest: int = 2) -> Mapping[str, Sequence[str] | None]:
    """Words by column, empty where a row has none; None for a column whose values are no single ones.

    Comma- or tab-separated (in a .csv without commas in its first line: semicolons or tabs), JSON Lines or a JSON list
    of objects, each also with .gz, and Parquet. UTF-8. Values may be quoted as RFC 4180 has it; between tabs a quote is
    a character like any other where it would join lines that are rows. Raises `DataError`, which names the file, also
    for separated values in less than `fewest` columns.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file")
    if table_stem(path) is None:
        raise DataError(f"{path} is no table that can be read: {', '.join(SUFFIXES)} are")
    try:
        columns = _parquet(path) if path.suffix.lower() == ".parquet" else _columns(path, _text(path), fewest)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if columns and all(values is None for values in columns.values()):
        raise DataError(f"{path} has no single values: JSON is read as a list of objects, one for each row")
    if not any(columns.values()):
        raise DataError(f"{path} has no rows")
    return columns


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not UTF-8: save the file with that encoding") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"line {line} holds a NUL character: it is damaged, or UTF-16: save the file as UTF-8")
    return text


def _columns(path: Path, text: str, fewest: int) -> Mapping[str, Sequence[str] | None]:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (".csv", ".tsv"):
        return _gathered(list(_records(text)))
    header = text.partition("\n")[0]
    separators = "," + ";\t" * ("," not in header) if suffix == ".csv" else "\t"
    separator = max(separators, key=header.count)
    return _tabbed(text, fewest) if separator == "\t" else _separated(text, separator, fewest)


def _tabbed(text: str, fewest: int) -> dict[str, list[str]]:
    """The columns of tab-separated values, which pandas and Excel quote where need be and GLUE, say, never.

    Where every line by itself has a value for each column, every line is a row: values are quoted if RFC 4180 finds
    the same rows, else quotes are characters. Where lines do not fit, a quoted value has to hold the line break.
    """
    try:
        lines = _separated(text, "\t", fewest, quoted=False)
    except DataError as misfit:
        try:
            return _separated(text, "\t", fewest)
        except DataError as error:
            raise misfit if isinstance(error.__cause__, csv.Error) else error from error
    try:
        columns = _separated(text, "\t", fewest)
    except DataError:
        return lines
    joined = any("\n" in value or "\r" in value for values in columns.values() for value in values)
    return lines if joined else columns


def _separated(text: str, separator: str, fewest: int, quoted: bool = True) -> dict[str, list[str]]:
    """The columns of separated values, quoted as RFC 4180 has it or not; lines without any value are left out."""
    limit = csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_names(header, fewest)
        rows = [row for row in reader if any(row) and _fits(row, header, reader.line_num)]
    except csv.Error as error:
        advice = "a value with quotes in it is quoted as a whole, with each of its quotes doubled"
        raise DataError(f"line {reader.line_num}: {error} ({advice})") from error
    finally:
        csv.field_size_limit(limit)
    return {name: [row[position] for row in rows] for position, name in enumerate(header) if name}


def _check_names(header: Sequence[str], fewest: int) -> None:
    named = [name for name in header if name]
    if len(named) < fewest:
        shown = f"has one column, '{named[0][:40]}'" if named else "has no line with the names of its columns"
        needed = "a column of texts and one of labels are" if fewest > 1 else "a column of texts is"
        raise DataError(f"the table {shown}; {needed} needed")
    for name in named:
        if named.count(name) > 1:
            raise DataError(f"{named.count(name)} columns are called '{name}'; rename or remove all but one")


def _fits(row: Sequence[str], header: Sequence[str], line: int) -> bool:
    if len(row) != len(header):
        raise DataError(f"line {line} ends a row of {len(row)} values, but there are {len(header)} columns")
    return True


def _records(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, or of lines that hold one each. Numbers keep their spelling."""
    decode: Callable[[str], Any] = json.JSONDecoder(
        parse_float=str, parse_int=str, parse_constant=lambda name: None if name == "NaN" else name
    ).decode
    if text.lstrip().startswith("["):
        lines = [(0, text)]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        where = f"line {number}: " if number else ""
        try:
            values = decode(line)
        except (ValueError, RecursionError) as error:
            advice = "one JSON object on each line, or a list of them, is needed"
            raise DataError(f"{where}{error} ({advice})") from error
        for value in [values] if number else values:
            if not isinstance(value, dict):
                raise DataError(f'{where}no JSON object, such as {{"text": "...", "label": "..."}}')
            yield value


def _gathered(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str] | None]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: _words([record.get(name) for record in records]) for name in names}


def _words(values: Sequence[Any]) -> list[str] | None:
    try:
        return [word(value) for value in values]
    except TypeError:
        return None


def _parquet(path: Path) -> dict[str, list[str] | None]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
        return {name: _words(table.column(name).to_pylist()) for name in table.column_names}
    except (OSError, ArrowException, KeyError) as error:
        raise DataError(f"it cannot be read: {' '.join(str(error).split())}") from error
