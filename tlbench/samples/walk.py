"""The walk: the visible files below a folder, and which of them are images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tlbench.errors import DataError

IMAGE_NAME = re.compile(
    r".\.(jpe?g|jpe|jfif|a?png|gif|webp|avif|bmp|dib|tiff?|p[bgpn]m|jp2|tga|hei[cf]|jxl)$", re.IGNORECASE
)
"""Files so named are taken for images. Fixed, so that one folder is the same data set with every Pillow.

Pillow by itself reads neither HEIC, which telephones write, nor JPEG XL: such files are told as ones that cannot be
used, where to pass over them in silence could lose a whole class.
"""


def image_files(folder: Path, *parents: Path) -> list[Path]:
    """Visible files below `folder` that are named like images, as `walk` finds them."""
    return [path for path in walk(folder, *parents) if IMAGE_NAME.search(path.name)]


def walk(folder: Path, *parents: Path) -> Iterator[Path]:
    """Visible files below `folder`. Links are followed, but no folder twice and none back to `parents`.

    Raises `DataError` where a folder cannot be read.
    """
    seen = {_identity(parent) for parent in parents}
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        identity = _identity(Path(place))
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def refuse(error: OSError) -> None:
    """Say in one line which folder cannot be read, as a `DataError`."""
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
