"""The disk: what a process finds and leaves in the caches, as far as the disk allows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np

from tlbench import caches
from tlbench.errors import CacheError
from tlbench.evaluation.arrays import Arrays
from tlbench.evaluation.records import Cost
from tlbench.trial import canonical_json

SCHEMA = 1
"""Raised when what was kept before is no longer to be found: it is part of every key."""

_CHECKS = 64
"""How often the caches' size is looked at until a process has written as much as they may take."""


@final
class Disk:
    """The caches as one process uses them. Whatever the disk refuses is said once and never an error."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is told, in one line, why something is not kept. Raises `QuantityError` for a limit that is none."""
        self._say, self._said = say, False
        self.limit_bytes = 0
        """What all caches together may take; 0: nothing is to be kept or found."""
        try:
            self.limit_bytes = caches.limit_bytes()
        except OSError as error:
            self.refused(error)
        self._open: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        self._unseen_bytes = 0
        self.writable = self.limit_bytes > 0

    def open(self, section: str, key: Mapping[str, Any]) -> Entry | None:
        """The entry of `key`; None where nothing can be kept."""
        name = hashlib.sha256(canonical_json({"schema": SCHEMA, **key}).encode()).hexdigest()
        place = f"{section}/{name}"
        entry = self._open.get(place)
        if entry is None and self.writable:
            try:
                arrays = Arrays(caches.open_section(section) / name, {"schema": SCHEMA, **key}, self.refused)
            except (OSError, CacheError) as error:
                self.refused(error)
                return None
            entry = self._open[place] = Entry(self, arrays)
        return entry

    def refused(self, error: OSError | CacheError) -> None:
        """Nothing more is written: say why, the first time."""
        reason = str(error) if isinstance(error, CacheError) else f"{caches.root()}: {error.strerror or error}"
        self._stop(f"no cache ({reason}): what it would hold is computed again in every run")

    def wrote(self, size_bytes: int) -> None:
        """Take note, and make room now and then."""
        self._unseen_bytes += size_bytes
        if self._unseen_bytes < self.limit_bytes / _CHECKS:
            return
        self._unseen_bytes = 0
        try:
            taken = caches.shrink(self.limit_bytes)
        except (OSError, CacheError) as error:
            self.refused(error)
            return
        if taken > self.limit_bytes:
            full = f"the cache holds its {caches.text(self.limit_bytes)}, all of it in use"
            self._stop(f"{full}: what else it could hold is computed again (TLBENCH_CACHE_LIMIT raises the limit)")

    def _stop(self, reason: str) -> None:
        self.writable = False
        if not self._said:
            self._said = True
            self._say(reason)


@final
class Entry:
    """An entry of a cache, written to as long as there is room."""

    def __init__(self, disk: Disk, arrays: Arrays) -> None:
        self._disk, self._arrays = disk, arrays
        self.get, self.costs, self.note = arrays.get, arrays.costs, arrays.note

    def __contains__(self, row: bytes) -> bool:
        """Whether the row was there when it was last looked for, or has been added since."""
        return row in self._arrays

    def put(self, rows: Sequence[bytes], arrays: Sequence[np.ndarray], costs: Sequence[Cost] | None = None) -> None:
        """Add those of `rows` that are not there yet."""
        if self._disk.writable:
            self._disk.wrote(self._arrays.put(rows, arrays, costs))

    def write_note(self, note: Any) -> None:
        """Leave some JSON about the whole entry."""
        if self._disk.writable:
            self._arrays.write_note(note)
