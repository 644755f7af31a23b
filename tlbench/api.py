"""The Python interface: run a benchmark, read its leaderboard, find the best, load a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.benchmark import Benchmark, load_benchmark
from tlbench.errors import StoreError
from tlbench.evaluation.saved import load_model
from tlbench.evaluation.shipped import SavedModel
from tlbench.executors.events import Event
from tlbench.executors.local import run
from tlbench.leaderboard.derived import write_derived
from tlbench.leaderboard.finalists import Finalists
from tlbench.leaderboard.table import read_leaderboard
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Best", "SavedModel", "find_best", "load_model", "read_leaderboard", "run_benchmark"]


@final
@dataclass(frozen=True, kw_only=True)
class Best:
    """The winner of a search on one data set."""

    dataset: str
    backbone: str
    strategy: str
    params: dict[str, Any]
    """The recipe."""

    test: float
    """Mean test score over the final seeds."""

    low: float | None
    high: float | None
    """95 % interval of the test score, where it is an accuracy."""

    model: Path | None
    """For `load_model`; None where a control won, which has no backbone."""


def run_benchmark(
    benchmark: Benchmark | str | Path,
    out: str | Path = "results",
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    retry_failed: bool = False,
    observe: Sequence[str] = (),
    speed: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> pd.DataFrame:
    """Run a benchmark (or go on with it) into `out/<its name>` and return its leaderboard.

    `observe`: names of observers, as for `tlbench run`; `speed`: whether to measure the finals' inference, too. Raises
    `TlbenchError` for what the user can mend, before anything is trained.
    """
    plan = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(Path(benchmark))
    folder = Path(out) / plan.name
    run(
        plan,
        folder,
        workers=workers,
        skip_bad=skip_bad,
        retry_failed=retry_failed,
        observe=observe,
        speed=speed,
        on_event=on_event,
    )
    return write_derived(folder)


def find_best(benchmark: Benchmark | str | Path, out: str | Path = "results", **options: Any) -> list[Best]:
    """Search backbones and strategies together and return the best of each data set.

    `options` as for `run_benchmark`. The finalists are retrained and scored on test once; what is returned is the
    finalist with the best validation score, or the defaults of a staged search where these are within a standard error
    of it; never the one with the best test score. That may be a control, which needs no backbone and has no model;
    `tlbench search` names the best with a backbone, and says how it compares with the best control.
    """
    plan = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(Path(benchmark))
    plan = replace(plan, search=replace(plan.search, over=("backbone", "strategy")))
    run_benchmark(plan, out, **options)
    folder = Path(out) / plan.name
    finalists = Finalists(folder)
    return [_best(known[0].row, Store(folder)) for name in finalists.datasets if (known := finalists.on(name))]


def _best(row: Mapping[str, Any], store: Store) -> Best:
    measurement = store.get(row["key"])
    if measurement is None:
        raise StoreError(f"{store.path}: the result {row['key']} is gone")
    return Best(
        dataset=row["dataset"],
        backbone=row["backbone"],
        strategy=row["strategy"],
        params=dict(measurement.trial.params),
        test=float(row["test"]),
        low=_known(row["test_low"]),
        high=_known(row["test_high"]),
        model=None if measurement.trial.backbone == NO_BACKBONE else store.model_path(row["key"]),
    )


def _known(value: Any) -> float | None:
    """A figure of the table, None where it is unknown."""
    return None if value != value else float(value)
