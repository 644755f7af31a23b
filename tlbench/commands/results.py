"""Results: the commands that read what runs left."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlbench.commands.output import end, print_leaderboard
from tlbench.errors import StoreError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

    from tlbench.measurement import Measurement
    from tlbench.speed import SpeedRecord
    from tlbench.store import Store

Record = Mapping[str, Any]


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "markdown", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option(
    "--sort",
    type=click.Choice(["test", "latency", "throughput", "parameters", "macs", "time"]),
    default="test",
    show_default=True,
    help="Best first.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def leaderboard(folders: tuple[Path, ...], format_: str, sort: str, output: Path | None) -> None:
    """Rank what the runs in DIR... found.

    DIR is the folder of one run, or holds folders of runs. Exit status 1: nothing final to show.
    """
    from tlbench.leaderboard.table import ordered, read_leaderboard

    frame = ordered(read_leaderboard(*folders), sort)
    if output is not None or format_ == "parquet":
        _write(frame, format_, output)
    else:
        print_leaderboard(frame, folders, format_)
    end(frame)


@click.command()
@click.argument("key")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="A folder of runs, or one run's.",
)
def show(key: str, results: Path) -> None:
    """Print everything about one measurement.

    KEY is its key, or the first digits of it that no other key shares.
    """
    from tlbench.leaderboard.table import run_folders
    from tlbench.store import Store

    stores = [Store(folder) for folder in run_folders(results)]
    found = {known: store for store in stores for known in sorted(store.keys()) if known.startswith(key)}
    if not found:
        advice = f"'tlbench leaderboard {results} --format csv' shows keys"
        raise UnknownNameError(f"no measurement '{key}' in '{results}': {advice}")
    if len(found) > 1 and key not in found:
        raise UnknownNameError(f"'{key}' may be any of {', '.join(sorted(found)[:5])}: more digits are needed")
    full = key if key in found else next(iter(found))
    measurement = found[full].get(full)
    if measurement is None:
        raise StoreError(f"measurement '{full}' is not in '{found[full].path}' any more")
    click.echo("\n".join(_describe(measurement, found[full])))


def _write(frame: pd.DataFrame, format_: str, output: Path | None) -> None:
    """Write the leaderboard to `output`, or Parquet to a pipe."""
    from tlbench.leaderboard.export import export, export_parquet, write_whole

    content = export_parquet(frame) if format_ == "parquet" else export(frame, format_).encode()  # type: ignore[arg-type]
    if output is not None:
        try:
            write_whole(output, content)
        except OSError as error:
            raise StoreError(f"cannot write '{output}': {error.strerror}") from error
    elif sys.stdout.isatty():
        raise StoreError("parquet is not for a terminal: give --output FILE")
    else:
        click.echo(content, nl=False)


def _describe(measurement: Measurement, store: Store) -> list[str]:
    """Everything about one measurement, a section each."""
    from tlbench.leaderboard.speeds import Speeds

    value = measurement.to_json()
    model = store.model_path(measurement.key) if measurement.key in store.model_keys() else None
    summary = {"key": value["key"], "status": value["status"], "results": store.path, "model": model}
    lines = _fields(summary, _exact)
    for name in ("failure", "trial", "scores", "cost", "counts", "frozen", "provenance"):
        text = _exact if name == "trial" else _rounded
        lines += ["", name, *("  " + line for line in _fields(value[name] or {}, text) or ["none"])]
    lines += ["", "curve", *("  " + line for line in _curve(value["curve"]))]
    for record in Speeds(store).records(measurement.key):
        lines += [
            "",
            f"speed on {record.setting.in_words}",
            *("  " + line for line in _fields(_speed(record), _rounded)),
        ]
    return lines


def _speed(record: SpeedRecord) -> Record:
    """What was measured of the deployed model, and what speaks against it."""
    value = record.to_json()
    rates = {str(one["batch"]): one["per_s"] or one["failure"] for one in value["throughput"]}
    names = (
        "speed_ok",
        "doubts",
        "latency",
        "latency_with_preprocess",
        "preprocess_ms",
        "memory",
        "cold",
        "conditions",
    )
    return {**{name: value[name] for name in names}, "throughput_per_s_at_batch": rates, "key": record.key}


def _fields(value: Record, text: Callable[[Any], str], prefix: str = "") -> list[str]:
    """One line per scalar; nested names are joined by dots."""
    lines = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            lines += _fields(item, text, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix + name:32} {text(item)}")
    return lines


def _exact(item: Any) -> str:
    """Lists are JSON."""
    return "-" if item is None else json.dumps(item) if isinstance(item, list | tuple | bool) else str(item)


def _rounded(item: Any) -> str:
    """What was measured, to be read: six digits of a fraction, whole numbers in groups of three."""
    if isinstance(item, float):
        return str(float(f"{item:.6g}"))
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else _exact(item)


def _curve(points: Sequence[Record]) -> list[str]:
    if not points:
        return ["none"]
    lines = [f"{'epoch':>5} {'train loss':>11} {'search score':>13} {'elapsed':>9}"]
    for point in points:
        loss, score = (_number(point[name]) for name in ("train_loss", "search_score"))
        lines.append(f"{point['epoch']:5} {loss:>11} {score:>13} {point['elapsed_s']:7.1f} s")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
