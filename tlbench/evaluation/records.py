"""Records: where a row of an entry of a cache lies, what kind of array it is and what it took."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, final

import numpy as np

_RECORD = struct.Struct("<16sQI8sB4Idd3x")
"""Row, offset, checksum, type, dimensions, shape, seconds, amount; its own checksum follows."""

_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECKSUM.size
_MOST_DIMENSIONS = 4


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a row once took."""

    seconds: float = 0.0
    amount: float = 0.0
    """In a unit of the writer's choice."""


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    """Where a row lies and what it is."""

    offset: int
    checksum: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    cost: Cost

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)


def unpacked(content: memoryview) -> tuple[bytes, Record | None]:
    """A row and its record; None for one that is damaged."""
    row, offset, checksum, dtype, dimensions, *shape, seconds, amount = _RECORD.unpack(content[: _RECORD.size])
    if _CHECKSUM.unpack(content[_RECORD.size :])[0] != zlib.crc32(content[: _RECORD.size]):
        return row, None
    return row, Record(
        offset=offset,
        checksum=checksum,
        dtype=_dtype(dtype),
        shape=tuple(shape[:dimensions]),
        cost=Cost(seconds=seconds, amount=amount),
    )


def packed(row: bytes, offset: int, array: np.ndarray, checksum: int, cost: Cost) -> bytes:
    """The record of an array that `fits`."""
    shape = [*array.shape, *[0] * (_MOST_DIMENSIONS - array.ndim)]
    dtype = array.dtype.str.encode()
    content = _RECORD.pack(row, offset, checksum, dtype, array.ndim, *shape, cost.seconds, cost.amount)
    return content + _CHECKSUM.pack(zlib.crc32(content))


def _dtype(name: bytes) -> np.dtype[Any]:
    return np.dtype(name.rstrip(b"\0").decode())


def fits(array: np.ndarray) -> bool:
    """Whether a record can describe the array: plain numbers of a few dimensions."""
    return array.dtype.kind in "biufc" and array.ndim <= _MOST_DIMENSIONS and max(array.shape, default=0) < 2**32
