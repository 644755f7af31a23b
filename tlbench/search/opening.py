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
from tlbench.search.book import open_book
from tlbench.search.ground import Entrants
from tlbench.search.plain import PlainPlan
from tlbench.search.plan import Plan
from tlbench.search.replay import reopen, spent_s
from tlbench.search.sampling import OptunaStudy, make_sampler
from tlbench.search.staged import StagedPlan
from tlbench.search.study import Cell, Study
from tlbench.search.survey import Survey, SurveyedData
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE

SHOWN = 3
"""Backbones in a sentence that may have to name dozens."""


@final
@dataclass(frozen=True, kw_only=True)
class Opened:
    """A plan, and the samples it leaves out of each data set."""

    plan: Plan
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
    cells = {data.reference.name: list(_cells(benchmark, survey, data)) for data in survey.datasets}
    if not any(cells.values()) and survey.declined:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(survey.declined.items())[:SHOWN])
        raise BenchmarkError(f"no backbone keeps the limits ({told}): there is nothing to run")
    if not any(cells.values()):
        raise BenchmarkError("no backbone has the modality of a data set: there is nothing to run")
    shared: dict[str, Any] = {
        "benchmark": benchmark,
        "store": store,
        "journal": journal,
        "workers": workers,
        "spent_before_s": spent_s(events),
    }
    if benchmark.search.plan == "staged":
        if len(benchmark.search.over) == 1:
            raise BenchmarkError(
                'search.plan = "staged" searches backbones and strategies together: leave search.over out'
            )
        # Refuses a sampler or pruner that Optuna does not have, or that refuses its options.
        OptunaStudy("opening", benchmark.search, make_sampler(benchmark.search.sampler, 0, 0))
        if retry_failed:
            store.discard(*(found.key for found in store.measurements() if found.status == "failed"))
        entrants = [_entrants(survey, list(found), benchmark) for found in cells.values() if found]
        return Opened(
            plan=StagedPlan(entrants=entrants, evaluator=EVALUATOR_VERSION, **shared), excluded=survey.excluded
        )
    replayed = []
    for cell, arms in (pair for found in cells.values() for pair in found):

        def make(generation: int, cell: Cell = cell, arms: list[Arm] = arms) -> Study:
            return Study(cell, arms, benchmark.search, EVALUATOR_VERSION, generation)

        replayed.append(reopen(make, events, journal, store, retry_failed))
    return Opened(plan=PlainPlan(replayed=replayed, **shared), excluded=survey.excluded)


def _entrants(survey: Survey, cells: Sequence[tuple[Cell, list[Arm]]], benchmark: Benchmark) -> Entrants:
    """One book for the whole search on a data set, and one for each control."""
    books = [open_book(cell, arms, benchmark.search, EVALUATOR_VERSION) for cell, arms in cells]
    (book,) = (book for book in books if book.cell.backbone is None)
    return Entrants(
        book=book,
        controls=[other for other in books if other is not book],
        facts={found.entry.full_name: found.entry.component.facts for found in survey.backbones},
        reach=survey.reach,
    )


def _tell_declined(declined: Mapping[str, str], journal: Journal, events: Sequence[Mapping[str, Any]]) -> None:
    """Write down which backbones break a limit, where that is not what the journal says already."""
    before: Mapping[str, str] = next(
        (event["declined"] for event in reversed(events) if event["event"] == "limits"), {}
    )
    if declined != before:
        journal.append({"event": "limits", "declined": declined})


def _cells(benchmark: Benchmark, survey: Survey, data: SurveyedData) -> Iterator[tuple[Cell, list[Arm]]]:
    """Arms on a data set grouped by the axes that are compared; those that are searched lie within a cell."""
    over = ("backbone", "strategy") if benchmark.search.plan == "staged" else benchmark.search.over
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
