"""The curated backbones: their names and published facts, read from `curated.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import final

from tlbench.components import Facts

COLUMNS = (
    "name",
    "family",
    "kind",
    "parameters",
    "accuracy",
    "pretraining",
    "pretraining_data",
    "licence",
    "default",
)
"""Of `curated.csv`, which ``python -m tlbench_timm.curate`` writes."""


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row: what is known of a backbone, and where it stands."""

    family: str
    """The architecture's name in the literature: `ResNet`, `DINOv2`."""

    facts: Facts
    default: bool


@cache
def curated() -> Mapping[str, Entry]:
    """Read the list, by ``architecture.tag``, in the order of the file."""
    text = resources.files("tlbench_timm").joinpath("curated.csv").read_text(encoding="utf-8")
    return {row["name"]: _entry(row) for row in csv.DictReader(text.splitlines())}


def _entry(row: Mapping[str, str]) -> Entry:
    facts = Facts(
        architecture=row["name"].partition(".")[0],
        kind=row["kind"],
        pretraining=row["pretraining"] or None,
        pretraining_data=row["pretraining_data"] or None,
        parameters=int(row["parameters"]),
        accuracy=float(row["accuracy"]) if row["accuracy"] else None,
        licence=row["licence"] or None,
    )
    return Entry(family=row["family"], facts=facts, default=row["default"] == "yes")
