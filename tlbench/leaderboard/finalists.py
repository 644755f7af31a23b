"""Finalists: the competitors of one run that have test scores, and how two of them compare on the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

from tlbench.benchmark import higher_is_better
from tlbench.journal import Journal
from tlbench.leaderboard.course import courses
from tlbench.leaderboard.export import score_text
from tlbench.leaderboard.table import fold_of, read_leaderboard
from tlbench.search.answering import Contender, Validated, in_order
from tlbench.statistics import paired_bootstrap
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]

_FROM_SCRATCH = "random"
"""How the identity of weights begins that nothing was pretrained into: those of `scratch`, and of a random twin."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Finalist:
    """One competitor with its final measurements, flat, by seed."""

    row: Row
    """Its row of the leaderboard."""

    seeds: Mapping[int, Row]
    validation: float
    """Mean validation score over the seeds, as if all finalists on the data set had validated on the same folds."""

    is_default: bool
    """Whether it is what would have been trained without a search."""

    @property
    def name(self) -> str:
        """As a sentence says it."""
        strategy = self.row["strategy"]
        return strategy if self.kind == "control" else f"{self.row['backbone']} with {strategy}"

    @property
    def kind(self) -> str:
        """`control` without a backbone, `random` weights to begin with, `frozen` features, or `trained`."""
        if self.row["backbone"] == NO_BACKBONE.name:
            return "control"
        if all(row["trial_weights"].startswith(_FROM_SCRATCH) for row in self.seeds.values()):
            return "random"
        return "frozen" if all(row["trial_epochs"] == 0 for row in self.seeds.values()) else "trained"

    @property
    def test(self) -> float:
        """Mean test score over the seeds."""
        return float(self.row["test"])

    @property
    def tests(self) -> Mapping[int, float]:
        """Test score by seed."""
        name = f"scores_test_{self.row['metric']}"
        return {seed: float(row[name]) for seed, row in self.seeds.items() if row.get(name) is not None}


@final
@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better one finalist is on test than another, in the metric's unit; below 0 where it is worse."""

    value: float
    low: float | None = None
    high: float | None = None
    """95 % interval of the value, over the same seeds and samples."""

    shared: int | None = None
    """Seeds that both have, where one has others, too: the difference is over these alone."""


@final
class Finalists:
    """The finalists of the run in one folder."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        records = read_leaderboard(folder).to_dict("records")
        self._rows = [{str(name): value for name, value in record.items()} for record in records]
        self._defaults = {key for course in courses(folder) for key in course.defaults}
        events = Journal(folder / "journal.jsonl").events()
        self._planned: list[list[str]] = [
            keys for event in reversed(events) if event["event"] == "finals" for keys in event["keys"]
        ]

    @cached_property
    def datasets(self) -> list[str]:
        """Names of the data sets that have finalists."""
        return list(dict.fromkeys(row["dataset"] for row in self._rows if row["state"] == "final"))

    def on(self, dataset: str) -> list[Finalist]:
        """The finalists on one data set, in the order of `search.answering.in_order`."""
        rows = [row for row in self._rows if row["state"] == "final" and row["dataset"] == dataset]
        found = [(row, seeds) for row in rows if (seeds := self._seeds(row["key"]))]
        return [
            Finalist(row=one.of[0], seeds=one.of[1], validation=one.validation, is_default=one.is_default)
            for one in (in_order(starmap(self._contender, found), rows[0]["metric"]) if found else ())
        ]

    def difference(self, one: Finalist, other: Finalist) -> Difference:
        """How much better `one` is on test than `other`: over the seeds that both have, if they share any.

        The interval is a paired bootstrap over these seeds and test samples; there is none for metrics other than
        accuracy, and where predictions were not kept.
        """
        metric = one.row["metric"]
        pairs = self._pairs(one.seeds, other.seeds) if metric == "accuracy" else {}
        seeds = sorted(pairs or one.tests.keys() & other.tests.keys())
        shared = len(seeds) if seeds and not set(seeds) == one.tests.keys() == other.tests.keys() else None
        if pairs:
            import numpy as np

            differences = np.stack(list(pairs.values()))
            low, high = paired_bootstrap(differences)
            return Difference(value=float(differences.mean()), low=low, high=high, shared=shared)
        tests = one.test, other.test
        if shared is not None:
            tests = fmean(one.tests[seed] for seed in seeds), fmean(other.tests[seed] for seed in seeds)
        return Difference(value=(tests[0] - tests[1]) * (1 if higher_is_better(metric) else -1), shared=shared)

    def _contender(self, row: Row, seeds: Mapping[int, Row]) -> Contender[tuple[Row, Mapping[int, Row]]]:
        name = f"scores_validation_{row['metric']}"
        return Contender(
            of=(row, seeds),
            validations=[
                Validated(
                    fold=fold_of(one),
                    score=float(one[name]),
                    samples=int(one.get("counts_validation") or 0),
                )
                for one in seeds.values()
                if one.get(name) is not None
            ],
            names=(row["backbone"], row["strategy"]),
            is_default=any(one["key"] in self._defaults for one in seeds.values()),
        )

    @cached_property
    def _finals(self) -> dict[str, Row]:
        """Complete ones by key."""
        rows = self._store.rows()
        return {row["key"]: row for row in rows if row["trial_stage"] == "final" and row["status"] == "complete"}

    def _seeds(self, key: str) -> Mapping[int, Row]:
        """Those that were planned together with one, as the run planned them last, by seed."""
        planned = next((keys for keys in self._planned if key in keys), [])
        return {row["trial_seed"]: row for each in planned if (row := self._finals.get(each)) is not None}

    def _pairs(self, one: Mapping[int, Row], other: Mapping[int, Row]) -> dict[int, np.ndarray]:
        """By seed that both have, which test samples `one` alone got right (1) or `other` alone (-1)."""
        return {
            seed: difference
            for seed in sorted(one.keys() & other.keys())
            if (difference := self._difference(one[seed]["key"], other[seed]["key"])) is not None
        }

    def _difference(self, one: str, other: str) -> np.ndarray | None:
        right, against = dict(self._right(one)), dict(self._right(other))
        if not right or right.keys() != against.keys():
            return None
        import numpy as np

        return np.array([float(right[sample]) - float(against[sample]) for sample in sorted(right)])

    def _right(self, key: str) -> Iterator[tuple[str, bool]]:
        """Ids of test samples, and whether each was predicted right; nothing where predictions were not kept."""
        found = self._store.predictions(key)
        if found is not None:
            hits = found.label == found.predicted
            for sample, split, hit in zip(found.sample_id, found.split, hits, strict=True):
                if split == "test":
                    yield sample, bool(hit)


def first_of(finalists: Sequence[Finalist], *kinds: str) -> Finalist | None:
    """The first finalist of one of these kinds."""
    return next((one for one in finalists if one.kind in kinds), None)


def score_words(score: float, metric: str) -> str:
    """A score as a sentence says it: `95.1 %`, or a loss as it is."""
    return score_text(score, metric, None) + (" %" if higher_is_better(metric) else "")


def gap_words(difference: float, metric: str) -> str:
    """A difference of scores, without its sign: `2.4 points`, or of a loss as it is."""
    return score_text(abs(difference), metric, None) + (" points" if higher_is_better(metric) else "")


def seeds_words(shared: int | None) -> str:
    """What a sentence has to say of `Difference.shared`: ` over the 1 seed that both have`."""
    return "" if shared is None else f" over the {shared} seed{'s' * (shared != 1)} that both have"
