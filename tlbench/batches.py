"""Batches: the results of jobs of many rows, a folder per job, looked up by the key of a row."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, final

from tlbench import parquet

if TYPE_CHECKING:
    from pyarrow import Table

TABLE = "measurements.parquet"
"""The file of a job's folder that makes it one of many rows."""

JSON = "json"
"""Its column that holds the whole measurement as text; the others are there to be read as a table."""

AT_HAND = 4
"""Jobs whose texts are kept in memory: some kilobytes a row."""

UNSETTLED_NS = 100_000_000
"""Two changes of a folder that lie closer than this may leave the same time on it."""


@final
class Batches:
    """What the tables in the folder of results hold: read anew where a file's time says that somebody wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed_ns: int | None = None
        self._others: set[str] = set()
        """Folders that are no job's of many rows."""

        self._rows: dict[str, tuple[int, frozenset[str]]] = {}
        """Time of the table and keys of its rows, by job, the latest last."""

        self._jobs: dict[str, str] = {}
        """The job that answers a row last, by the row's key."""

        self._texts: OrderedDict[str, tuple[int, Mapping[str, str]]] = OrderedDict()
        self._predicted: dict[str, tuple[int, frozenset[str]]] = {}

    def job_of(self, key: str) -> str | None:
        """The job that has the newest result of this row."""
        self._refresh()
        return self._jobs.get(key)

    def jobs_with(self, keys: Collection[str]) -> list[str]:
        """Every job that has a result of one of these rows."""
        self._refresh()
        known = [key for key in keys if key in self._jobs]
        return [job for job, (_, rows) in self._rows.items() if not rows.isdisjoint(known)] if known else []

    def rows(self) -> dict[str, list[str]]:
        """The keys of the rows of which a job has the newest result, by job."""
        self._refresh()
        found: dict[str, list[str]] = {}
        for key, job in self._jobs.items():
            found.setdefault(job, []).append(key)
        return found

    def stamps(self) -> dict[str, int]:
        """When each job's table was written, in nanoseconds, by job."""
        self._refresh()
        return {job: stamp for job, (stamp, _) in self._rows.items()}

    def texts(self, job: str) -> Mapping[str, str]:
        """The measurements of a job as JSON, by key; none where they are damaged."""
        stamp = _stamp(self.table(job))
        known = self._texts.get(job)
        if known is None or known[0] != stamp:
            table = parquet.read(self.table(job), ["key", JSON])
            known = stamp, {} if table is None else _pairs(table)
        self._texts[job] = known
        self._texts.move_to_end(job)
        while len(self._texts) > AT_HAND:
            self._texts.popitem(last=False)
        return known[1]

    def predicted(self, job: str) -> frozenset[str]:
        """The rows of a job whose predictions are kept."""
        stamp = _stamp(self.predictions(job))
        known = self._predicted.get(job)
        if known is None or known[0] != stamp:
            known = self._predicted[job] = stamp, _keys(self.predictions(job)) if stamp else frozenset()
        return known[1]

    def table(self, job: str) -> Path:
        """Where the measurements of a job are."""
        return self._folder / job / TABLE

    def predictions(self, job: str) -> Path:
        """Where the predictions of a job are, if any are kept."""
        return self._folder / job / "predictions.parquet"

    def _refresh(self) -> None:
        """Look for jobs that came, changed or went, where the folder has changed since that was done."""
        changed_ns = _stamp(self._folder)
        if changed_ns == self._listed_ns:
            return
        settled = time.time_ns() - changed_ns > UNSETTLED_NS
        names = {path.name for path in self._folder.glob("[!.]*")}
        self._others &= names
        stamps = {name: _stamp(self.table(name)) for name in names - self._others}
        self._others |= {name for name, stamp in stamps.items() if not stamp}
        found = {job: stamp for job, stamp in stamps.items() if stamp}
        if found != {job: stamp for job, (stamp, _) in self._rows.items()}:
            self._read(found)
        self._listed_ns = changed_ns if settled else None

    def _read(self, stamps: Mapping[str, int]) -> None:
        before, self._rows = self._rows, {}
        for job, stamp in sorted(stamps.items(), key=lambda pair: (pair[1], pair[0])):
            known = before.get(job)
            self._rows[job] = known if known is not None and known[0] == stamp else (stamp, _keys(self.table(job)))
        self._jobs = {key: job for job, (_, keys) in self._rows.items() for key in keys}


def _keys(path: Path) -> frozenset[str]:
    """The keys in a table; none where it is damaged."""
    table = parquet.read(path, ["key"])
    return frozenset() if table is None else frozenset(table["key"].to_pylist())


def _pairs(table: Table) -> dict[str, str]:
    return dict(zip(table["key"].to_pylist(), table[JSON].to_pylist(), strict=True))


def _stamp(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0
