"""Quantities: numbers and times as users write them, such as `10M`, `75%` or `10ms`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from tlbench.errors import QuantityError

_QUANTITY = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)(?:e([+-]?[0-9]{1,3}))?\s*([a-zµ%]*)", re.IGNORECASE)

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)

# Powers of ten by unit.
_COUNTS = {"": 0, "k": 3, "m": 6, "g": 9, "b": 9, "t": 12}
_FRACTIONS = {"": 0, "%": -2}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_TIMES = {"us": -3, "µs": -3, "ms": 0, "s": 3}


def parse_count(text: str) -> int:
    """Read a whole number above 0 such as `10M`, `1.5e6`, `500k` or `7_000_000`. Raises `QuantityError`."""
    count = _read(text, _COUNTS)
    if count is None or not count.is_integer():
        raise QuantityError(f"'{text}' is not a whole number above 0: write one such as 10M, 1.5e6, 500k or 7_000_000")
    return int(count)


def parse_fraction(text: str) -> float:
    """Read a fraction above 0 and up to 1, such as `0.75` or `75%`. Raises `QuantityError`."""
    fraction = _read(text, _FRACTIONS)
    if fraction is None or fraction > 1:
        raise QuantityError(f"'{text}' is not a fraction above 0 and up to 1: write one such as 0.75 or 75%")
    return fraction


def parse_bytes(text: str) -> int:
    """Read a size with its unit such as `5GiB` or `500MB`, or 0. Raises `QuantityError`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _BYTES or (not match[2] and float(match[1])):
        raise QuantityError(f"'{text}' is not a size with its unit: write one such as 5GiB or 500MB, or 0")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def parse_milliseconds(text: str) -> float:
    """Read a time above 0 with its unit, such as `10ms`, `0.5s` or `250us`. Raises `QuantityError`."""
    time_ms = _read(text, _TIMES)
    if time_ms is None:
        raise QuantityError(f"'{text}' is not a time with its unit: write one such as 10ms, 0.5s or 250us")
    return time_ms


def _read(text: str, units: Mapping[str, int]) -> float | None:
    """Put the unit into the exponent, which reads `1.1M` as exactly 1,100,000; None for what is no such quantity."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[3].lower() not in units:
        return None
    value = float(f"{match[1]}e{int(match[2] or 0) + units[match[3].lower()]}")
    return value if 0 < value < math.inf else None
