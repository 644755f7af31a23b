"""Opening: from a benchmark to a plan that is ready to hand out jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tlbench.benchmark import Benchmark
from tlbench.catalog import Catalog
from tlbench.errors import BenchmarkError
from tlbench.evaluation.evaluate import EVALUATOR_VERSION
from tlbench.journal import Journal
from tlbench.search.admission import Admission
from tlbench.search.arm import Arm
from tlbench.search.plain import PlainPlan
from tlbench.search.replay import reopen, spent_s
from tlbench.search.study import Cell, Study
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE

SHOWN = 3
"""Backbones in a sentence that may have to name dozens."""


@final
@dataclass(frozen=True, kw_only=True)
class Opened:
    """A plan, and the samples it leaves out of each data set."""

    plan: PlainPlan
    excluded: dict[str, frozenset[str]]


def open_plan(
    benchmark: Benchmark,
    catalog: Catalog,
    store: Store,
    *,
    workers: int,
    skip_bad: bool,
    retry_failed: bool,
    admission: Admission | None = None,
) -> Opened:
    """Resolve and check everything a benchmark names, and replay what the results folder already holds.

    `admission` leaves backbones out; None: all are taken. Raises `TlbenchError` before anything is trained where a
    name, a data set or weights are not to be had, and where no backbone keeps the limits.
    """
    survey = Survey(benchmark, catalog, skip_bad, admission)
    journal = Journal(store.path / "journal.jsonl")
    events = journal.events()
    _tell_declined(survey.declined, journal, events)
    replayed = []
    for cell, arms in _cells(benchmark, survey):

        def make(generation: int, cell: Cell = cell, arms: list[Arm] = arms) -> Study:
            return Study(cell, arms, benchmark.search, EVALUATOR_VERSION, generation)

        replayed.append(reopen(make, events, journal, store, retry_failed))
    if not replayed and survey.declined:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(survey.declined.items())[:SHOWN])
        raise BenchmarkError(f"no backbone keeps the limits ({told}): there is nothing to run")
    if not replayed:
        raise BenchmarkError("no backbone has the modality of a data set: there is nothing to run")
    plan = PlainPlan(
        benchmark=benchmark,
        replayed=replayed,
        store=store,
        journal=journal,
        workers=workers,
        spent_before_s=spent_s(events),
    )
    return Opened(plan=plan, excluded=survey.excluded)


def _tell_declined(declined: Mapping[str, str], journal: Journal, events: Sequence[Mapping[str, Any]]) -> None:
    """Write down which backbones break a limit, where that is not what the journal says already."""
    before: Mapping[str, str] = next(
        (event["declined"] for event in reversed(events) if event["event"] == "limits"), {}
    )
    if declined != before:
        journal.append({"event": "limits", "declined": declined})


def _cells(benchmark: Benchmark, survey: Survey) -> Iterator[tuple[Cell, list[Arm]]]:
    """Arms grouped by the axes that are compared; those in `over` are searched within a cell."""
    over = benchmark.search.over
    for data in survey.datasets:
        cells: dict[Cell, list[Arm]] = {}
        for arm in survey.arms(data):
            searched = () if arm.backbone == NO_BACKBONE else over  # a control competes with the best of a search
            cell = Cell(
                backbone=None if "backbone" in searched else arm.backbone.name,
                strategy=None if "strategy" in searched else arm.strategy.name,
                dataset=data.reference.name,
            )
            cells.setdefault(cell, []).append(arm)
        yield from cells.items()
