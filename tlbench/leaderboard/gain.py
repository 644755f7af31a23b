"""The transfer gain: what pretraining brought over training from random weights, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from tlbench.benchmark import higher_is_better
from tlbench.leaderboard.finalists import Finalists, first_of, gap_words, score_words, seeds_words


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

    shared: int | None = None
    """Seeds that both have, where one has others, too."""

    shared_gain: float | None = None
    """The gain over these."""

    @property
    def gain(self) -> float:
        """How much better pretrained is than from scratch, in the metric's unit; below 0 where it is worse.

        Over the seeds that both have, if they share any.
        """
        if self.shared_gain is not None:
            return self.shared_gain
        difference = self.test - self.scratch_test
        return difference if higher_is_better(self.metric) else -difference

    def __str__(self) -> str:
        """Say it in a sentence that begins with the data set."""
        return f"{self.dataset}: {self.sentence}"

    @property
    def sentence(self) -> str:
        """Who reaches what, and whether the difference may be chance."""
        same = self.backbone == self.scratch_backbone
        other = "the same architecture" if same else self.scratch_backbone
        scores = (
            f"{self.backbone} with {self.strategy} reaches {self._shown(self.test)}, "
            f"{other} from scratch {self._shown(self.scratch_test)}"
        )
        told = f"{scores}: {self._verdict()}."
        if self.other_backbone is None or self.other_test is None:
            return told
        return f"{told} From scratch, {self.other_backbone} reaches {self._shown(self.other_test)}."

    def _shown(self, score: float) -> str:
        return score_words(score, self.metric)

    def _verdict(self) -> str:
        size, over = gap_words(self.gain, self.metric), seeds_words(self.shared)
        if self.low is None or self.high is None:
            return f"pretraining {'brings' if self.gain >= 0 else 'costs'} {size}{over}"
        low, high = (100 * end for end in (self.low, self.high))
        if low > 0:
            return f"pretraining brings {size} [{low:.1f}, {high:.1f}]{over}"
        if high < 0:
            return f"pretraining costs {size} [{-high:.1f}, {-low:.1f}]{over}"
        return f"a difference of {100 * self.gain:.1f} points [{low:.1f}, {high:.1f}]{over}, which may be chance"


def transfer_gains(folder: Path) -> list[Gain]:
    """The gain on each data set of the run in `folder` that has finals both pretrained and from scratch.

    The interval is a paired bootstrap over seeds and test samples (`statistics.paired_bootstrap`); it says nothing of
    how the best were chosen.
    """
    finalists = Finalists(folder)
    found = (transfer_gain(finalists, dataset) for dataset in finalists.datasets)
    return [gain for gain in found if gain is not None]


def transfer_gain(finalists: Finalists, dataset: str) -> Gain | None:
    """The gain on one data set, where that can be said."""
    known = finalists.on(dataset)
    best, other = first_of(known, "frozen", "trained"), first_of(known, "random")
    if best is None or other is None:
        return None
    same = [one for one in known if one.kind == "random" and one.row["backbone"] == best.row["backbone"]]
    start = same[0] if same else other
    difference = finalists.difference(best, start)
    return Gain(
        dataset=dataset,
        metric=best.row["metric"],
        backbone=best.row["backbone"],
        strategy=best.row["strategy"],
        test=best.test,
        scratch_backbone=start.row["backbone"],
        scratch_test=start.test,
        other_backbone=None if other is start else other.row["backbone"],
        other_test=None if other is start else other.test,
        low=difference.low,
        high=difference.high,
        shared=difference.shared,
        shared_gain=None if difference.shared is None else difference.value,
    )
