"""Parameters of a strategy's own: read from a recipe and checked, as the engine checks the reserved ones."""

from __future__ import annotations

from collections.abc import Sequence

from tlbench.errors import BenchmarkError
from tlbench.spaces import Params


def number(params: Params, name: str, low: float, high: float) -> float:
    """The number `name`, in [low, high]. Raises `BenchmarkError` for anything else."""
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BenchmarkError(f"parameter {name} = {value!r}: a number from {low:g} to {high:g} is needed")
    return float(value)


def positive(params: Params, name: str) -> float:
    """The finite number `name`, above 0. Raises `BenchmarkError` for anything else."""
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BenchmarkError(f"parameter {name} = {value!r}: a number above 0 is needed")
    return float(value)


def whole_number(params: Params, name: str, low: int, high: int) -> int:
    """The whole number `name`, in [low, high]. Raises `BenchmarkError` for anything else."""
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BenchmarkError(f"parameter {name} = {value!r}: a whole number from {low} to {high} is needed")
    return value


def choice(params: Params, name: str, choices: Sequence[str]) -> str:
    """The word `name`, one of `choices`. Raises `BenchmarkError` for anything else."""
    value = params[name]
    if value not in choices:
        raise BenchmarkError(f"parameter {name} = {value!r}: one of {', '.join(choices)} is needed")
    return str(value)
