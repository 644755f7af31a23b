"""The transfer gain: what pretraining brought over training from random weights, with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.benchmark import higher_is_better
from tlbench.leaderboard.export import score_text
from tlbench.leaderboard.table import read_leaderboard
from tlbench.statistics import paired_bootstrap
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, canonical_json

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]
Finals = Mapping[int, Row]
"""Final measurements of one competitor, flat, by seed."""

_FROM_SCRATCH = "random"
"""How the identity of weights begins that nothing was pretrained into: those of `scratch`, and of a random twin."""


@final
@dataclass(frozen=True, kw_only=True)
class Gain:
    """The best pretrained competitor of one data set against training from scratch, each chosen on validation data."""

    dataset: str
    metric: str
    backbone: str
    strategy: str
    test: float
    """Mean test score over the seeds."""

    scratch_backbone: str
    """The same as `backbone` where that was trained from scratch too."""

    scratch_test: float
    other_backbone: str | None
    """Another architecture, where that was better from scratch on validation data."""

    other_test: float | None
    low: float | None
    high: float | None
    """95 % interval of the gain, in the metric's unit; None for metrics other than accuracy."""

    @property
    def gain(self) -> float:
        """How much better pretrained is than from scratch, in the metric's unit; below 0 where it is worse."""
        difference = self.test - self.scratch_test
        return difference if higher_is_better(self.metric) else -difference

    def __str__(self) -> str:
        """Say it in a sentence."""
        same = self.backbone == self.scratch_backbone
        other = "the same architecture" if same else self.scratch_backbone
        scores = (
            f"{self.dataset}: {self.backbone} with {self.strategy} reaches {self._shown(self.test)}, "
            f"{other} from scratch {self._shown(self.scratch_test)}"
        )
        told = f"{scores}: {self._verdict()}."
        if self.other_backbone is None or self.other_test is None:
            return told
        return f"{told} From scratch, {self.other_backbone} reaches {self._shown(self.other_test)}."

    def _shown(self, score: float) -> str:
        return score_text(score, self.metric, None) + (" %" if higher_is_better(self.metric) else "")

    def _verdict(self) -> str:
        size = score_text(abs(self.gain), self.metric, None) + (" points" if higher_is_better(self.metric) else "")
        if self.low is None or self.high is None:
            return f"pretraining {'brings' if self.gain >= 0 else 'costs'} {size}"
        low, high = (100 * end for end in (self.low, self.high))
        if low > 0:
            return f"pretraining brings {size} [{low:.1f}, {high:.1f}]"
        if high < 0:
            return f"pretraining costs {size} [{-high:.1f}, {-low:.1f}]"
        return f"a difference of {100 * self.gain:.1f} points [{low:.1f}, {high:.1f}], which may be chance"


def transfer_gains(folder: Path) -> list[Gain]:
    """The gain on each data set of the run in `folder` that has finals both pretrained and from scratch.

    The interval is a paired bootstrap over seeds and test samples (`statistics.paired_bootstrap`); it says nothing of
    how the best were chosen.
    """
    store = Store(folder)
    finals = _finals(store.rows())
    records = read_leaderboard(folder).to_dict("records")
    rows = [{str(name): value for name, value in record.items()} for record in records if record["state"] == "final"]
    datasets = dict.fromkeys(row["dataset"] for row in rows)
    found = (_gain([row for row in rows if row["dataset"] == dataset], finals, store) for dataset in datasets)
    return [gain for gain in found if gain is not None]


def _finals(measured: Iterable[Row]) -> dict[tuple[str, ...], dict[int, Row]]:
    """Complete finals by competitor and seed."""
    finals: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in measured:
        if row["trial_stage"] == "final" and row["status"] == "complete":
            names = (row[f"trial_{kind}_name"] for kind in ("dataset", "backbone", "strategy"))
            competitor = (*names, canonical_json(row["trial_params"]))
            finals.setdefault(competitor, {})[row["trial_seed"]] = row
    return finals


def _gain(rows: Sequence[Row], finals: Mapping[tuple[str, ...], Finals], store: Store) -> Gain | None:
    """The gain on one data set, whose final rows of the leaderboard these are."""
    pairs = [(row, finals.get(_competitor(row), {})) for row in rows if row["backbone"] != NO_BACKBONE.name]
    known = [(row, seeds) for row, seeds in pairs if seeds]
    pretrained = [pair for pair in known if not _from_scratch(pair[1])]
    scratch = [pair for pair in known if _from_scratch(pair[1])]
    if not pretrained or not scratch:
        return None
    row, seeds = _best(pretrained)
    same = [pair for pair in scratch if pair[0]["backbone"] == row["backbone"]]
    start, start_seeds = _best(same or scratch)
    other, _ = _best(scratch)
    accuracy = row["metric"] == "accuracy"
    differences = _differences(seeds, start_seeds, store) if accuracy else None
    low, high = (None, None) if differences is None else paired_bootstrap(differences)
    return Gain(
        dataset=row["dataset"],
        metric=row["metric"],
        backbone=row["backbone"],
        strategy=row["strategy"],
        test=float(row["test"]),
        scratch_backbone=start["backbone"],
        scratch_test=float(start["test"]),
        other_backbone=None if other is start else other["backbone"],
        other_test=None if other is start else float(other["test"]),
        low=low,
        high=high,
    )


def _competitor(row: Row) -> tuple[str, ...]:
    return (row["dataset"], row["backbone"], row["strategy"], row["recipe"])


def _from_scratch(seeds: Finals) -> bool:
    return all(row["trial_weights"].startswith(_FROM_SCRATCH) for row in seeds.values())


def _best(pairs: Sequence[tuple[Row, Finals]]) -> tuple[Row, Finals]:
    """The pair with the best validation score: test data chooses nothing."""
    sign = 1 if higher_is_better(pairs[0][0]["metric"]) else -1
    return max(pairs, key=lambda pair: sign * pair[0]["validation"])


def _differences(one: Finals, other: Finals, store: Store) -> np.ndarray | None:
    """Per seed that both have, which test samples `one` alone got right (1) or `other` alone (-1): [seeds, samples]."""
    import numpy as np

    rows = [
        difference
        for seed in sorted(set(one) & set(other))
        if (difference := _difference(one[seed]["key"], other[seed]["key"], store)) is not None
    ]
    return np.stack(rows) if rows else None


def _difference(one: str, other: str, store: Store) -> np.ndarray | None:
    right, against = (dict(_right(key, store)) for key in (one, other))
    if not right or right.keys() != against.keys():
        return None
    import numpy as np

    return np.array([float(right[sample]) - float(against[sample]) for sample in sorted(right)])


def _right(key: str, store: Store) -> Iterator[tuple[str, bool]]:
    """Ids of test samples, and whether each was predicted right; nothing where predictions were not kept."""
    found = store.predictions(key)
    if found is not None:
        hits = found.label == found.predicted
        for sample, split, hit in zip(found.sample_id, found.split, hits, strict=True):
            if split == "test":
                yield sample, bool(hit)
