"""TOML: the line of every key, which `tomllib` does not keep, and tables written, which it does not do."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

Place = tuple[str | int, ...]
"""Where a value stands: keys, and positions in arrays."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*')
    |(?P<mark>[][{}=,.])
    |(?P<bare>[^\s\#"'\[\]{}=,.]+)""",
    re.VERBOSE | re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dump(document: Mapping[str, Any]) -> str:
    """TOML of `document`: plain values, then its tables and arrays of tables; what lies deeper is written inline.

    None is left out.
    """
    plain, blocks = {}, []
    for name, value in document.items():
        if isinstance(value, Mapping):
            blocks.append(f"[{_key(name)}]\n{_lines(value)}")
        elif value and _is_tables(value):
            blocks += [f"[[{_key(name)}]]\n{_lines(item)}" for item in value]
        else:
            plain[name] = value
    return "\n".join([_lines(plain), *blocks])


def literal(value: Any) -> str:
    """The value as it stands in a TOML file. Raises `TypeError` for what has no form there, None included."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON leaves DEL as it is
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {literal(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    raise TypeError(f"TOML has no form for {value!r}")


def find_lines(text: str) -> dict[Place, int]:
    """The line, from 1, where each table, key and array item of a valid TOML text begins."""
    return _Scanner(text).lines


@final
class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self._sizes: dict[Place, int] = defaultdict(int)  # of the arrays of tables met so far
        self._tokens = [*_tokens(text), ("end", "", 0)]
        self._at = 0
        table: Place = ()
        while self._kind() != "end":
            if self._skip("\n"):
                continue
            table = self._header() if self._text() == "[" else self._pair(table)

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        return self._tokens[self._at][1]

    def _skip(self, *texts: str) -> bool:
        found = self._kind() in ("mark", "newline") and self._text() in texts
        self._at += found
        return found

    def _header(self) -> Place:
        self._skip("[")
        repeated = self._skip("[")
        line = self._tokens[self._at][2]
        *outer, last = self._key()
        place: Place = ()
        for name in outer:
            place = self._inside((*place, name), line)
        place = (*place, last)
        if repeated:
            self.lines.setdefault(place, line)
            self._sizes[place] += 1
        place = self._inside(place, line)
        while self._skip("]"):
            pass
        return place

    def _inside(self, place: Place, line: int) -> Place:
        """The table at `place`: in an array of tables, the newest one."""
        place = (*place, self._sizes[place] - 1) if self._sizes[place] else place
        self.lines.setdefault(place, line)
        return place

    def _key(self) -> list[str]:
        names = []
        while self._kind() in ("bare", "text"):
            quoted = self._kind() == "text"
            names.append(tomllib.loads(f"key = {self._text()}")["key"] if quoted else self._text())
            self._at += 1
            self._skip(".")
        return names

    def _pair(self, table: Place) -> Place:
        line, names = self._tokens[self._at][2], self._key()
        for end in range(1, len(names) + 1):
            self.lines.setdefault((*table, *names[:end]), line)
        self._skip("=")
        self._value((*table, *names))
        return table

    def _value(self, place: Place) -> None:
        if self._skip("{"):
            while not self._skip("}"):
                if not self._skip(",", "\n"):
                    self._pair(place)
        elif self._skip("["):
            position = 0
            while not self._skip("]"):
                if not self._skip(",", "\n"):
                    self.lines[(*place, position)] = self._tokens[self._at][2]
                    self._value((*place, position))
                    position += 1
        else:
            while (
                self._kind() in ("bare", "text") or self._text() == "."
            ):  # "." as in 1.5; two words: a date and a time
                self._at += 1


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            yield str(match.lastgroup), match.group(), line
        line += match.group().count("\n")


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(name)} = {literal(value)}\n" for name, value in table.items() if value is not None)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else literal(name)
