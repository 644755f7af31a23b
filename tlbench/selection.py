"""Selection: which of the backbones a list shows, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tlbench.errors import unknown_name

Record = Mapping[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a user asks of the records of `tlbench.listing.backbones`. None: anything."""

    modality: str | None = None
    max_params: int | None = None
    max_macs: int | None = None
    min_accuracy: float | None = None
    sort: str | None = None
    """`accuracy`, highest first, or `parameters`, `macs` or `name`, lowest first; unknown comes last."""

    limit: int | None = None
    """How many at most, after sorting."""

    def of(self, records: Sequence[Record]) -> list[Record]:
        """Return those that are known to fit, sorted. Raises `UnknownNameError` for a modality that none has."""
        fitting = [record for record in self._of_modality(records) if self._fits(record, unknown=False)]
        sort = self.sort
        if sort is not None:
            fitting.sort(key=lambda record: _rank(record[sort], highest_first=sort == "accuracy"))
        return fitting[: self.limit]

    def doubts(self, records: Sequence[Record]) -> str:
        """Say how many `of` leaves out only because a figure of them is unknown, and which figures; empty for none."""
        candidates = [record for record in self._of_modality(records) if self._fits(record, unknown=True)]
        missing = [[name for name, _, _ in self._limits if record[name] is None] for record in candidates]
        count = sum(map(bool, missing))
        figures = dict.fromkeys(name for names in missing for name in names)
        return f"{count} left out for unknown {' or '.join(figures)}" if count else ""

    @property
    def _limits(self) -> list[tuple[str, float, int]]:
        """Figure, limit, and 1 for the highest or -1 for the lowest that fits."""
        limits = (("parameters", self.max_params, 1), ("macs", self.max_macs, 1), ("accuracy", self.min_accuracy, -1))
        return [(name, limit, sign) for name, limit, sign in limits if limit is not None]

    def _of_modality(self, records: Sequence[Record]) -> list[Record]:
        modalities = sorted({record["modality"] for record in records})
        if self.modality is not None and self.modality not in modalities:
            raise unknown_name("modality", self.modality, modalities, "tlbench list backbones")
        return [record for record in records if self.modality in (None, record["modality"])]

    def _fits(self, record: Record, unknown: bool) -> bool:
        """Whether it keeps every limit; `unknown` stands for whether a figure that is unknown does."""
        figures = [(record[name], limit, sign) for name, limit, sign in self._limits]
        return all(unknown if figure is None else sign * figure <= sign * limit for figure, limit, sign in figures)


def _rank(figure: Any, highest_first: bool) -> tuple[bool, Any]:
    if figure is None:
        return True, None
    return False, -figure if highest_first else figure
