"""Cells: the values of tables and of hub data sets as words."""

from __future__ import annotations

import math
from typing import Any


def word(value: Any) -> str:
    """A single value as text; empty where there is none. Raises `TypeError` for what holds several.

    A whole number is written without a fraction even where a gap elsewhere in its column made it a float.
    """
    if isinstance(value, str):
        return _unicode(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | dict | bytes):
        raise TypeError(f"{type(value).__name__} where a single value is needed")
    return str(value)


def _unicode(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON can spell and no encoding can, escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
