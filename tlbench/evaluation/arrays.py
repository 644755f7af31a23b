"""Arrays that outlive a process: an entry of a cache, which holds an array for each of its rows."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np

from tlbench import files
from tlbench.caches import KEY
from tlbench.evaluation.records import RECORD_BYTES, Cost, Record, fits, packed, unpacked
from tlbench.trial import canonical_json

_DATA, _INDEX, _NOTE = "data", "index", "note.json"
_ALIGNMENT = 64
"""Bytes: of a cache line, so that no number of an array lies across two."""

_NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python 3.11 does not name: a map larger than the memory is not refused."""


def row_of(name: str) -> bytes:
    """By what a sample's row is found: a hash of its id."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


@final
class Arrays:
    """One entry of a cache: arrays by row, written once and read through a map of the file that all processes share.

    Several processes and threads may read and write it at once. A row is there once its record is in the index, which
    is written after its data, and counts while both fit their checksums: what is corrupt, cut off or half-written is as
    if it were not there, and may be written again. An entry that is open in any process is in use: `caches.shrink`
    leaves it alone. `failed` is told what the disk refuses; from then on nothing is written.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], failed: Callable[[OSError], None]) -> None:
        """Open the entry of `key` in `folder`, which is made where it holds none. Raises `OSError`."""
        self._folder, self._failed, self._writable = folder, failed, True
        with ExitStack() as opened:
            self._held = opened.enter_context(_held(folder, canonical_json(key).encode()))
            self._data, self._index = (opened.enter_context(files.opened(folder / name)) for name in (_DATA, _INDEX))
            os.utime(self._held)
            weakref.finalize(self, opened.pop_all().close)
        self._lock = threading.RLock()
        self._map: mmap.mmap | None = None
        self._records: dict[bytes, Record] = {}
        self._sound: set[bytes] = set()
        self._read = 0

    def __contains__(self, row: bytes) -> bool:
        """Whether the row was there when it was last looked for, or has been added since."""
        return row in self._records

    def get(self, rows: Sequence[bytes]) -> list[np.ndarray | None]:
        """The arrays of `rows`, None for those that are not there. A write to one of them reaches nobody else."""
        with self._lock:
            try:
                self._refresh()
                return [self._array(row) for row in rows]
            except OSError as error:
                self._failed(error)
                return [None] * len(rows)

    def costs(self, rows: Sequence[bytes]) -> list[Cost]:
        """What `rows`, which are there, took when they were written."""
        with self._lock:
            return [self._records[row].cost for row in rows]

    def put(self, rows: Sequence[bytes], arrays: Sequence[np.ndarray], costs: Sequence[Cost] | None = None) -> int:
        """Add those of `rows` that are not there yet; how many bytes were written."""
        with self._lock:
            if not self._writable:
                return 0
            try:
                with self._locked(fcntl.LOCK_EX):
                    self._look()
                    return self._append(rows, arrays, costs or [Cost()] * len(rows))
            except OSError as error:
                self._writable = False
                self._failed(error)
                return 0

    def note(self) -> Any:
        """The JSON that `write_note` left; None where there is none or it is damaged."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((self._folder / _NOTE).read_bytes())
            if noted["sha256"] == _hash(noted["note"]):
                return noted["note"]
        return None

    def write_note(self, note: Any) -> None:
        """Leave some JSON about the whole entry, in place of what was there."""
        part = files.part_of(self._folder)
        try:
            if self._writable:
                part.write_text(canonical_json({"note": note, "sha256": _hash(note)}))
                part.replace(self._folder / _NOTE)
        except FileNotFoundError:  # somebody cleared the cache
            return
        except OSError as error:
            self._writable = False
            files.discard(part)
            self._failed(error)

    def _array(self, row: bytes) -> np.ndarray | None:
        record = self._records.get(row)
        content = None if record is None else self._content(record)
        if record is None:
            return None
        if content is None or (row not in self._sound and zlib.crc32(content.data) != record.checksum):
            del self._records[row]
            return None
        self._sound.add(row)
        return content.view(record.dtype).reshape(record.shape)

    def _content(self, record: Record) -> np.ndarray | None:
        """A row's bytes in the map, which grows with the file; None where they lie beyond its end."""
        if not record.nbytes:
            return np.empty(0, np.uint8)
        end = record.offset + record.nbytes
        if self._map is None or end > len(self._map):
            size = os.fstat(self._data).st_size
            if end > size:
                return None
            flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            self._map = mmap.mmap(self._data, size, flags, access)
        return np.frombuffer(self._map, np.uint8, record.nbytes, record.offset)

    def _refresh(self) -> None:
        """Learn of the rows that were added since the last look, and that the data were cut off, if they were."""
        if self._map is not None and os.fstat(self._data).st_size < len(self._map):
            self._map, self._sound = None, set()
        if os.fstat(self._index).st_size != self._read:
            with self._locked(fcntl.LOCK_SH):
                self._look()

    def _look(self) -> None:
        size = os.fstat(self._index).st_size // RECORD_BYTES * RECORD_BYTES
        if size < self._read:  # cut off by whoever damaged it
            self._read, self._records, self._sound = 0, {}, set()
        added = memoryview(os.pread(self._index, size - self._read, self._read))
        for start in range(0, len(added) // RECORD_BYTES * RECORD_BYTES, RECORD_BYTES):
            row, record = unpacked(added[start : start + RECORD_BYTES])
            if record is not None:
                self._records[row] = record
                self._sound.discard(row)
        self._read += len(added) // RECORD_BYTES * RECORD_BYTES

    def _append(self, rows: Sequence[bytes], arrays: Sequence[np.ndarray], costs: Sequence[Cost]) -> int:
        """Write data, then records, at the ends of the files; nothing of it counts if that fails on the way."""
        end = os.fstat(self._data).st_size
        start = position = _aligned(end)
        parts, records, seen = [], [], set[bytes]()
        for row, array, cost in zip(rows, arrays, costs, strict=True):
            if row in seen or not fits(array) or self._array(row) is not None:
                continue
            seen.add(row)
            content = np.ascontiguousarray(array).tobytes()
            records.append(packed(row, position, array, zlib.crc32(content), cost))
            parts += [content, bytes(-len(content) % _ALIGNMENT)]
            position += _aligned(len(content))
        try:
            _write(self._data, b"".join(parts), start)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._data, end)  # no record leads beyond it
            raise
        _write(self._index, b"".join(records), self._read)
        self._look()
        return position - start

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the index against writers, or against everybody."""
        fcntl.flock(self._index, kind)
        try:
            yield
        finally:
            fcntl.flock(self._index, fcntl.LOCK_UN)


@contextmanager
def _held(folder: Path, key: bytes) -> Iterator[int]:
    """The open file of an entry's key, by whose shared lock others see that it is in use.

    A folder that has another key, or none that can be read, makes room for a new one.
    """
    with ExitStack() as opened:
        while True:
            descriptor = _take(folder, opened)
            if descriptor is not None and os.pread(descriptor, len(key) + 1, 0) == key:
                break
            opened.close()
            if descriptor is not None or folder.exists():
                with suppress(FileNotFoundError):
                    part = files.part_of(folder.parent)
                    folder.rename(part)
                    files.discard(part)
            _make(folder, key)
        yield descriptor


def _take(folder: Path, opened: ExitStack) -> int | None:
    """The key's file with a shared lock on it; None where there is none, or where it was removed meanwhile."""
    try:
        descriptor = opened.enter_context(files.opened(folder / KEY, os.O_RDWR))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        same = os.path.samestat(os.fstat(descriptor), (folder / KEY).stat())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return descriptor if same else None


def _make(folder: Path, key: bytes) -> None:
    """An entry that has its key from the first moment on, unless another process was faster."""
    part = files.part_of(folder.parent)
    part.mkdir()
    try:
        (part / KEY).write_bytes(key)
        with suppress(FileExistsError):
            _rename_to_free(part, folder)
    finally:
        files.discard(part)


def _rename_to_free(part: Path, folder: Path) -> None:
    """Rename a folder to a name that is free. Raises `FileExistsError`."""
    try:
        part.rename(folder)
    except OSError as error:
        if folder.exists():
            raise FileExistsError(folder) from error
        raise


def _write(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of it: never through a map, where a full disk would be a signal and not an error."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _hash(note: Any) -> str:
    return hashlib.sha256(canonical_json(note).encode()).hexdigest()
