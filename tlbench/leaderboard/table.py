"""The leaderboard: one row per competitor, computed from what runs left in their results folders."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.benchmark import Benchmark, higher_is_better, load_benchmark
from tlbench.errors import SpeedError, StoreError
from tlbench.journal import Journal
from tlbench.leaderboard.speeds import Speeds
from tlbench.statistics import wilson
from tlbench.store import Store
from tlbench.trial import canonical_json

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "rank": "Int64",  # 1 for the best test score on the data set; equal scores share it
    "benchmark": "string",
    "dataset": "string",
    "backbone": "string",
    "strategy": "string",
    "state": "string",  # "final", "not final", "failed", "unfinished" or "excluded"
    "metric": "string",
    "test": "float64",  # mean over seeds
    "test_low": "float64",  # Wilson, 95 %; accuracy only
    "test_high": "float64",
    "test_n": "Int64",  # test samples
    "seeds_std": "float64",  # standard deviation of the test score over seeds, and folds of small data
    "seeds": "Int64",  # finals that are complete
    "seeds_planned": "Int64",
    "validation": "float64",  # mean over finals, or the best search trial's
    "parameters_trainable": "Int64",
    "parameters_total": "Int64",
    "macs": "Int64",  # of one sample, deployed model
    "latency_ms": "float64",  # of single samples, median, without preprocessing
    "latency_p90_ms": "float64",
    "throughput_per_s": "float64",  # samples a second in batches of 8
    "speed_ok": "boolean",  # whether nothing speaks against latency and throughput
    "speed_setting": "string",  # machine and way of running that they are of
    "weights_mib": "float64",  # as served
    "adapter_mib": "float64",  # of these, what training changed: all that has to be shipped beside the backbone
    "train_s": "float64",  # mean over finals, or the best search trial's
    "trials": "Int64",  # search trials with an outcome
    "complete": "Int64",
    "pruned": "Int64",
    "failed": "Int64",
    "reason": "string",  # why a result is missing or less than was asked for
    "key": "string",  # the final with the best validation score of the first fold, or the best search trial
    "recipe": "string",  # JSON of its parameters
}
"""Columns and their pandas types. Scores are fractions as measured; unknown is NaN or NA."""

Row = Mapping[str, Any]
_STATES = ("final", "not final", "failed", "unfinished", "excluded")
_QUESTION = ("trial_fingerprint", "trial_split_seed", "trial_shots", "trial_evaluator")


def read_leaderboard(*folders: str | Path) -> pd.DataFrame:
    """The leaderboard of all runs in `folders`, ranked within each data set; COLUMNS says what each column holds.

    A folder is one run's, or holds runs' folders. Test scores rank competitors and decide nothing else: which recipe
    is shown was settled on validation data. Rows of one data set share a ranking only where samples, split, shots and
    the evaluator's version agree.
    """
    import pandas as pd  # half a second, which no search needs before it has ended

    runs = [run for folder in folders for run in run_folders(Path(folder))]
    rows = [row for run in dict.fromkeys(runs) for row in _run_rows(run)]
    names = [*COLUMNS, "question"]
    frame = pd.DataFrame([[row.get(name) for name in names] for row in rows], columns=names, dtype=object)
    frame["rank"] = _ranks(frame)
    places = [_place(row) for row in frame.to_dict("records")]
    frame = frame.iloc[sorted(range(len(frame)), key=places.__getitem__)]
    return frame[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)


ORDERS = {
    "test": None,
    "latency": "latency_ms",
    "throughput": "throughput_per_s",
    "parameters": "parameters_total",
    "macs": "macs",
    "time": "train_s",
}
"""What a leaderboard may be ordered by, and the column; test scores are the order it is in."""


def ordered(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """The leaderboard, each data set's rows with the best of a column of `ORDERS` first and what is unknown last.

    Raises `SpeedError` for speeds of several settings, which have no common order (pitfall 13).
    """
    column = ORDERS[by]
    if column is None:
        return frame
    if column in ("latency_ms", "throughput_per_s"):
        settings = sorted(frame["speed_setting"].dropna().unique())
        if len(settings) > 1:
            raise SpeedError(f"speeds of {len(settings)} settings cannot be put in one order: {'; '.join(settings)}")
    ascending = column != "throughput_per_s"
    return frame.sort_values(["dataset", "metric", column], ascending=[True, True, ascending], kind="stable")


def run_folders(folder: Path) -> list[Path]:
    """`folder` itself if a run wrote it, else those of its folders that runs wrote. Raises `StoreError` for none."""
    runs = [path.parent for pattern in ("journal.jsonl", "*/journal.jsonl") for path in sorted(folder.glob(pattern))]
    if not runs:
        state = "has no results of a run" if folder.is_dir() else "does not exist"
        raise StoreError(f"folder '{folder}' {state}: give the folder that 'tlbench run' named, such as results/NAME")
    return runs[:1] if runs[0] == folder else runs


@dataclass(kw_only=True)
class _Study:
    """What the journal says of one cell's current study."""

    cell: Mapping[str, str | None]
    told: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Key and status by trial number, in the order told."""

    finals: Sequence[Sequence[str]] = ()
    """Keys per seed, per finalist."""

    selected: Sequence[str] = ()
    final_status: dict[str, str] = field(default_factory=dict)
    ended: str | None = None

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take note of one event of this study."""
        match event["event"]:
            case "opened":
                self.ended = None
            case "told" if event.get("stage") == "final":
                self.final_status[event["key"]] = event["status"]
            case "told" if event.get("stage", "search") == "search":
                self.told.pop(event["number"], None)
                self.told[event["number"]] = (event["key"], event["status"])
            case "finals":
                self.finals, self.selected = event["keys"], event["selected"]
            case "ended":
                self.ended = event["reason"]

    def count(self, status: str) -> int:
        """How many search trials ended with `status`."""
        return sum(status == found for _, found in self.told.values())


def _current_studies(events: Iterable[Mapping[str, Any]]) -> list[_Study]:
    """The study opened last for every cell."""
    studies: dict[str, _Study] = {}
    current: dict[str, str] = {}
    for event in events:
        if event["event"] == "opened":
            studies.setdefault(event["study"], _Study(cell=event["cell"]))
            current[canonical_json(event["cell"])] = event["study"]
        if event.get("study") in studies:
            studies[event["study"]].replay(event)
    return [studies[study] for study in current.values()]


def _run_rows(folder: Path) -> Iterator[dict[str, Any]]:
    benchmark, store = load_benchmark(folder / "benchmark.toml"), Store(folder)
    measured = {row["key"]: row for row in store.rows()}
    events = Journal(folder / "journal.jsonl").events()
    declined: Mapping[str, str] = next(
        (event["declined"] for event in reversed(events) if event["event"] == "limits"), {}
    )
    studies = [study for study in _current_studies(events) if study.cell["backbone"] not in declined]
    rows = list(_studied(studies, measured, benchmark))
    speeds = Speeds(store, [row["key"] for row in rows if row.get("key")])
    yield from ({**row, **speeds.row(row.get("key"))} for row in rows)
    yield from _excluded(declined, studies, benchmark)


def _excluded(declined: Mapping[str, str], studies: Sequence[_Study], benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """Backbones that break a limit: on every data set of the run, where they are not hidden by being absent."""
    for dataset in dict.fromkeys(study.cell["dataset"] for study in studies):
        for backbone, reason in declined.items():
            names = {"benchmark": benchmark.name, "dataset": dataset, "backbone": backbone}
            counts = dict.fromkeys(("trials", "complete", "pruned", "failed", "seeds", "seeds_planned"), 0)
            yield {**names, "metric": benchmark.search.metric, "state": "excluded", "reason": reason, **counts}


def _studied(studies: Sequence[_Study], measured: Mapping[str, Row], benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    for study in studies:
        shared = {
            "benchmark": benchmark.name,
            **study.cell,
            "metric": benchmark.search.metric,
            "trials": len(study.told),
            **{status: study.count(status) for status in ("complete", "pruned", "failed")},
        }
        for row in _competitors(study, measured, benchmark):
            yield {**shared, **row}


def _competitors(study: _Study, measured: Mapping[str, Row], benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """One row per finalist of the cell, or one row for the cell."""
    metric = benchmark.search.metric
    for keys, selected in zip(study.finals, study.selected, strict=True):
        known = [measured[key] for key in keys if key in measured]
        done = [row for row in known if row["status"] == "complete" and _score(row, "test", metric) is not None]
        reason = _reason(_finals_left(study, keys, measured), study.ended)
        seeds = {"seeds": len(done), "seeds_planned": len(keys), "reason": reason}
        if done:
            yield {"state": "final", **seeds, **_final(done, metric)}
        else:
            yield {"state": "not final", **seeds, **_shown(measured.get(selected), metric)}
    if not study.finals:
        yield {"seeds": 0, "seeds_planned": len(benchmark.seeds), **_searched(study, measured, metric)}


def _final(done: Sequence[Row], metric: str) -> dict[str, Any]:
    """What a competitor's finals say together."""
    tests = [row[f"scores_test_{metric}"] for row in done]
    validations = [score for row in done if (score := _score(row, "validation", metric)) is not None]
    costs = [row["cost_total_s"] for row in done if row.get("cost_total_s") is not None]
    first = min(map(fold_of, done))  # scores of other folds are of other samples
    best = _best([row for row in done if fold_of(row) == first], "validation", metric) or done[0]
    mean, total = statistics.fmean(tests), best.get("scores_test_n")
    low, high = wilson(mean * total, int(total)) if metric == "accuracy" and total else (None, None)
    return {
        **_shown(best, metric),
        "test": mean,
        "test_low": low,
        "test_high": high,
        "test_n": total,
        "seeds_std": statistics.stdev(tests) if len(tests) > 1 else None,
        "validation": statistics.fmean(validations) if validations else None,
        "train_s": statistics.fmean(costs) if costs else None,
    }


def _searched(study: _Study, measured: Mapping[str, Row], metric: str) -> dict[str, Any]:
    """A cell without finals: its best search trial, or why there is none."""
    complete = [measured[key] for key, status in study.told.values() if status == "complete" and key in measured]
    best = _best(complete, "search", metric) or _best(complete, "validation", metric)
    if best is not None:
        return {"state": "not final", "reason": _reason(study.ended), **_shown(best, metric)}
    if study.told:
        return {"state": "failed", "reason": _reason(_last_failure(study, measured), study.ended)}
    return {"state": "unfinished", "reason": _reason(study.ended)}


def _shown(row: Row | None, metric: str) -> dict[str, Any]:
    """The columns that one measurement fills."""
    if row is None:
        return {}
    return {
        "backbone": row["trial_backbone_name"],
        "strategy": row["trial_strategy_name"],
        "validation": _score(row, "validation", metric),
        "parameters_trainable": row.get("counts_parameters_trainable"),
        "parameters_total": row.get("counts_parameters_total"),
        "macs": row.get("counts_macs"),
        "adapter_mib": _mib(row.get("counts_parameters_trainable")),
        "train_s": row.get("cost_total_s"),
        "key": row["key"],
        "recipe": canonical_json(row["trial_params"]),
        "question": canonical_json([row[name] for name in _QUESTION]),
    }


def _mib(parameters: int | None) -> float | None:
    """Of parameters in float32."""
    return None if parameters is None else 4 * parameters / 2**20


def _best(rows: Sequence[Row], part: str, metric: str) -> Row | None:
    """The row with the best score on `part`, the earliest of equals."""
    sign = 1 if higher_is_better(metric) else -1
    scored = [(sign * score, row) for row in rows if (score := _score(row, part, metric)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def fold_of(row: Row) -> int:
    """The fold that a trial validated on; stores of before there were folds have no such column."""
    return int(row.get("trial_fold") or 0)


def _score(row: Row, part: str, metric: str) -> float | None:
    value = row.get(f"scores_{part}_{metric}")
    return None if value is None else float(value)


def _finals_left(study: _Study, keys: Sequence[str], measured: Mapping[str, Row]) -> str | None:
    """What is missing of the finals with `keys`: failed ones with the last reason, else those still to do."""
    status = {key: measured[key]["status"] if key in measured else study.final_status.get(key) for key in keys}
    failed = [key for key in keys if status[key] not in (None, "complete")]
    if failed:
        return f"{len(failed)} of {len(keys)} finals failed: {_failure(measured.get(failed[-1]))}"
    waiting = sum(found is None for found in status.values())
    return f"{waiting} of {len(keys)} finals still to do" if waiting else None


def _last_failure(study: _Study, measured: Mapping[str, Row]) -> str:
    """Why a study whose trials gave no result gave none."""
    failed = [key for key, status in study.told.values() if status in ("failed", "excluded")]
    if failed:
        return _failure(measured.get(failed[-1]))
    return "every trial was pruned" if study.count("pruned") else "the measurements are not in this folder any more"


def _failure(row: Row | None) -> str:
    if row is None or row.get("failure_kind") is None:
        return "the reason was not recorded" if row is None else str(row["status"])
    return f"{row['failure_kind']}: {row['failure_message']}"


def _reason(*parts: str | None) -> str | None:
    return " ".join("; ".join(part for part in parts if part).split()) or None


def _ranks(frame: pd.DataFrame) -> pd.Series[Any]:
    """Ranks within each question asked of a data set; scores that differ by rounding alone are equal."""
    import pandas as pd

    ranks = pd.Series(pd.NA, index=frame.index, dtype="Int64")
    ranked = frame[frame["state"] == "final"]
    for (_, metric, _), group in ranked.groupby(["dataset", "metric", "question"]):
        scores = group["test"].astype(float).round(12)
        ranks[group.index] = scores.rank(method="min", ascending=not higher_is_better(str(metric))).astype("Int64")
    return ranks


def _place(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Where a row stands: by data set; ranked ones first, then by validation score, then what has none."""
    sign = -1 if higher_is_better(row["metric"]) else 1
    score = row["test"] if row["state"] == "final" else row["validation"]
    names = tuple(row[name] or "" for name in ("backbone", "strategy", "benchmark"))
    order = sign * score if score is not None else 0.0
    return row["dataset"], row["metric"], _STATES.index(row["state"]), row["question"] or "", order, names
