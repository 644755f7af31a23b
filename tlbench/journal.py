"""The journal: what a run asked, was told and spent, one line of JSON per event, only ever added to."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tlbench.errors import StoreError
from tlbench.files import opened, sync

SCHEMA = 1
"""Version of the stored form."""

_HEADER = {"event": "journal", "schema": SCHEMA}
_BLOCK = 65536


@final
class Journal:
    """The events of one results folder.

    One process at a time appends: the one that holds `Store.lock`. A last line without its end, as a crash or a full
    disk leaves it, never happened: it is not read, and it is cut off before the next event is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event, on the disk when this returns. Raises `StoreError` where it cannot be written."""
        self.extend([event])

    def extend(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events, on the disk when this returns; a crash may leave the first of them only."""
        if not events:
            return
        lines = b"".join(map(_line, events))
        try:
            with opened(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
                self._append(file, lines)
        except OSError as error:
            raise StoreError(f"the journal '{self.path}' cannot be written: {error.strerror}") from error

    def events(self) -> list[dict[str, Any]]:
        """Every event in order, without the line that names the schema; none where there is no journal yet."""
        try:
            *lines, _ = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"the journal '{self.path}' cannot be read: {error.strerror}") from error
        events = [self._parse(line, number) for number, line in enumerate(lines, start=1)]
        if events:
            self._check_header(events[0])
        return events[1:]

    def _append(self, file: int, lines: bytes) -> None:
        size = os.fstat(file).st_size
        end = _end_of_last_line(file, size)
        if end != size:
            os.ftruncate(file, end)
        if end:
            header = os.pread(file, _BLOCK, 0).split(b"\n")[0]
            self._check_header(self._parse(header, 1))
        else:
            lines = _line(_HEADER) + lines
        try:
            if os.write(file, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
        if not end:
            sync(self.path.parent)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            message = f"line {number} of the journal '{self.path}' is damaged"
            raise StoreError(f"{message}: restore the file, or move it away to start the search anew")
        return event

    def _check_header(self, header: Mapping[str, Any]) -> None:
        schema = header.get("schema")
        if header.get("event") != "journal" or not isinstance(schema, int):
            raise StoreError(f"'{self.path}' is not a journal of tlbench: its first line does not say so")
        if schema > SCHEMA:
            message = f"the journal '{self.path}' has schema {schema} and this tlbench reads up to {SCHEMA}"
            raise StoreError(f"{message}: continue with the newer tlbench that wrote it")


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _end_of_last_line(file: int, size: int) -> int:
    """Where the last whole line ends: 0 where there is none."""
    while size:
        start = max(0, size - _BLOCK)
        found = os.pread(file, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0
