"""The table: recorded trainings by backbone, strategy and learning rate, and what everything took."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

CSV, JSON = "curves.csv", "curves.json"
COLUMNS = ("kind", "backbone", "strategy", "value", "seed", "epochs", "search", "pick", "validation", "test")
"""`kind`: screen, probe, wsd or cosine; `value`: the penalty of a probe, the learning rate of a training."""


@final
@dataclass(frozen=True, kw_only=True)
class Scores:
    """Accuracies of one training on both halves of validation, all of it, and test."""

    search: float
    pick: float
    validation: float
    test: float


@final
class Table:
    """Recorded scores, looked up by the nearest value."""

    def __init__(self, rows: Sequence[Mapping[str, str]], facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._found: dict[tuple[str, str, str], dict[float, dict[int, Scores]]] = {}
        self.screened: dict[str, float] = {}
        """Left-one-out accuracy on 512 samples, by backbone."""

        for row in rows:
            if row["kind"] == "screen":
                self.screened[row["backbone"]] = float(row["search"])
            elif row["seed"] == "0":
                where = self._found.setdefault((row["kind"], row["backbone"], row["strategy"]), {})
                where.setdefault(float(row["value"]), {})[int(row["epochs"])] = _scores(row)

    @property
    def backbones(self) -> list[str]:
        """Names, in the order of the setting."""
        return list(self.facts["backbones"])

    def look(self, kind: str, backbone: str, strategy: str, value: float, epochs: int = 0) -> Scores:
        """The scores of the recorded training whose value is nearest, on a logarithmic scale."""
        values = self._found[kind, backbone, strategy]
        return values[min(values, key=lambda one: abs(math.log(one / value)))][epochs]

    def all(self, kind: str) -> dict[tuple[str, str, float, int], Scores]:
        """Every training of a kind, by backbone, strategy, value and epochs."""
        return {
            (backbone, strategy, value, epochs): scores
            for (found, backbone, strategy), values in self._found.items()
            if found == kind
            for value, curve in values.items()
            for epochs, scores in curve.items()
        }

    def seconds(self, what: str, backbone: str) -> float:
        """What something took with a backbone."""
        return float(self.facts["seconds"][what][backbone])


def read_table(folder: Path) -> Table:
    """The table in a folder."""
    with (folder / CSV).open() as file:
        return Table(list(csv.DictReader(file)), json.loads((folder / JSON).read_text()))


def _scores(row: Mapping[str, str]) -> Scores:
    validation = float(row["validation"])
    return Scores(
        search=float(row["search"]),
        pick=float(row["pick"] or validation),
        validation=validation,
        test=float(row["test"]),
    )
