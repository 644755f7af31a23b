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
    "repository",
    "family",
    "modality",
    "architecture",
    "kind",
    "parameters",
    "macs",
    "pretraining",
    "pretraining_data",
    "licence",
    "default",
)
"""Of `curated.csv`, which ``python -m tlbench_transformers.curate`` writes; `macs`: of a text of 128 tokens."""


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row: what is known of a backbone, and where it stands."""

    repository: str
    """On the hub, with the organisation."""

    family: str
    """The architecture's name in the literature: `DeBERTa-v3`, `MiniLM`."""

    modality: str
    facts: Facts
    """Its `architecture` is transformers' `model_type`."""

    default: bool


@cache
def curated() -> Mapping[str, Entry]:
    """Read the list, by name, in the order of the file."""
    text = resources.files("tlbench_transformers").joinpath("curated.csv").read_text(encoding="utf-8")
    return {row["name"]: _entry(row) for row in csv.DictReader(text.splitlines())}


def listed_name(name: str) -> str | None:
    """Say which listed backbone `name` stands for: its repository, or that without the organisation."""
    for listed, entry in curated().items():
        if name in (listed, entry.repository, entry.repository.rpartition("/")[2]):
            return listed
    return None


def _entry(row: Mapping[str, str]) -> Entry:
    facts = Facts(
        architecture=row["architecture"],
        kind=row["kind"],
        pretraining=row["pretraining"],
        pretraining_data=row["pretraining_data"] or None,
        parameters=int(row["parameters"]),
        macs=int(row["macs"]) if row["macs"] else None,
        licence=row["licence"] or None,
    )
    return Entry(
        repository=row["repository"],
        family=row["family"],
        modality=row["modality"],
        facts=facts,
        default=row["default"] == "yes",
    )
