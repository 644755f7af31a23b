"""Lists: the commands that say what the plugins bring."""

from __future__ import annotations

import json

import click


@click.command(name="list")
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


@click.command()
def plugins() -> None:
    """List plugins, and why any is set aside."""
    from tlbench import listing
    from tlbench.plugins import discover

    records = listing.plugins(discover())
    click.echo(listing.columns(records) or "no plugins: tlbench's own are missing, install it again")
