"""Running: the commands that run a benchmark file, and what they share with a search."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlbench.commands.output import end, print_leaderboard
from tlbench.errors import UnknownNameError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from tlbench.benchmark import Benchmark
    from tlbench.executors.events import Event

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where the run's folder goes.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print events and, at the end, the leaderboard as lines of JSON."
)
quiet_option = click.option(
    "--quiet/--no-quiet",
    default=lambda: os.environ.get("CI", "") not in ("", "0", "false"),
    show_default="where CI is set",
    help="No progress: failures, notices and results alone.",
)

speed_option = click.option(
    "--speed/--no-speed",
    default=True,
    show_default=True,
    envvar="TLBENCH_SPEED",
    show_envvar=True,
    help="Measure how fast the finals' models are, in the end.",
)

observe_option = click.option(
    "--observe",
    metavar="NAME",
    multiple=True,
    help="Tell every result to this observer, too; may be repeated. 'tlbench doctor' lists them.",
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
@json_option
@quiet_option
@observe_option
@speed_option
def run(file: str, out: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Run the benchmark FILE, or go on with it.

    What an earlier run finished is not done again. Interrupted once, it finishes the trials that run; twice, it stops
    at once.

    FILE is the path of a TOML file, or a name that 'tlbench list benchmarks' shows.
    """
    _run(file, out, as_json, quiet, **options)


@click.command()
@out_option
@speed_option
def quickstart(out: Path, speed: bool) -> None:
    """See transfer learning at work in three minutes, without network or GPU.

    Runs the benchmark 'quickstart' that a plugin ships. Run again, it shows what it found.
    """
    from tlbench.plugins import discover

    shipping = [plugin for plugin in discover().active.values() if "quickstart" in plugin.benchmarks]
    if not shipping:
        raise UnknownNameError("no plugin ships a benchmark 'quickstart': 'tlbench plugins' shows which are active")
    plugin = min(shipping, key=lambda plugin: plugin.distribution != "tlbench")  # a third party's only without ours
    frame = _run(f"{plugin.name}/quickstart", out, speed=speed)
    click.echo("\nnext:")
    for stem in plugin.benchmarks:
        if stem != "quickstart":
            click.echo(f"  tlbench run {plugin.name}/{stem}")
    click.echo(f"  tlbench show {frame['key'].iloc[0]} --results {shlex.quote(str(out))}")


def execute(
    benchmark: Benchmark, folder: Path, again: Sequence[str], as_json: bool = False, quiet: bool = False, **options: Any
) -> pd.DataFrame:
    """Run a benchmark into its folder while showing what happens, and print the leaderboard, which is returned.

    Interrupted once, it finishes what runs, prints what there is and raises `KeyboardInterrupt` with `again`, the
    command that goes on; interrupted twice, it raises that at once.
    """
    from tlbench.executors import local
    from tlbench.leaderboard.derived import write_derived
    from tlbench.progress import Progress
    from tlbench.stream import Stream

    stop = threading.Event()
    try:
        with Progress(benchmark.search.metric, quiet=quiet or as_json) as progress, _interrupts(stop, progress.say):
            watch: Callable[[Event], None] = Stream(sys.stdout) if as_json else progress
            local.run(benchmark, folder, **options, on_event=watch, stopping=stop.is_set)
        frame = write_derived(folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_to_go_on(again)) from None
    if as_json:
        _print_json(frame)
    else:
        print_leaderboard(frame, [folder])
    if stop.is_set():
        raise KeyboardInterrupt(_to_go_on(again))
    return frame


def _run(file: str, out: Path, as_json: bool = False, quiet: bool = False, **options: Any) -> pd.DataFrame:
    """Run a benchmark, print what it found and leave with status 1 where nothing is final; the leaderboard."""
    from tlbench.benchmark import load_benchmark

    benchmark = load_benchmark(_benchmark_path(file))  # before torch is imported, so that a typo is told at once
    folder = out / benchmark.name
    again = ["run", file, "--out", str(out), *(["--skip-bad"] if options.get("skip_bad") else [])]
    again += [word for name in options.get("observe", ()) for word in ("--observe", name)]
    frame = execute(benchmark, folder, again, as_json, quiet, **options)
    if not as_json:
        _print_gains(folder)
        click.echo(f"results: {folder} (keys for 'tlbench show' are in its leaderboard.csv)")
    end(frame)
    return frame


@contextmanager
def _interrupts(stop: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Set `stop` at the first Ctrl-C; the second is a `KeyboardInterrupt`, as is every one elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals, and only it gets Ctrl-C
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupted(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("interrupted: what runs is finished first; once more stops it now")

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _to_go_on(again: Sequence[str]) -> str:
    return f"interrupted; to go on: {shlex.join(['tlbench', *again])}"


def _print_json(frame: pd.DataFrame) -> None:
    import json

    from tlbench.leaderboard.export import export
    from tlbench.stream import Stream

    Stream(sys.stdout).write("leaderboard", {"rows": json.loads(export(frame, "json"))})


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
