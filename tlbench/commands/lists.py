"""Lists: the commands that say what the plugins bring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tlbench.commands.quantity import Quantity
from tlbench.quantities import parse_count, parse_fraction

if TYPE_CHECKING:
    from tlbench.catalog import Catalog
    from tlbench.listing import Record


@click.command(name="list")
@click.argument("what", type=click.Choice(["backbones", "strategies", "datasets", "benchmarks"]))
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--modality", metavar="WORD", help="Backbones for samples of this kind: image, text, ...")
@click.option("--max-params", type=Quantity("count", parse_count), help="As 10M: without a classifier.")
@click.option("--max-macs", type=Quantity("count", parse_count), help="As 1G: multiply-accumulates for a sample.")
@click.option("--min-accuracy", type=Quantity("fraction", parse_fraction), help="As 0.75 or 75%: ImageNet-1k top-1.")
@click.option("--sort", type=click.Choice(["accuracy", "parameters", "macs", "name"]), help="Best or smallest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show the first N.")
@click.option("--all", "everything", is_flag=True, help="Also what plugins know and find by name, but do not list.")
def list_(what: str, format_: str, everything: bool, **wishes: Any) -> None:
    """List what the plugins bring.

    All options but --format are about backbones. A limit leaves out those whose figure is unknown, and says how many.
    """
    from tlbench import listing
    from tlbench.catalog import Catalog
    from tlbench.plugins import discover

    catalog = Catalog(discover())
    given = {name: value for name, value in wishes.items() if value is not None}
    if what == "backbones":
        records = _selected(catalog, everything, given)
    elif given or everything:
        raise click.UsageError(f"of these options only --format goes with '{what}': the others are about backbones")
    else:
        records = getattr(listing, what)(catalog)
    if format_ == "json":
        click.echo(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        click.echo(listing.columns(records) or _nothing(what, bool(given)))


@click.command()
def plugins() -> None:
    """List plugins, and why any is set aside."""
    from tlbench import listing
    from tlbench.plugins import discover

    records = listing.plugins(discover())
    click.echo(listing.columns(records) or "no plugins: tlbench's own are missing, install it again")


def _selected(catalog: Catalog, everything: bool, wishes: Any) -> Sequence[Record]:
    """The backbones asked for; how many a limit leaves out as unknown goes to standard error."""
    from tlbench import listing
    from tlbench.selection import Selection

    records = listing.backbones(catalog, everything)
    selection = Selection(**wishes)
    selected, doubts = selection.of(records), selection.doubts(records)
    if doubts:
        click.echo(f"tlbench: {doubts}", err=True)
    return selected


def _nothing(what: str, selected: bool) -> str:
    if selected:
        return f"no {what} known to fit: raise a limit, or look at more with --all"
    return f"no {what}: 'tlbench plugins' shows which plugins are active"
