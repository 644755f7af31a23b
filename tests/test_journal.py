"""The journal: what was appended is read back, whatever a crash or a full disk did to the end of the file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlbench.errors import StoreError
from tlbench.journal import SCHEMA, Journal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.mark.usefixtures("quick_disk")
@given(events=EVENTS, torn=st.binary(max_size=40).filter(lambda tail: b"\n" not in tail), after=EVENTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_come_back_in_order_with_a_torn_line_between(
    path: Path, events: list[Any], torn: bytes, after: list[Any]
) -> None:
    path.unlink(missing_ok=True)
    for event in events:
        Journal(path).append(event)
    with path.open("ab") as file:
        file.write(torn)
    assert Journal(path).events() == events
    journal = Journal(path)
    for event in after:
        journal.append(event)
    assert journal.events() == events + after


@pytest.mark.usefixtures("quick_disk")
def test_cut_anywhere_the_whole_lines_remain_and_the_journal_goes_on(path: Path) -> None:
    events = [{"event": "ask", "number": number, "text": "é\u2028\n"} for number in range(3)]
    for event in events:
        Journal(path).append(event)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        kept = Journal(path).events()
        assert kept == events[: max(0, content[:size].count(b"\n") - 1)]
        Journal(path).append({"event": "next"})
        assert Journal(path).events() == [*kept, {"event": "next"}]


def test_a_torn_line_longer_than_what_is_read_at_once_is_cut_off(path: Path) -> None:
    Journal(path).append({"n": 1})
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    Journal(path).append({"n": 2})
    assert Journal(path).events() == [{"n": 1}, {"n": 2}]


def test_the_first_line_names_the_schema(path: Path) -> None:
    assert Journal(path).events() == []
    Journal(path).append({"event": "ask"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"event": "journal", "schema": SCHEMA},
        {"event": "ask"},
    ]


@pytest.mark.parametrize("damage", ['{"event": "a', "[1]", "\x00\x00", ""])
def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(path: Path, damage: str) -> None:
    for number in range(3):
        Journal(path).append({"n": number})
    lines = path.read_text().splitlines()
    lines[2] = damage
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StoreError, match=r"line 3 of the journal .*journal\.jsonl"):
        Journal(path).events()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (
            {"event": "journal", "schema": SCHEMA + 1},
            f"schema {SCHEMA + 1} and this tlbench reads up to {SCHEMA}.*newer",
        ),
        ({"event": "journal"}, "not a journal"),
        ({"event": "ask", "schema": 1}, "not a journal"),
    ],
)
def test_a_journal_of_another_kind_is_neither_read_nor_continued(
    path: Path, first: dict[str, Any], message: str
) -> None:
    content = json.dumps(first) + "\n"
    path.write_text(content)
    with pytest.raises(StoreError, match=message):
        Journal(path).events()
    with pytest.raises(StoreError, match=message):
        Journal(path).append({"n": 1})
    assert path.read_text() == content


def test_each_event_is_one_write_and_is_synchronised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(path).append({"n": 0})
    calls: list[str] = []
    write, fsync = os.write, os.fsync

    def counted_write(file: int, data: bytes) -> int:
        calls.append("write")
        return write(file, data)

    def counted_fsync(file: int) -> None:
        calls.append("fsync")
        fsync(file)

    monkeypatch.setattr(os, "write", counted_write)
    monkeypatch.setattr(os, "fsync", counted_fsync)
    Journal(path).append({"n": 1})
    assert calls == ["write", "fsync"]


@pytest.mark.parametrize("partial", [0, 5])
def test_a_full_disk_is_a_store_error_and_leaves_no_half_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, partial: int
) -> None:
    Journal(path).append({"n": 0})
    before = path.read_bytes()
    write = os.write

    def full(file: int, data: bytes) -> int:
        if not partial:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:partial])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="cannot be written: No space left") as caught:
        Journal(path).append({"n": 1})
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_bytes() == before
    Journal(path).append({"n": 2})
    assert Journal(path).events() == [{"n": 0}, {"n": 2}]


def test_not_a_number_is_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(path).append({"score": float("nan")})
    assert not path.exists()


def test_a_journal_that_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        Journal(tmp_path / "missing" / "journal.jsonl").append({})
    with pytest.raises(StoreError, match="cannot be read"):
        Journal(tmp_path).events()
