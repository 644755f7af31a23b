"""Files that survive a crash: written, synchronised and renamed, so that a name stands for a whole content."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part-"
"""What the name of a file or folder begins with until it is complete."""

_OLD = "-old-"
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def part_of(folder: Path) -> Path:
    """A new temporary name in `folder`."""
    return folder / f"{PART}{secrets.token_hex(8)}"


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    with opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def replace_folder(part: Path, target: Path) -> None:
    """Rename `part` to `target`, in place of the folder that has that name.

    No call replaces a folder that is not empty, so the old one gets another name first. A crash between the two renames
    is mended by `sweep`, an error at once.
    """
    olds: list[Path] = []
    try:
        while not _renamed(part, target):
            olds.append(target.with_name(f"{PART}{secrets.token_hex(8)}{_OLD}{target.name}"))
            with suppress(FileNotFoundError):  # another process replaces it at this moment
                target.rename(olds[-1])
        sync(target.parent)
    finally:
        for old in olds:
            _restore(old, target)
            discard(old)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path) -> None:
    """Remove what unfinished writes left in `folder`. Only while nobody writes there."""
    for part in folder.glob(f"{PART}*"):
        _, is_old, name = part.name.partition(_OLD)
        if is_old:
            _restore(part, folder / name)
        discard(part)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    """The file's descriptor, closed in the end."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _renamed(part: Path, target: Path) -> bool:
    """Whether `part` could be renamed; not where the target's name is taken."""
    try:
        part.rename(target)
    except OSError as error:
        if error.errno in _OCCUPIED:
            return False
        raise
    return True


def _restore(old: Path, target: Path) -> None:
    """Give back its name to what was to be replaced, if nothing has taken it."""
    if not target.exists():
        with suppress(OSError):
            old.rename(target)
