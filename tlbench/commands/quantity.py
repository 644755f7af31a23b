"""Quantity: an option's number or time, as users write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import click

from tlbench.errors import QuantityError


@final
class Quantity(click.ParamType[float]):
    """A value that one of the parsers of `tlbench.quantities` reads."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read text, and leave a default that is a number as it is. Raises `QuantityError` with the option's name."""
        if not isinstance(value, str):
            return float(value)
        try:
            return self._parse(value)
        except QuantityError as error:
            raise QuantityError(f"{param.opts[0]}: {error}" if param else str(error)) from error
