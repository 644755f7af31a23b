"""Caches: folders of what can be computed or fetched again, in sections under one root."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlbench.errors import CacheError, unknown_name
from tlbench.files import discard, part_of, write

SECTIONS = {
    "samples": "decoded and resized samples",
    "features": "features of frozen backbones",
    "states": "paused trainings",
}
"""What each folder under the root holds, by its name."""

TAG = "CACHEDIR.TAG"
"""Says of a folder that it is a cache (bford.info/cachedir): backups leave it out, and `clear` touches no other."""

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
