"""Listing: what the plugins bring, as records and as columns of plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlbench.components import Backbone, Facts
from tlbench.errors import TlbenchError
from tlbench.observers import observes, waits_to_be_asked
from tlbench.plugins import Plugin, Plugins
from tlbench.strategies import ControlStrategy

if TYPE_CHECKING:
    from tlbench.catalog import Catalog, Entry

Record = Mapping[str, Any]


def backbones(catalog: Catalog, everything: bool = False) -> list[Record]:
    """Every listed backbone, and with `everything` those that plugins only know, with what is known of it unloaded."""
    records: list[Record] = []
    for entry in [*catalog.registered("backbone"), *(_known(catalog) if everything else ())]:
        facts = _facts(entry.full_name, entry.component)
        records.append(
            {
                "name": entry.full_name,
                "modality": entry.component.modality,
                "parameters": facts.parameters,
                "macs": facts.macs,
                "accuracy": facts.accuracy,
                "licence": facts.licence,
                "summary": entry.component.summary,
            }
        )
    return records


def strategies(catalog: Catalog) -> list[Record]:
    """Every strategy, whether it starts from pretrained weights and whether it leaves them as they are."""
    return [
        {
            "name": entry.full_name,
            "modality": ", ".join(sorted(entry.component.modalities or ("any",))),
            "pretrained": None if isinstance(entry.component, ControlStrategy) else entry.component.pretrained,
            "frozen": None if isinstance(entry.component, ControlStrategy) else entry.component.frozen,
            "summary": entry.component.summary,
        }
        for entry in catalog.registered("strategy")
    ]


def datasets(catalog: Catalog) -> list[Record]:
    """Every listed data set."""
    return [
        {
            "name": entry.full_name,
            "modality": entry.component.modality,
            "task": entry.component.task,
            "summary": entry.component.summary,
        }
        for entry in catalog.registered("dataset")
    ]


def benchmarks(catalog: Catalog) -> list[Record]:
    """Every benchmark file that a plugin ships, by the name `tlbench run` takes."""
    return [{"name": name, "path": str(path)} for name, path in catalog.benchmarks().items()]


def plugins(found: Plugins) -> list[Record]:
    """Every plugin: what it provides, or why it is set aside."""
    active = [
        {
            "plugin": plugin.name,
            "state": "active",
            "distribution": plugin.distribution,
            "version": plugin.distribution_version,
            "provides": _provides(plugin),
        }
        for plugin in found.active.values()
    ]
    aside = [
        {
            "plugin": item.name,
            "state": "set aside",
            "distribution": item.distribution,
            "version": None,
            "provides": f"nothing: {item.reason}",
        }
        for item in found.set_aside
    ]
    return [*active, *aside]


def columns(records: Sequence[Record]) -> str:
    """The records as aligned text under their names; empty for none."""
    if not records:
        return ""
    headings = list(records[0])
    lines = [headings, *([_text(heading, record[heading]) for heading in headings] for record in records)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _known(catalog: Catalog) -> Iterator[Entry]:
    """What plugins know and do not list; of one that breaks, nothing and a line on standard error."""
    for plugin in catalog.plugins:
        try:
            yield from catalog.known_backbones(plugin)
        except TlbenchError as error:
            sys.stderr.write(f"tlbench: {' '.join(str(error).split())}\n")


def _facts(name: str, backbone: Backbone) -> Facts:
    """What the plugin says it knows; nothing, and a line on standard error, where saying so raises."""
    try:
        return backbone.facts
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stderr.write(f"tlbench: backbone '{name}': its facts raised {reason}\n")
        return Facts()


def _provides(plugin: Plugin) -> str:
    components = plugin.components
    words = [
        _counted(len(components["backbone"]), "backbone", "backbones"),
        _counted(len(components["strategy"]), "strategy", "strategies"),
        _counted(len(components["dataset"]), "data set", "data sets"),
        _counted(len(plugin.benchmarks), "benchmark", "benchmarks"),
    ]
    if observes(plugin):
        words.append("observer, when asked for" if waits_to_be_asked(plugin) else "observer")
    return ", ".join(word for word in words if word) or "hooks only"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def _text(name: str, value: Any) -> str:
    """A value as a reader sees it; unknown is blank."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    if name == "macs":
        return f"{value / 1e9:.2f} G"
    return f"{100 * value:.1f} %" if name == "accuracy" else str(value)
