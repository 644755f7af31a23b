"""Readers: each takes the value of one key of a table, checks it, and hands over what the program wants."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tlbench.errors import BenchmarkError
from tlbench.spaces import RESERVED, check
from tlbench.table import Reader, Schema, Table, dotted
from tlbench.toml import Place, literal

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def matching(needed: str, fits: Callable[[Any], bool]) -> Reader:
    """A reader of any value that `fits`; `needed` says so in words."""
    return lambda table, name: table.take(name, needed, fits)


def is_whole(value: Any, low: int = 0) -> bool:
    """Whether the value is a whole number of at least `low`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
    """Whether the value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_text(value: Any) -> bool:
    """Whether the value is text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def whole(low: int) -> Reader:
    """A reader of a whole number of at least `low`."""
    return matching(f"a whole number of at least {low}", lambda value: is_whole(value, low))


def one_of(*choices: str) -> Reader:
    """A reader of one of some words."""
    return matching(f"one of {', '.join(choices)}", lambda value: value in choices)


def listed(needed: str, fits: Callable[[Any], bool], least: int = 0) -> Reader:
    """A reader of a list, given back as a tuple, of at least `least` distinct items that all fit."""

    def reader(table: Table, name: str) -> tuple[Any, ...]:
        items = table.take(name, f"a list of {needed}", lambda value: isinstance(value, list) and all(map(fits, value)))
        if len(items) < least:
            raise table.error(name, f"is empty: give at least {least}")
        twice = [item for position, item in enumerate(items) if item in items[:position]]
        if twice:
            raise table.error(name, f"holds {literal(twice[0])} twice")
        return tuple(items)

    return reader


def mapping(table: Table, name: str) -> dict[str, Any]:
    """A reader of a table with any keys, whose values have a form in JSON."""
    value: dict[str, Any] = table.take(name, "a table", lambda value: isinstance(value, dict))
    for place, leaf in _leaves(value, (*table.place, name)):
        if not isinstance(leaf, str | bool) and not is_number(leaf):
            message = f"must be text, a finite number, true or false, not {literal(leaf)}"
            raise table.document.error(place, f"{dotted(place)} {message}")
    return value


def file_path(table: Table, name: str) -> Path:
    """A reader of a path relative to the file, in which `~` and `${VARIABLE}` are expanded."""
    text = table.take(name, "a path", is_text)
    for variable in _VARIABLE.findall(text):
        if variable not in os.environ:
            raise table.error(name, f"needs the environment variable {variable}, which is not set")
    path = Path(_VARIABLE.sub(lambda match: os.environ[match[1]], text))
    try:
        return (table.document.file.parent / path.expanduser()).resolve()
    except (RuntimeError, OSError, ValueError) as error:  # no home folder, a loop of links, a null character
        raise table.error(name, f"cannot be resolved: {error}") from error


def section(kind: Callable[..., Any], schema: Schema, required: Sequence[str] = ()) -> Reader:
    """A reader of a table with a schema of its own, made into a `kind`."""

    def reader(table: Table, name: str) -> Any:
        values = table.take(name, "a table", lambda value: isinstance(value, dict))
        return kind(**Table(table.document, (*table.place, name), values, schema, required).read())

    return reader


def sections(kind: Callable[..., Any], schema: Schema, required: Sequence[str] = ()) -> Reader:
    """A reader of tables headed `[[name]]` with distinct names of their own, made into a tuple of `kind`."""

    def reader(table: Table, name: str) -> tuple[Any, ...]:
        needed = f"a list of tables, each under a line [[{table.full_name(name)}]]"
        values = table.take(
            name, needed, lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value)
        )
        made: dict[str, Any] = {}
        for position, value in enumerate(values):
            inner = Table(table.document, (*table.place, name, position), value, schema, required)
            item = kind(**inner.read())
            if item.name in made:
                raise inner.error("name", f"{literal(item.name)} is there twice")
            made[item.name] = item
        return tuple(made.values())

    return reader


def folder_name(table: Table, name: str) -> str:
    """A name that can be a folder's: neither a path nor a way out of the folder."""
    needed = "a name for a folder, without / and \\ and not . or .."
    return str(table.take(name, needed, lambda text: is_text(text) and _is_folder_name(text)))


def _is_folder_name(text: str) -> bool:
    return text.isprintable() and text == text.strip() and not set(text) & {"/", "\\"} and text not in (".", "..")


def fixed(table: Table, name: str) -> dict[str, Any]:
    """Parameters with one value each; reserved ones with a value that the engine can use."""
    values = mapping(table, name)
    for parameter, value in values.items():
        _check_reserved(table, name, parameter, value)
    return values


def ranges(table: Table, name: str) -> dict[str, dict[str, Any]]:
    """Parameters with a range each, none of them fixed at the same time."""
    given = mapping(table, name)
    for parameter, span in given.items():
        place, full_name = (*table.place, name, parameter), f"{table.full_name(name)}.{parameter}"
        if parameter in table.values.get("fixed", {}):
            raise table.document.error(place, f"{full_name}: the parameter is fixed; take one of the two out")
        needed = _range_needs(span)
        if needed:
            raise table.document.error(place, f"{full_name} {needed}")
        for value in span.get("choices") or (span["low"], span["high"]):
            _check_reserved(table, name, parameter, value)
    return given


def _range_needs(given: Any) -> str | None:
    """What is wrong with a range, if anything is."""
    if isinstance(given, dict) and set(given) == {"choices"}:
        choices = given["choices"]
        plain = isinstance(choices, list) and not any(isinstance(choice, dict | list) for choice in choices)
        return None if plain and choices else "must have a list of numbers, texts or booleans as choices"
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= {"low", "high", "log", "step"}:
        return "must be { low, high } and perhaps log or step, or { choices }"
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    if not is_number(low) or not is_number(high) or not low < high:
        return "must have numbers as low and high, low below high"
    if not isinstance(log, bool) or (log and low <= 0):
        return "must have true or false as log, and low above 0 where log is true"
    if step is not None and (log or not is_number(step) or step <= 0):
        return "must have a number above 0 as step, and none where log is true"
    if isinstance(low, int) and isinstance(high, int) and step is not None and not is_whole(step):
        return "must have a whole step between whole numbers"
    return None


def _check_reserved(table: Table, name: str, parameter: str, value: Any) -> None:
    if parameter in RESERVED:
        try:
            check({**RESERVED, parameter: value})
        except BenchmarkError as error:
            raise table.document.error((*table.place, name, parameter), str(error)) from error


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if not isinstance(value, dict | list):
        yield place, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(item, (*place, name))
