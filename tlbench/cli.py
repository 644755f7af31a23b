"""Commands: what `tlbench` does when typed. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlbench.errors import StoreError, TlbenchError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from tlbench.measurement import Measurement
    from tlbench.store import Store

NOTHING_FINAL = 1
USER_ERROR = 2
INTERRUPTED = 130

Record = Mapping[str, Any]


class _Commands(click.Group):
    """Turns what a user can mend into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except TlbenchError as error:
            click.echo(f"tlbench: error: {_line(error)}", err=True)
            ctx.exit(USER_ERROR)
        except KeyboardInterrupt as interrupt:
            click.echo(f"tlbench: {_line(interrupt) or 'interrupted'}", err=True)
            ctx.exit(INTERRUPTED)


@click.group("tlbench", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tlbench", prog_name="tlbench")
def main() -> None:
    """Find the pretrained backbone, and the way to adapt it, that is best for your data, hardware and budget."""


_out = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where the run's folder goes.",
)


@main.command()
@click.argument("file")
@_out
@click.option("--workers", type=click.IntRange(min=1), help="Processes that run trials; the file's number by default.")
@click.option(
    "--skip-bad/--no-skip-bad", default=False, show_default=True, help="Leave out samples that do not decode."
)
@click.option(
    "--retry-failed/--no-retry-failed",
    default=False,
    show_default=True,
    help="Run trials that failed before once more.",
)
def run(file: str, out: Path, workers: int | None, skip_bad: bool, retry_failed: bool) -> None:
    """Run the benchmark FILE, or go on with it.

    What an earlier run finished is not done again.

    FILE is the path of a TOML file, or a name that 'tlbench list benchmarks' shows.
    """
    _run(file, out, workers=workers, skip_bad=skip_bad, retry_failed=retry_failed)


@main.command()
@_out
def quickstart(out: Path) -> None:
    """See transfer learning at work in three minutes, without network or GPU.

    Runs the benchmark 'quickstart' that a plugin ships. Run again, it shows what it found.
    """
    from tlbench.plugins import discover

    shipping = [plugin for plugin in discover().active.values() if "quickstart" in plugin.benchmarks]
    if not shipping:
        raise UnknownNameError("no plugin ships a benchmark 'quickstart': 'tlbench plugins' shows which are active")
    plugin = min(shipping, key=lambda plugin: plugin.distribution != "tlbench")  # a third party's only without ours
    frame = _run(f"{plugin.name}/quickstart", out)
    click.echo("\nnext:")
    for stem in plugin.benchmarks:
        if stem != "quickstart":
            click.echo(f"  tlbench run {plugin.name}/{stem}")
    click.echo(f"  tlbench show {frame['key'].iloc[0]} --results {shlex.quote(str(out))}")


@main.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "markdown", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def leaderboard(folders: tuple[Path, ...], format_: str, output: Path | None) -> None:
    """Rank what the runs in DIR... found.

    DIR is the folder of one run, or holds folders of runs. Exit status 1: nothing final to show.
    """
    from tlbench.leaderboard.table import read_leaderboard

    frame = read_leaderboard(*folders)
    if output is not None or format_ == "parquet":
        _write(frame, format_, output)
    else:
        _print_leaderboard(frame, folders, format_)
    _end(frame)


@main.command()
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


@main.command(name="list")
@click.argument("what", type=click.Choice(["backbones", "strategies", "datasets", "benchmarks"]))
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(what: str, format_: str) -> None:
    """List what the plugins bring."""
    from tlbench import listing
    from tlbench.catalog import Catalog
    from tlbench.plugins import discover

    records = getattr(listing, what)(Catalog(discover()))
    if format_ == "json":
        click.echo(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        click.echo(listing.columns(records) or f"no {what}: 'tlbench plugins' shows which plugins are active")


@main.command()
def plugins() -> None:
    """List plugins, and why any is set aside."""
    from tlbench import listing
    from tlbench.plugins import discover

    records = listing.plugins(discover())
    click.echo(listing.columns(records) or "no plugins: tlbench's own are missing, install it again")


def _run(file: str, out: Path, **options: Any) -> pd.DataFrame:
    """Run a benchmark, print what it found and leave with status 1 where nothing is final; the leaderboard."""
    from tlbench.benchmark import load_benchmark

    benchmark = load_benchmark(_benchmark_path(file))  # before torch is imported, so that a typo is told at once
    from tlbench.executors import local
    from tlbench.leaderboard.export import write_derived
    from tlbench.progress import Progress

    folder = out / benchmark.name
    try:
        with Progress(benchmark.search.metric) as progress:
            local.run(benchmark, folder, **options, on_event=progress)
        frame = write_derived(folder)
    except KeyboardInterrupt:
        command = ["tlbench", "run", file, "--out", str(out), *(["--skip-bad"] if options.get("skip_bad") else [])]
        raise KeyboardInterrupt(f"interrupted; to go on: {shlex.join(command)}") from None
    _print_leaderboard(frame, [folder])
    _print_gains(folder)
    click.echo(f"results: {folder} (keys for 'tlbench show' are in its leaderboard.csv)")
    _end(frame)
    return frame


def _benchmark_path(file: str) -> Path:
    """The path that FILE stands for: its own, or that of a benchmark a plugin ships."""
    path = Path(file)
    if path.is_file():
        return path
    from tlbench.catalog import Catalog
    from tlbench.plugins import discover

    shipped = Catalog(discover()).benchmarks()
    if file not in shipped:
        raise unknown_name("benchmark file", file, shipped, "tlbench list benchmarks")
    return shipped[file]


def _print_leaderboard(frame: pd.DataFrame, folders: Iterable[Path], format_: str = "table") -> None:
    from tlbench.leaderboard.export import export

    if frame.empty and format_ in ("table", "markdown"):
        click.echo(f"nothing was run yet in {', '.join(str(folder) for folder in folders)}")
    else:
        click.echo(export(frame, format_), nl=False)  # type: ignore[arg-type]


def _print_gains(folder: Path) -> None:
    """Say what pretraining brought, on every data set where that can be said."""
    from tlbench.leaderboard.gain import transfer_gains

    for gain in transfer_gains(folder):
        click.echo(str(gain))


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


def _end(frame: pd.DataFrame) -> None:
    """Leave with the status that says whether anything is final."""
    if not (frame["state"] == "final").any():
        click.get_current_context().exit(NOTHING_FINAL)


def _describe(measurement: Measurement, store: Store) -> list[str]:
    """Everything about one measurement, a section each."""
    value = measurement.to_json()
    model = store.model_path(measurement.key) if measurement.key in store.model_keys() else None
    summary = {"key": value["key"], "status": value["status"], "results": store.path, "model": model}
    lines = _fields(summary)
    for name in ("failure", "trial", "scores", "cost", "counts", "frozen", "provenance"):
        lines += ["", name, *("  " + line for line in _fields(value[name] or {}) or ["none"])]
    return [*lines, "", "curve", *("  " + line for line in _curve(value["curve"]))]


def _fields(value: Record, prefix: str = "") -> list[str]:
    """One line per scalar; nested names are joined by dots, lists are JSON."""
    lines = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            lines += _fields(item, f"{prefix}{name}.")
        else:
            text = "-" if item is None else json.dumps(item) if isinstance(item, list | tuple | bool) else str(item)
            lines.append(f"{prefix + name:32} {text}")
    return lines


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
