"""The verdict on controls: whether any backbone did better than a baseline without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlbench.benchmark import higher_is_better
from tlbench.trial import NO_BACKBONE

Row = Mapping[str, Any]


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for every benchmark in which the best control is not clearly beaten; `rows` are one data set's."""
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        final = [row for row in rows if row["benchmark"] == benchmark and row["state"] == "final"]
        controls = [row for row in final if row["backbone"] == NO_BACKBONE.name]
        others = [row for row in final if row["backbone"] != NO_BACKBONE.name]
        if controls and others and (sentence := _verdict(_best(controls), _best(others))):
            yield sentence


def _best(rows: Sequence[Row]) -> Row:
    sign = 1 if higher_is_better(rows[0]["metric"]) else -1
    return max(rows, key=lambda row: sign * row["test"])


def _verdict(control: Row, other: Row) -> str | None:
    sign = 1 if higher_is_better(control["metric"]) else -1
    names = f"{other['backbone']} with {other['strategy']}"
    if sign * control["test"] >= sign * other["test"]:
        return f"A control wins: {control['strategy']} needs no backbone and is at least as good as {names}."
    if other["test_low"] is not None and control["test"] >= other["test_low"]:
        return f"The control {control['strategy']} lies within the interval of the best, {names}."
    return None
