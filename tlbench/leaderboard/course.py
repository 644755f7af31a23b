"""The course of a staged search: its stages, what it dropped and why, and whether its screen was right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from tlbench.journal import Journal
from tlbench.leaderboard.export import duration

_SHOWN = 5


@final
@dataclass(kw_only=True)
class Course:
    """What the journal says of the search on one data set."""

    dataset: str
    stages: list[tuple[str, float]] = field(default_factory=list)
    """Whenever one began, in seconds since the run began: some have several parts, all of them in a run that went on.

    Without a name: none of them.
    """

    dropped: dict[str, str] = field(default_factory=dict)
    """Reason by backbone, or by backbone and strategy where but that pair was left out; of the run opened last."""

    tau: float | None = None
    """Kendall's, between the order of the screen and that of the best scores after it."""

    order: Sequence[str] = ()
    """Backbones that were screened and scored after it, best of the screen first."""

    defaults: Sequence[str] = ()
    """Keys of the finals of what would have been trained without a search."""

    ended: float = 0.0

    def lines(self) -> list[str]:
        """A sentence each."""
        return [*self._screened(), *self._dropped(), *self._times()]

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event of this search into account."""
        match event["event"]:
            case "opened":
                self.dropped.clear()
                self.stages.append(("", self.ended))  # between two runs there is none
            case "told":
                self.ended = max(self.ended, float(event["spent_s"]))
            case "stage":
                self.stages.append((event["stage"], float(event["spent_s"])))
            case "dropped":
                names = [event["backbone"], *([event["strategy"]] if "strategy" in event else [])]
                self.dropped[" ".join(names)] = event["reason"]
            case "finals":
                self.defaults = event.get("defaults", ())
            case "screened":
                self.tau, self.order = event["tau"], event["order"]

    def _screened(self) -> Iterator[str]:
        if self.tau is not None:
            yield (
                f"screening: the order of {len(self.order)} backbones by frozen features has a Kendall's tau of "
                f"{self.tau:.2f} with that of their best validation scores"
            )

    def _dropped(self) -> Iterator[str]:
        if self.dropped:
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(self.dropped.items())[:_SHOWN])
            more = f"; and {len(self.dropped) - _SHOWN} more" if len(self.dropped) > _SHOWN else ""
            yield f"dropped on the way: {shown}{more}"

    def _times(self) -> Iterator[str]:
        seconds: dict[str, float] = {}
        for (name, start), (_, end) in pairwise([*self.stages, ("", self.ended)]):
            if name:
                seconds[name] = seconds.get(name, 0.0) + max(0.0, end - start)
        if seconds:
            yield "time: " + ", ".join(f"{name} {duration(each)}" for name, each in seconds.items())


def courses(folder: Path) -> list[Course]:
    """Of the run in `folder`, by data set; none where its plan was another."""
    found: dict[str, Course] = {}
    studies: dict[str, str] = {}
    for event in Journal(folder / "journal.jsonl").events():
        if event["event"] == "opened" and event["cell"]["backbone"] is None:
            studies[event["study"]] = event["cell"]["dataset"]
        dataset = studies.get(event.get("study", ""))
        if dataset is not None:
            found.setdefault(dataset, Course(dataset=dataset)).note(event)
    return [course for course in found.values() if any(name for name, _ in course.stages)]
