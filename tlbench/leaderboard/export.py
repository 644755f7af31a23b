"""Export: the leaderboard as a table to read, or as a file to compute with."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlbench.benchmark import higher_is_better
from tlbench.leaderboard.verdict import verdicts

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["table", "markdown", "csv", "json", "parquet"]

_LEFT = ("backbone", "strategy", "benchmark")
_HEADINGS = {
    "rank": "#",
    "backbone": "backbone",
    "strategy": "strategy",
    "test": "test [95 % interval]",
    "validation": "validation",
    "seeds": "seeds",
    "seeds_std": "std",
    "latency_ms": "latency",
    "throughput_per_s": "throughput",
    "parameters_trainable": "trained",
    "parameters_total": "parameters",
    "macs": "MACs",
    "train_s": "time",
    "trials": "trials",
    "benchmark": "benchmark",
}
"""What a reader sees, most needed first: a narrow terminal shows as many as fit."""

_WHERE_KNOWN = ("seeds_std", "latency_ms", "throughput_per_s", "macs")
"""Columns that are left out where no row has them."""

_ALWAYS = 4
Cells = Mapping[str, str]


def export(frame: pd.DataFrame, format: Literal["table", "markdown", "csv", "json"]) -> str:  # noqa: A002
    """The leaderboard as text.

    `table` and `markdown` round to what the test set can tell apart; `csv` and `json` keep fractions as measured.
    """
    match format:
        case "table":
            return _terminal(frame)
        case "markdown":
            return _markdown(frame)
        case "csv":
            return str(frame.to_csv(index=False, lineterminator="\n"))
        case "json":
            return json.dumps(_records(frame), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def export_parquet(frame: pd.DataFrame) -> bytes:
    """The leaderboard as a Parquet file, fractions as measured."""
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`, so that nobody ever reads a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def duration(seconds: float) -> str:
    """A time span as a reader says it: `0.4 s`, `34 s`, `2.5 min`, `1.2 h`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 59.95 * 60 else f"{seconds / 3600:.1f} h"


def count(number: int) -> str:
    """A number of parameters with three digits: `650`, `11.2 M`."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def rate(per_s: float) -> str:
    """Samples a second with three digits at least: `1,241/s`, `40.4/s`."""
    return f"{per_s:,.0f}/s" if per_s >= 99.95 else f"{per_s:.3g}/s"


def score_text(value: float | None, metric: str, test_n: int | None) -> str:
    """A score as its test set can tell it apart: per cent with one decimal, two from 10,000 samples on.

    Metrics where lower is better are no fractions and keep three decimals.
    """
    if value is None:
        return ""
    decimals = 1 if test_n is None or test_n < 10_000 else 2
    return f"{100 * value:.{decimals}f}" if higher_is_better(metric) else f"{value:.3f}"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON values: None for what is unknown, the recipe as an object."""
    records = [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
    for record in records:
        record["recipe"] = record["recipe"] and json.loads(record["recipe"])
    return records


def _plain(value: Any) -> Any:
    """None for NaN, NA and infinities, else the value."""
    import pandas as pd

    unknown = value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
    return None if unknown else value


def _sections(frame: pd.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A title and the rows of every data set."""
    records = _records(frame)
    for dataset, metric in dict.fromkeys((record["dataset"], record["metric"]) for record in records):
        rows = [record for record in records if (record["dataset"], record["metric"]) == (dataset, metric)]
        benchmarks = ", ".join(dict.fromkeys(row["benchmark"] for row in rows))
        yield f"{dataset} ({metric}; {benchmarks})", rows


def _headings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns worth showing: those that say something, the benchmark where there are several."""
    several = len({row["benchmark"] for row in rows}) > 1
    shown = [name for name in _HEADINGS if name != "benchmark" or several]
    return {
        name: _HEADINGS[name]
        for name in shown
        if name not in _WHERE_KNOWN or any(row[name] is not None for row in rows)
    }


def _cells(row: Mapping[str, Any]) -> Cells:
    """What a reader sees of one row, by column."""
    metric, total = row["metric"], row["test_n"]
    test, low, high = (score_text(row[name], metric, total) for name in ("test", "test_low", "test_high"))
    kinds = [f"{row[kind]} {kind}" for kind in ("pruned", "failed") if row[kind]]
    doubtful = "~" if row["speed_ok"] is False else ""
    return {
        "rank": "" if row["rank"] is None else str(row["rank"]),
        "backbone": row["backbone"] or "any",
        "strategy": row["strategy"] or "any",
        "test": row["state"] if row["state"] != "final" else f"{test} [{low}, {high}]" if low else test,
        "validation": score_text(row["validation"], metric, total),
        "seeds": f"{row['seeds']}/{row['seeds_planned']}",
        "seeds_std": score_text(row["seeds_std"], metric, total),
        "latency_ms": "" if row["latency_ms"] is None else f"{doubtful}{row['latency_ms']:.3g} ms",
        "throughput_per_s": "" if row["throughput_per_s"] is None else f"{doubtful}{rate(row['throughput_per_s'])}",
        "parameters_trainable": "" if row["parameters_trainable"] is None else count(row["parameters_trainable"]),
        "parameters_total": "" if row["parameters_total"] is None else count(row["parameters_total"]),
        "macs": "" if row["macs"] is None else count(row["macs"]),
        "train_s": "" if row["train_s"] is None else duration(row["train_s"]),
        "trials": f"{row['trials']} ({', '.join(kinds)})" if kinds else str(row["trials"]),
        "benchmark": row["benchmark"],
    }


def _speed_notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the speeds of a section are of, a line per setting."""
    for setting in dict.fromkeys(row["speed_setting"] for row in rows if row["speed_setting"]):
        doubtful = any(row["speed_ok"] is False for row in rows if row["speed_setting"] == setting)
        unsure = "; ~: something speaks against the figure ('tlbench show KEY' says what)" if doubtful else ""
        yield f"latency: single samples, median; throughput: batches of 8; {setting}{unsure}"


def _terminal(frame: pd.DataFrame) -> str:
    """Tables as wide as the terminal allows, with colour where standard output is one."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    with console.capture() as captured:
        for title, rows in _sections(frame):
            console.print(Text(title, style="bold"))
            console.print(_table(rows, console.width))
            for row in rows:
                if row["reason"]:
                    names = f"{row['backbone'] or 'any'} {row['strategy'] or 'any'}"
                    console.print(Text(f"{names}: {row['state']}: {row['reason']}", style="yellow"), soft_wrap=True)
            for note in _speed_notes(rows):
                console.print(Text(note, style="dim"), soft_wrap=True)
            for verdict in verdicts(rows):
                console.print(Text(verdict, style="bold yellow"), soft_wrap=True)
            console.print()
    return captured.get()


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """As many columns as fit into `width`, the first always."""
    cells = [_cells(row) for row in rows]
    headings = _headings(rows)
    widths = {name: max(len(title), *(len(line[name]) for line in cells)) + 2 for name, title in headings.items()}
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown: list[str] = []
    for name, title in headings.items():
        if len(shown) >= _ALWAYS and sum(widths[known] for known in (*shown, name)) - 2 > width:
            break
        shown.append(name)
        left = name in _LEFT
        table.add_column(title, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row, line in zip(rows, cells, strict=True):
        style = "bold green" if row["rank"] == 1 else "" if row["state"] == "final" else "dim"
        table.add_row(*(Text(line[name]) for name in shown), style=style)
    return table


def _markdown(frame: pd.DataFrame) -> str:
    """One heading and one table per data set."""
    return "\n".join(line for title, rows in _sections(frame) for line in _markdown_section(title, rows))


def _markdown_section(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    headings = {**_headings(rows), **({"reason": "reason"} if any(row["reason"] for row in rows) else {})}
    yield f"## {escaped(title)}\n"
    yield _markdown_line(headings.values())
    yield _markdown_line(":--" if name in (*_LEFT, "reason") else "--:" for name in headings)
    for row in rows:
        cells = {**_cells(row), "reason": escaped(row["reason"] or "")}
        named = {name: f"`{cells[name]}`" if name in _LEFT else cells[name] for name in headings}
        yield _markdown_line(named.values())
    yield ""
    yield from (f"{escaped(note)}\n" for note in _speed_notes(rows))
    for verdict in verdicts(rows):
        yield f"**{escaped(verdict)}**\n"


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
