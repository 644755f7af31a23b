"""The report: how soon each method's incumbent is good on test, over the seeds, and next to tlbench."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

REFERENCE = "tlbench"
NAIVE = "optuna"
RESAMPLES = 2000
FRACTIONS = (0.2, 0.4, 1.0)
"""Of the time: where accuracies are compared, 60, 120 and 300 s of 300."""


@final
@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: its incumbents' test accuracies over time."""

    method: str
    seed: int
    seconds: float
    times: Sequence[float]
    tests: Sequence[float]

    def at(self, seconds: float) -> float:
        """Test accuracy of the incumbent at a time; 0 where there is none."""
        return next((test for time, test in zip(self.times[::-1], self.tests[::-1], strict=True) if time <= seconds), 0)

    def reaches(self, target: float) -> float | None:
        """When the incumbent's test accuracy is at a target for the first time; None: not in its time."""
        return next((time for time, test in zip(self.times, self.tests, strict=True) if test >= target), None)


@final
@dataclass(frozen=True, kw_only=True)
class Median:
    """The median time of several runs, those that never get there counted as the latest of all."""

    middle: float
    low: float
    high: float
    """95 %, by resampling the runs."""

    censored: int
    restricted_mean: float
    """A run that never gets there counts with its whole time."""

    def text(self, limit: float) -> str:
        """As a cell of a table."""
        shown = f"{_limited(self.middle, limit)} [{_limited(self.low, limit)}, {_limited(self.high, limit)}]"
        return shown + (f", {self.censored} never" if self.censored else "")


def targets(runs: Sequence[Run], probe: float, best: float | None = None) -> dict[str, float]:
    """What test accuracy is to be reached: the best linear probe's, 99 % of the best known, the naive search's last.

    `best`: None for the best that any method ends with, in the mean over its seeds.
    """
    last = {method: float(np.mean([run.at(run.seconds) for run in own])) for method, own in by_method(runs).items()}
    named = {
        "best linear probe": probe,
        "99 % of the best": 0.99 * (max([probe, *last.values()]) if best is None else best),
    }
    return {**named, **({f"{NAIVE}'s last": last[NAIVE]} if NAIVE in last else {})}


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each method, in their order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def median_time(runs: Sequence[Run], target: float, seed: int = 0) -> Median:
    """Until the target, over the runs of one method."""
    limit = runs[0].seconds
    reached = [run.reaches(target) for run in runs]
    times = np.array([2 * limit if time is None else time for time in reached])
    drawn = _resampled(len(runs), seed)
    low, high = np.quantile(np.median(times[drawn], axis=1), (0.025, 0.975))
    return Median(
        middle=float(np.median(times)),
        low=float(low),
        high=float(high),
        censored=int((times > limit).sum()),
        restricted_mean=float(np.minimum(times, limit).mean()),
    )


def ratio(runs: Sequence[Run], to: Sequence[Run], target: float) -> tuple[float, float, float, bool]:
    """How many times as long as `to` the runs take, by medians, with 95 % by resampling; whether it is a least value.

    A run that never gets there counts with its whole time: the ratio is then at least what is said.
    """
    limit = runs[0].seconds
    mine, theirs = (np.array([_capped(run, target) for run in own]) for own in (runs, to))
    ratios = np.median(mine[_resampled(len(mine), 0)], axis=1) / np.median(theirs[_resampled(len(theirs), 1)], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    middle = float(np.median(mine) / np.median(theirs))
    return middle, float(low), float(high), bool(np.median(mine) >= limit)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all settings in the records."""
    settings = [record["setting"] for record in records]
    distinct = [setting for place, setting in enumerate(settings) if setting not in settings[:place]]
    of_each = ([record for record in records if record["setting"] == setting] for setting in distinct)
    return "\n\n".join("\n".join(_of_setting(own)) for own in of_each)


def compared(runs: Sequence[Run], aims: Mapping[str, float]) -> Iterator[str]:
    """The lines of the tables: accuracies over time, then times to each target."""
    limit, methods = runs[0].seconds, by_method(runs)
    moments = [fraction * limit for fraction in FRACTIONS]
    yield "| method | searches | " + " | ".join(f"test accuracy at {moment:.0f} s" for moment in moments) + " |"
    yield "|---|--:|" + "--:|" * len(moments)
    for method, own in methods.items():
        yield (
            f"| {method} | {len(own)} | "
            + " | ".join(_spread([run.at(moment) for run in own]) for moment in moments)
            + " |"
        )
    yield ""
    yield "| target | method | median time, s [95 %] | restricted mean, s | times as long as tlbench [95 %] |"
    yield "|---|---|--:|--:|--:|"
    for name, target in aims.items():
        for method, own in methods.items():
            found = median_time(own, target)
            yield (
                f"| {name}: {target:.3f} | {method} | {found.text(limit)} | {found.restricted_mean:.1f} | "
                f"{_ratio_text(own, methods.get(REFERENCE), target)} |"
            )


def _of_setting(own: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    runs = [_run(record) for record in own if record["method"] != "probe"]
    probe = next(record["test"] for record in own if record["method"] == "probe")
    setting, machine = own[0]["setting"], own[0]["machine"]
    size = "" if setting["data"] == "sst2" else f", {setting['size']} px"
    yield (
        f"{setting['data']}: {setting['shots']} training samples a class{size}, {setting['epochs']} epochs at most; "
        f"{machine['processor']}, {setting['threads']} threads; torch {machine['torch']}, optuna {machine['optuna']}, "
        f"ray {machine['ray']}; {own[-1]['date_utc']} UTC"
    )
    if runs:
        yield ""
        yield from compared(runs, targets(runs, probe))


def _run(record: Mapping[str, Any]) -> Run:
    return Run(
        method=record["method"],
        seed=record["seed"],
        seconds=record["seconds"],
        times=[point["elapsed_s"] for point in record["curve"]],
        tests=[point["test"] for point in record["curve"]],
    )


def _ratio_text(own: Sequence[Run], reference: Sequence[Run] | None, target: float) -> str:
    if not reference:
        return ""
    middle, low, high, is_least = ratio(own, reference, target)
    return f"{'at least ' * is_least}{middle:.1f} [{low:.1f}, {high:.1f}]"


def _capped(run: Run, target: float) -> float:
    found = run.reaches(target)
    return run.seconds if found is None else max(found, 1e-9)


def _resampled(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _spread(values: Sequence[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f}" + (f" ± {error:.3f}" if len(values) > 1 else "")


def _limited(seconds: float, limit: float) -> str:
    return f"{seconds:.1f}" if seconds <= limit else f"> {limit:.0f}"
