"""Searching: the command that finds the best backbone and strategy for the user's own data."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlbench.commands.output import end
from tlbench.commands.quantity import Quantity
from tlbench.commands.running import (
    execute,
    json_option,
    observe_option,
    out_option,
    quiet_option,
    speed_option,
)
from tlbench.quantities import parse_count, parse_milliseconds

if TYPE_CHECKING:
    from tlbench.benchmark import Benchmark
    from tlbench.leaderboard.answer import Answer
    from tlbench.plugins import Plugins
    from tlbench.proposal import Target, Wishes
    from tlbench.speed import SpeedRecord


class _Duration(click.ParamType[float]):
    """`90s`, `30m`, `2h`: seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as a benchmark file does."""
        from tlbench.benchmark import parse_duration
        from tlbench.errors import BenchmarkError

        try:
            return value if isinstance(value, float) else parse_duration(value)
        except BenchmarkError as error:
            self.fail(str(error), param, ctx)


_LATENCY, _COUNT = Quantity("time", parse_milliseconds), Quantity("count", parse_count)


@click.command()
@click.argument("data")
@click.option("--budget", type=_Duration(), default="10m", show_default=True, help="Wall clock, retraining included.")
@click.option(
    "--backbones",
    multiple=True,
    metavar="NAME",
    help="Names, patterns such as 'timm/resnet*', or checkpoint folders; may be repeated, or separated by commas. "
    "By default, the pool that plugins propose.",
)
@click.option("--strategies", multiple=True, metavar="NAME", help="Names or patterns, likewise.")
@click.option(
    "--plan",
    type=click.Choice(["staged", "plain"]),
    default="staged",
    show_default=True,
    help="In stages from cheap to dear, or by Optuna's sampler alone.",
)
@click.option("--shots", type=click.IntRange(min=1), help="Labels per class to train on; all by default.")
@click.option("--metric", help="Validation metric that decides; accuracy by default.")
@click.option("--epochs", type=click.IntRange(min=1), help="At most, per trial; by the size of the data by default.")
@click.option("--trials", type=click.IntRange(min=1), default=100, show_default=True, help="At most.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Retrainings of each finalist.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the search.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; a GPU where there is one.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that run trials.")
@click.option("--max-latency", type=_LATENCY, metavar="TIME", help="Of a single sample, 90th percentile, such as 10ms.")
@click.option(
    "--min-throughput", type=click.FloatRange(min=0, min_open=True), help="Samples a second, in batches of 8."
)
@click.option("--max-params", type=_COUNT, metavar="COUNT", help="Of the whole model, such as 10M.")
@click.option(
    "--max-memory", type=click.FloatRange(min=0, min_open=True), help="MiB that serving it adds to a process."
)
@click.option("--max-macs", type=_COUNT, metavar="COUNT", help="Multiply-accumulates of one sample, such as 1G.")
@click.option("--name", help="Of the search and its folder; by default, that of the data.")
@out_option
@json_option
@quiet_option
@observe_option
@speed_option
def search(
    data: str,
    backbones: tuple[str, ...],
    strategies: tuple[str, ...],
    budget: float,
    metric: str | None,
    max_latency: float | None,
    min_throughput: float | None,
    max_params: float | None,
    max_memory: float | None,
    max_macs: float | None,
    device: str,
    workers: int,
    out: Path,
    as_json: bool,
    quiet: bool,
    observe: tuple[str, ...],
    speed: bool,
    **options: Any,
) -> None:
    """Find the best pretrained backbone, and the way to adapt it, for DATA.

    DATA is a folder of images (a folder per class, or train/, validation/ and test/ with a folder per class each), a
    table of texts and labels (CSV, TSV, Parquet, JSON Lines) or a folder of such tables, a name that
    'tlbench list datasets' shows, or the id of a data set on the Hugging Face hub.

    Backbones that break a limit are left out before anything is trained, and listed with the reason.

    Samples that cannot be used are counted and left out. Run again, the command goes on where it stopped.
    """
    from tlbench.benchmark import Device, Limits
    from tlbench.proposal import Wishes

    wishes = Wishes(
        backbones=_split(backbones),
        strategies=_split(strategies),
        budget_s=budget,
        metric=_metric(metric),
        limits=Limits(
            max_latency_ms=max_latency,
            min_throughput_per_s=min_throughput,
            max_params=max_params,
            max_memory_mib=max_memory,
            max_macs=max_macs,
        ),
        **options,
    )
    benchmark, said = _prepare(data, wishes, Device(kind=device, workers=workers))
    folder = out / benchmark.name
    if not as_json:
        click.echo("\n".join([*said, f"searching for {_minutes(budget)}; results: {folder}"]))
    again = ["run", str(folder / "benchmark.toml"), "--out", str(out), "--skip-bad"]
    again += [word for name in observe for word in ("--observe", name)]
    frame = execute(benchmark, folder, again, as_json, quiet, skip_bad=True, observe=observe, speed=speed)
    if not as_json:
        _tell(folder, again)
    end(frame)


def _prepare(data: str, wishes: Wishes, device: Any) -> tuple[Benchmark, list[str]]:
    """The benchmark to run, and what is to be said before."""
    from tlbench.plugins import discover
    from tlbench.proposal import find_target, propose

    plugins = discover()
    offline = _offline()
    target = find_target(data, plugins, wishes.shots)
    train_size, said = _describe(target, wishes)
    benchmark, left_out = propose(target, train_size, wishes, plugins, device, offline)
    return benchmark, [*said, *left_out, _pool(benchmark, plugins)]


def _describe(target: Target, wishes: Wishes) -> tuple[int, list[str]]:
    """How many samples there are to train on, and what was understood of the data."""
    from tlbench.evaluation.data import load_data
    from tlbench.evaluation.description import describe

    problems = target.dataset.problems()
    excluded = frozenset(problem.sample_id for problem in problems)
    data = load_data(target.dataset, split_seed=0, shots=wishes.shots, excluded=excluded)
    return len(data.train), describe(target.dataset, data, wishes.shots, problems).lines()


def _pool(benchmark: Benchmark, plugins: Plugins) -> str:
    from tlbench.catalog import Catalog

    catalog = Catalog(plugins, benchmark)
    backbones, strategies = catalog.backbones(benchmark.backbones), catalog.strategies(benchmark.strategies)
    shown = ", ".join(backbones[:6]) + (f" and {len(backbones) - 6} more" if len(backbones) > 6 else "")
    ways = ", ".join(name.rpartition("/")[2] for name in strategies)
    counts = f"{len(backbones)} backbone{'s' * (len(backbones) != 1)}", f"{len(strategies)} strateg{_y(strategies)}"
    return f"{counts[0]} ({shown}), {counts[1]} ({ways})"


def _y(counted: Sequence[str]) -> str:
    return "y" if len(counted) == 1 else "ies"


def _offline() -> str:
    """Why the hub is out of reach, if it is; libraries are then kept from waiting for it."""
    from tlbench.evaluation.hub import reachable, stay_offline

    reason = reachable()
    if reason:
        stay_offline()
    return reason


def _tell(folder: Path, again: Sequence[str]) -> None:
    """The answer in words, and what to do with it."""
    from tlbench.leaderboard.answer import answers

    found = answers(folder)
    for answer in found:
        click.echo("\n" + "\n".join([*answer.lines(), *_costs(folder, answer)]))
    if not found:
        click.echo(
            "\nno answer yet: nothing with a backbone was retrained in time; a larger --budget goes on from here"
        )
    click.echo(f"\nagain elsewhere: {shlex.join(['tlbench', *again[:2], '--out', 'elsewhere', '--skip-bad'])}")


def _costs(folder: Path, answer: Answer) -> list[str]:
    """What the winner costs to ship and to run, and how to use it."""
    from tlbench.leaderboard.export import count
    from tlbench.leaderboard.speeds import Speeds
    from tlbench.store import Store

    store = Store(folder)
    mib = store.model_path(answer.key).stat().st_size / 2**20
    size = f"{count(int(answer.best.row['parameters_total']))} parameters, {mib:.1f} MiB on disk"
    costs = ", ".join([size, *_speed(Speeds(store).record(answer.key))])
    return [f"costs: {costs}", f"use it: tlbench predict {shlex.quote(str(folder))} FILE..."]


def _speed(record: SpeedRecord | None) -> Iterator[str]:
    """What was measured of the winner, and what speaks against it; nothing where its speed is unknown."""
    if record is None:
        return
    latency = record.latency
    within = "" if latency.p90_ms is None else f" (90 % within {latency.p90_ms:.3g} ms)"
    doubts = f"; not to be relied on: {'; '.join(record.doubts)}" if record.doubts else ""
    yield f"{latency.p50_ms:.3g} ms a sample{within} on {record.setting.in_words}{doubts}"


def _split(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for item in given for name in item.split(",") if name)


def _metric(given: str | None) -> str:
    from tlbench.benchmark import METRICS
    from tlbench.errors import unknown_name

    if given is not None and given not in METRICS:
        raise unknown_name("metric", given, METRICS, "tlbench search --help")
    return given or "accuracy"


def _minutes(seconds: float) -> str:
    from tlbench.leaderboard.export import duration

    return duration(seconds)
