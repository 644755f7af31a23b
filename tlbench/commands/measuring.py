"""Measuring: the command that tells how fast backbones and fitted models are on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlbench.commands.output import INCOMPLETE
from tlbench.errors import SpeedError, StoreError

if TYPE_CHECKING:
    from tlbench.benchmark import BackboneDeclaration
    from tlbench.evaluation.device import Compute
    from tlbench.evaluation.serving import Kept
    from tlbench.evaluation.speed import Protocol
    from tlbench.evaluation.variant import Source, Variant
    from tlbench.plugins import Plugins
    from tlbench.speed import SpeedRecord, Throughput


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--classes", type=click.IntRange(min=2), default=10, show_default=True, help="Of a backbone's fresh head."
)
@click.option("--full", is_flag=True, help="More calls and batch sizes, cold start, memory, and other ways of running.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as a JSON list.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; a GPU where there is one.")
@click.option("--threads", type=click.IntRange(min=1), help="All cores by default.")
@click.option("--dtype", type=click.Choice(["float32", "tf32", "bfloat16", "float16"]), default="float32")
@click.option("--layout", type=click.Choice(["contiguous", "channels_last"]), default="contiguous")
@click.option("--compile", type=click.Choice(["none", "default", "reduce-overhead", "max-autotune"]), default="none")
@click.option("--runtime", type=click.Choice(["torch", "onnxruntime"]), default="torch")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Keep the records in this folder.")
def measure(
    names: tuple[str, ...],
    classes: int,
    full: bool,
    as_json: bool,
    device: str,
    threads: int | None,
    out: Path | None,
    **way: str,
) -> None:
    """Measure latency, throughput, size and memory on this machine.

    NAME is a backbone or a pattern such as 'zoo/*', a checkpoint folder, a saved or exported model, or the results
    folder of a run, whose finals are measured and whose leaderboard then shows it. A backbone whose weights are not on
    this machine is measured with random ones, which changes no figure.

    Speeds are told as medians of single samples (batch 1) and as samples per second of batches, without preprocessing.
    A record that other processes, heat or an unsettled clock speak against says so. Exit status 1: something was not
    measured.
    """
    from tlbench.benchmark import Device
    from tlbench.evaluation.device import open_compute
    from tlbench.evaluation.hub import stay_offline
    from tlbench.evaluation.speed import FULL, Protocol
    from tlbench.evaluation.variant import Variant, others
    from tlbench.plugins import discover
    from tlbench.store import Store

    stay_offline()
    plugins, compute = discover(), open_compute(Device(kind=device, threads=threads), workers=1)
    variant = Variant(**way)  # type: ignore[arg-type]
    ways = [(variant, FULL if full else Protocol())]
    if full:
        ways += [(other, Protocol()) for other in others(variant, compute.device.type)]
    records, complete = [], True
    for source, name, folder in _sources(names, classes, plugins, compute):
        for each, protocol in ways:
            click.echo(f"measuring {' '.join(filter(None, [name, each.in_words]))}", err=True)
            record = _measured(source, name, each, compute, protocol, plugins)
            if record is None:
                complete &= each != variant
                continue
            records.append(record)
            for place in filter(None, {folder, out}):
                Store(place).put_speed(record)
    click.echo(json.dumps([record.to_json() for record in records], indent=1) if as_json else _table(records))
    if not complete:
        click.get_current_context().exit(INCOMPLETE)


def _sources(
    names: Sequence[str], classes: int, plugins: Plugins, compute: Compute
) -> Iterator[tuple[Source, str, Path | None]]:
    """What every name stands for: where a model comes from, what it is called, and the results folder it is of."""
    from tlbench.catalog import Catalog
    from tlbench.evaluation.saved import declaration_json
    from tlbench.evaluation.variant import Source
    from tlbench.proposal import name_backbone

    catalog = Catalog(plugins)
    declared: list[BackboneDeclaration] = []
    for name in names:
        path = Path(name)
        if (path / "benchmark.toml").is_file():
            for kept in _finals(path, plugins, compute):
                yield Source(saved=str(kept.path)), kept.name, path
        elif path.suffix == ".safetensors" or (path / "recipe.json").is_file():
            yield Source(saved=name), name, None
        else:
            meant = name_backbone(name, catalog, plugins, declared)
            for full_name in Catalog(plugins, saved=declared).backbones((meant,)):
                origins = tuple(declaration_json(one) for one in declared if one.name == full_name)
                yield Source(backbone=full_name, declared=origins, classes=classes, pretrained=True), full_name, None


def _finals(folder: Path, plugins: Plugins, compute: Compute) -> Sequence[Kept]:
    from tlbench.evaluation.serving import Serving
    from tlbench.store import Store

    def say(line: str) -> None:
        click.echo(line, err=True)

    found = Serving(store=Store(folder), plugins=plugins, compute=compute, say=say).finals()
    if not found:
        raise SpeedError(f"'{folder}' keeps no final model: run its benchmark to the end")
    return found


def _measured(
    source: Source, name: str, variant: Variant, compute: Compute, protocol: Protocol, plugins: Plugins
) -> SpeedRecord | None:
    """The record; None, and a line on standard error, where the model cannot be run in this way."""
    from tlbench.evaluation.speed import measure as measure_model

    try:
        return measure_model(source, variant, compute, protocol, plugins)
    except (SpeedError, StoreError) as error:
        click.echo(f"{name} was not measured: {error}", err=True)
        return None


def _table(records: Sequence[SpeedRecord]) -> str:
    """A line per record under the machine it is of, and below them why any is not to be believed."""
    from tlbench.listing import columns

    if not records:
        return "nothing was measured"
    machines = dict.fromkeys(f"{record.setting.place}, torch {record.libraries['torch']}" for record in records)
    doubts = [
        f"{_name(record)}: not to be relied on: {'; '.join(record.doubts)}" for record in records if record.doubts
    ]
    random = {record.subject.backbone.name for record in records if record.provenance.get("random_weights")}
    said = [f"random weights, as theirs are not on this machine: {', '.join(sorted(random))}"] if random else []
    rows = [_row(record) for record in records]
    told = [name for name in rows[0] if any(row[name] for row in rows)]
    table = columns([{name: row[name] for name in told} for row in rows])
    return "\n".join([*machines, "", table, "", *said, *doubts]).rstrip()


def _row(record: SpeedRecord) -> Mapping[str, str]:
    from tlbench.leaderboard.export import count

    latency, together = record.latency, record.latency_with_preprocess
    throughput = {f"batch {one.batch}": _rate(one) for one in record.throughput}
    cold = f"{record.cold['load_s']:.1f} s + {record.cold['first_ms']:.0f} ms" if record.cold else ""
    added = record.memory.get("added_resident")
    return {
        "backbone": _name(record),
        "p50": f"{latency.p50_ms:.2f} ms",
        "p90": "" if latency.p90_ms is None else f"{latency.p90_ms:.2f} ms",
        "p99": "" if latency.p99_ms is None else f"{latency.p99_ms:.2f} ms",
        "with preprocessing": "" if together is None else f"{together.p50_ms:.2f} ms",
        **{f"batch {size}": throughput.get(f"batch {size}", "") for size in (1, 8, 32, 128)},
        "MACs": count(record.complexity["macs"]) if record.complexity else "",
        "weights": f"{record.memory['weights']:.1f} MiB",
        "memory": "" if added is None else f"{added:.0f} MiB",
        "load + first call": cold,
        "reliable": "yes" if record.speed_ok else "no",
    }


def _name(record: SpeedRecord) -> str:
    setting = record.setting
    way = [setting.dtype, setting.layout, setting.compile, setting.runtime.partition(" ")[0]]
    told = [word.replace("_", " ") for word in way if word not in ("float32", "contiguous", "none", "torch")]
    compiled = ["compiled" if word == setting.compile else word for word in told]
    return ", ".join([record.subject.backbone.name, *compiled])


def _rate(one: Throughput) -> str:
    from tlbench.leaderboard.export import rate

    return rate(one.per_s) if one.per_s is not None else str(one.failure).partition(":")[0]
