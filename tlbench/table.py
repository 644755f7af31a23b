"""One table of a TOML file while it is read: every key known, every value checked, every error with its line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tlbench.errors import BenchmarkError
from tlbench.toml import Place, find_lines, literal


@final
class Document:
    """A TOML file: its values, and the line of each."""

    def __init__(self, file: Path) -> None:
        """Read `file`. Raises `BenchmarkError` where it cannot be read or is no TOML."""
        self.file = file
        try:
            text = file.read_text(encoding="utf-8")
            self.values = tomllib.loads(text)
        except OSError as error:
            raise BenchmarkError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BenchmarkError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{file} is not valid TOML: {error}") from error
        self.lines = find_lines(text)

    def error(self, place: Place, message: str) -> BenchmarkError:
        """The error for `message`, with the file and the line of `place` or of the closest thing around it."""
        line = next((self.lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in self.lines), None)
        return BenchmarkError(f"{self.file}{'' if line is None else f', line {line}'}: {message}")


@final
class Table:
    """One table of a document, every key of which stands in a schema."""

    def __init__(
        self, document: Document, place: Place, values: Mapping[str, Any], schema: Schema, required: Sequence[str] = ()
    ) -> None:
        """Refuse a key that is not in `schema` and a `required` one that is missing."""
        self.document, self.place, self.values, self.schema = document, place, values, schema
        for name in values:
            if name not in schema:
                raise document.error((*place, name), self._unknown(name))
        for name in required:
            if name not in values:
                raise document.error(place, f"{self.full_name(name)} is missing")

    def read(self) -> dict[str, Any]:
        """The checked value of every key that the file gives."""
        return {name: reader(self, name) for name, reader in self.schema.items() if name in self.values}

    def full_name(self, name: str) -> str:
        """The key with the tables around it: `search.trials`."""
        return dotted((*self.place, name))

    def error(self, name: str, message: str) -> BenchmarkError:
        """The error for `message` about `name`, with file, line and full name."""
        return self.document.error((*self.place, name), f"{self.full_name(name)} {message}")

    def take(self, name: str, needed: str, fits: Callable[[Any], bool]) -> Any:
        """The value of `name`; `needed` says in words what `fits` asks of it."""
        value = self.values[name]
        if not fits(value):
            raise self.error(name, f"must be {needed}, not {literal(value)}")
        return value

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.schema, n=1, cutoff=0.5)
        advice = f"did you mean '{self.full_name(close[0])}'?" if close else f"known are {', '.join(self.schema)}"
        return f"unknown key '{self.full_name(name)}': {advice}"


Reader = Callable[[Table, str], Any]
"""Takes the value of one key that the file gives: checked, and in the form the program wants."""

Schema = Mapping[str, Reader]


def dotted(place: Place) -> str:
    """The keys of a place as a full name, positions in arrays left out."""
    return ".".join(name for name in place if isinstance(name, str))
