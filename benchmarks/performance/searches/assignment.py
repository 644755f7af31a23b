"""An assignment: what a method is given, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from searches.incumbents import Incumbents
from searches.setting import Samples, Setting


@final
@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A search to be done."""

    setting: Setting
    parts: Mapping[str, Samples]
    """Training and validation."""

    classes: int
    incumbents: Incumbents
    seed: int
    seconds: float
    """Since the method was started."""
