"""Caches: folders of what can be computed or fetched again, in sections under one root."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tlbench.errors import CacheError, QuantityError, unknown_name
from tlbench.files import PART, discard, opened, part_of, write
from tlbench.quantities import parse_bytes

SECTIONS = {
    "samples": "decoded and resized samples",
    "features": "features of frozen backbones",
    "states": "paused and ended trainings",
    "formats": "which number format a network is fastest in",
    "sealed": "decoded test samples and their features, for finals alone",
}
"""What each folder under the root holds, by its name."""

TAG = "CACHEDIR.TAG"
"""Says of a folder that it is a cache (bford.info/cachedir): backups leave it out, and `clear` touches no other."""

KEY = "key.json"
"""In an entry, which is a folder in a section: what the entry is for. The file's time is that of the last use, and a
shared lock on it says that the entry is in use."""

LIMIT_BYTES = 20 * 2**30
"""What all sections together may take unless TLBENCH_CACHE_LIMIT says otherwise, and no more than half of what the disk
would have left without them."""

_CRASHED_S = 3600.0
"""From which age on a folder with a temporary name is what a crash left."""

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of tlbench: 'tlbench cache clear' removes it.\n"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section as it is on the disk."""

    name: str
    summary: str
    path: Path
    files: int
    size_bytes: int


def root() -> Path:
    """The folder of all sections: TLBENCH_CACHE, or `tlbench` in the user's cache folder. It need not be there."""
    own = os.environ.get("TLBENCH_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    users = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (users if users.is_absolute() else Path("~/.cache").expanduser()) / "tlbench"


def open_section(name: str) -> Path:
    """The folder of a section, made if it is not there. Raises `CacheError` where it cannot be used."""
    path = _path(name)
    try:
        root().mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        elif not (path / TAG).exists():
            if any(path.iterdir()):
                raise CacheError(f"'{path}' was not made by tlbench: let TLBENCH_CACHE name another folder")
            write(path / TAG, _TAG)
        if not os.access(path, os.W_OK | os.X_OK):
            raise CacheError(f"the cache '{path}' cannot be written: let TLBENCH_CACHE name another folder")
    except OSError as error:
        reason = f"cannot make the cache '{path}': {error.strerror}"
        raise CacheError(f"{reason}; let TLBENCH_CACHE name another folder") from error
    return path


def check(name: str | None) -> None:
    """Refuse what is no section's name; None stands for all of them. Raises `UnknownNameError`."""
    if name is not None:
        _path(name)


def sections() -> list[Section]:
    """Every section that is there. Raises `CacheError` for a root that cannot be read."""
    return [_measured(name) for name in SECTIONS if _is_ours(_path(name))]


def clear(name: str) -> None:
    """Remove a section with all that is in it, and nothing a link points to. Raises `CacheError` where it cannot."""
    path = _path(name)
    if not _is_ours(path):
        return
    try:
        shutil.rmtree(path)  # refuses a link, and unlinks those inside
    except OSError as error:
        where = error.filename or path
        raise CacheError(f"cannot clear the cache '{path}': {where}: {error.strerror}") from error


def limit_bytes() -> int:
    """What all sections together may take; 0: nothing is to be kept. Raises `QuantityError`."""
    given = os.environ.get("TLBENCH_CACHE_LIMIT")
    if given:
        try:
            return parse_bytes(given)
        except QuantityError as error:
            raise QuantityError(f"TLBENCH_CACHE_LIMIT: {error}") from error
    there = next(parent for parent in (root(), *root().parents) if parent.exists())
    taken = sum(size(_path(name))[1] for name in SECTIONS)
    return min(LIMIT_BYTES, (shutil.disk_usage(there).free + taken) // 2)


def shrink(limit: int) -> int:
    """Remove whole entries, those used longest ago first, until all sections keep to the limit; what they still take.

    An entry in use by any process stays, as does what cannot be removed.
    """
    entries = [
        entry for name in SECTIONS if _is_ours(_path(name)) for entry in _path(name).iterdir() if _is_entry(entry)
    ]
    taken = {entry: size(entry)[1] for entry in entries}
    total = sum(taken.values())
    for entry in sorted(entries, key=_last_use):
        if total <= limit:
            break
        if _evicted(entry):
            total -= taken[entry]
    return total


def size(path: Path) -> tuple[int, int]:
    """How many files a folder holds and how many bytes they have; links are not followed, what is unreadable is 0."""
    sizes = list(_sizes(path))
    return len(sizes), sum(sizes)


def text(size_bytes: float) -> str:
    """A size as a reader sees it."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def _path(name: str) -> Path:
    """Where a section is. Raises `UnknownNameError` for any other name: no name leads out of the root."""
    if name not in SECTIONS:
        raise unknown_name("section of the cache", name, SECTIONS, "tlbench cache list")
    return root() / name


def _make(path: Path) -> None:
    """A section that has its tag from the first moment on."""
    part = part_of(path.parent)
    part.mkdir()
    try:
        write(part / TAG, _TAG)
        if not path.exists():
            part.rename(path)
    except OSError:
        if not (path / TAG).exists():  # else another process was faster
            raise
    finally:
        discard(part)


def _is_ours(path: Path) -> bool:
    """Whether this is a section that tlbench made. Raises `CacheError` where that cannot be known, or it is a link."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        if path.is_symlink():
            raise CacheError(f"the cache '{path}' is a link to '{path.readlink()}': tlbench leaves it alone")
        return is_folder and (path / TAG).exists()
    except FileNotFoundError:
        return False
    except OSError as error:  # a root that is a file, or unreadable
        raise CacheError(f"cannot read the cache '{root()}': {error.strerror}") from error


def _is_entry(path: Path) -> bool:
    """Whether this is an entry, or what a crash left of one; what is being made at this moment is none yet."""
    made_s = time.time() - _last_use(path) if path.name.startswith(PART) else _CRASHED_S
    return path.is_dir() and made_s >= _CRASHED_S


def _last_use(entry: Path) -> float:
    """When an entry was last opened; of one without a key, when it was last written to."""
    for path in (entry / KEY, entry):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _evicted(entry: Path) -> bool:
    """Whether an entry could be removed: under another name first, so that nobody opens half of it."""
    part = part_of(entry.parent)
    try:
        with opened(entry / KEY, os.O_RDWR) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entry.rename(part)
    except FileNotFoundError:  # without a key nobody uses it
        with suppress(OSError):
            entry.rename(part)
    except OSError:
        return False
    discard(part)
    return not part.exists()


def _measured(name: str) -> Section:
    path = _path(name)
    files, size_bytes = size(path)
    return Section(name=name, summary=SECTIONS[name], path=path, files=files - 1, size_bytes=size_bytes)


def _sizes(path: Path) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield (Path(folder) / name).lstat().st_size
            except OSError:  # gone since, or unreadable
                yield 0
