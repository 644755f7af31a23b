"""Replay: a study as the journal left it, so that a run goes on where the last one stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

from tlbench.journal import Journal
from tlbench.measurement import Measurement
from tlbench.search.study import Study
from tlbench.store import Store
from tlbench.trial import Trial

Event = Mapping[str, Any]


@final
@dataclass(kw_only=True)
class Replayed:
    """A study with what the journal and the store know of it."""

    study: Study
    pending: dict[int, Trial] = field(default_factory=dict)
    """Search trials that were asked and never told, by number."""

    told: list[Measurement] = field(default_factory=list)
    """Search results, in the order in which they were told."""

    finals: dict[str, Measurement] = field(default_factory=dict)
    """Results of finals, by key."""

    notice: str | None = None


def reopen(
    make: Callable[[int], Study], events: Sequence[Event], journal: Journal, store: Store, retry_failed: bool
) -> Replayed:
    """The newest generation of a study, replayed; a new one where the record cannot or shall not be followed.

    A study starts anew (its stored results are found again, trial by trial) when a result it was told is lost or came
    from a broken machine, when failed trials are to be tried again, and when the search space or Optuna has changed.
    """
    opened = {event["study"] for event in events if event["event"] == "opened"}
    generation = 0
    while make(generation + 1).id in opened:
        generation += 1
    study = make(generation)
    own = [event for event in events if event.get("study") == study.id]
    distrusted = [key for key in _told_keys(own) if not _stands(store.get(key), retry_failed)]
    store.discard(*distrusted)
    searched = {event["key"] for event in own if event["event"] == "told" and event["stage"] == "search"}
    replayed = None
    if not searched.intersection(distrusted):
        replayed = _follow(study, own, store)
    if replayed is None:
        notice = f"{study.cell.label}: its record cannot be followed; searching anew with the results in store"
        replayed = Replayed(study=make(generation + 1), notice=None if retry_failed else notice)
    study = replayed.study
    cell = {"event": "opened", "study": study.id, "cell": asdict(study.cell), "arms": len(study.arms)}
    journal.append(cell)
    return replayed


def spent_s(events: Iterable[Event]) -> float:
    """Wall clock that the runs in the journal have spent."""
    return max((float(event["spent_s"]) for event in events if "spent_s" in event), default=0.0)


def _told_keys(events: Sequence[Event]) -> list[str]:
    return [event["key"] for event in events if event["event"] == "told"]


def _stands(measurement: Measurement | None, retry_failed: bool) -> bool:
    """Whether a told result is still there and shall count."""
    if measurement is None or (measurement.status == "failed" and retry_failed):
        return False
    return measurement.answers or measurement.status == "pruned"


def _follow(study: Study, events: Sequence[Event], store: Store) -> Replayed | None:
    """Ask and tell again what was asked and told; None where an ask no longer gives the recorded trial."""
    replayed = Replayed(study=study)
    for event in events:
        if event["event"] == "asked":
            asked = study.ask()
            if asked is None or asked[1].key != event["key"]:
                return None
            replayed.pending[asked[0]] = asked[1]
        elif event["event"] == "told":
            measurement = store.get(event["key"])
            if measurement is None:
                continue
            if event["stage"] == "final":
                replayed.finals[measurement.key] = measurement
            elif measurement.status != event["status"]:
                return None
            else:
                del replayed.pending[event["number"]]
                study.tell(event["number"], measurement)
                replayed.told.append(measurement)
    return replayed
