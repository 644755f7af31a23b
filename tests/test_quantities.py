"""Quantities: what users write, what is meant, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbench.errors import QuantityError
from tlbench.quantities import parse_count, parse_fraction, parse_milliseconds

POWERS = {"": 0, "k": 3, "M": 6, "G": 9, "B": 9, "T": 12}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("10M", 10_000_000),
        ("1.5e6", 1_500_000),
        ("1.5E+6", 1_500_000),
        ("7_000_000", 7_000_000),
        ("500k", 500_000),
        ("500K", 500_000),
        ("1G", 10**9),
        (" 5.4 M ", 5_400_000),
        ("1.1M", 1_100_000),  # 1.1 * 1e6 is 1100000.0000000002
        ("0.5b", 500_000_000),
        ("12T", 12 * 10**12),
    ],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count
    assert isinstance(parse_count(text), int)


@given(st.integers(1, 10**6), st.sampled_from(list(POWERS)))
def test_a_count_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert parse_count(f"{number}{unit}") == number * 10 ** POWERS[unit]
    assert parse_count(f"{number:_}{unit.lower()}") == number * 10 ** POWERS[unit]


@pytest.mark.parametrize(
    ("text", "fraction"), [("0.75", 0.75), ("75%", 0.75), ("82.6 %", 0.826), ("1", 1.0), ("7e-1", 0.7)]
)
def test_fractions(text: str, fraction: float) -> None:
    assert parse_fraction(text) == fraction


@pytest.mark.parametrize(
    ("text", "time_ms"), [("10ms", 10.0), ("0.5s", 500.0), ("250us", 0.25), ("250 µs", 0.25), ("2 S", 2e3)]
)
def test_times(text: str, time_ms: float) -> None:
    assert parse_milliseconds(text) == time_ms


@pytest.mark.parametrize("parse", [parse_count, parse_fraction, parse_milliseconds])
@pytest.mark.parametrize(
    "text", ["", "M", "ms", "ten", "-1", "0", "0ms", "1,5M", "1__0", "1_", "nan", "inf", "1e999", "1 0", "٣"]
)
def test_what_is_none_of_them_is_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(QuantityError, match="write one such as"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_count, "10ms"),
        (parse_count, "75%"),
        (parse_count, "0.5"),
        (parse_count, "1.5"),
        (parse_fraction, "75"),
        (parse_fraction, "101%"),
        (parse_fraction, "10M"),
        (parse_milliseconds, "10"),
        (parse_milliseconds, "10M"),
    ],
)
def test_another_kind_of_quantity_is_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(QuantityError, match=text):
        parse(text)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_count, parse_fraction, parse_milliseconds):
        with suppress(QuantityError):
            assert 0 < parse(text) < math.inf
