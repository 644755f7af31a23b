"""Running: the commands that run a benchmark file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlbench.commands.output import end, print_leaderboard
from tlbench.errors import UnknownNameError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where the run's folder goes.",
)


@click.command()
@click.argument("file")
@out_option
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


@click.command()
@out_option
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
    print_leaderboard(frame, [folder])
    _print_gains(folder)
    click.echo(f"results: {folder} (keys for 'tlbench show' are in its leaderboard.csv)")
    end(frame)
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


def _print_gains(folder: Path) -> None:
    """Say what pretraining brought, on every data set where that can be said."""
    from tlbench.leaderboard.gain import transfer_gains

    for gain in transfer_gains(folder):
        click.echo(str(gain))
