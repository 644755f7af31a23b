"""The course of a staged search, read from its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlbench.journal import Journal
from tlbench.leaderboard.course import courses

CELL = {"backbone": None, "strategy": None, "dataset": "data/digits"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"event": "opened", "study": "s", "cell": CELL, "arms": 4})
    return journal


def test_what_happened_is_told(tmp_path: Path, journal: Journal) -> None:
    journal.append({"event": "stage", "study": "s", "stage": "screen", "what": "", "spent_s": 1.0})
    for number in range(7):
        reason = f"reason {number}"
        journal.append({"event": "dropped", "study": "s", "backbone": f"b{number}", "reason": reason, "spent_s": 2.0})
    journal.append({"event": "stage", "study": "s", "stage": "tune", "what": "", "spent_s": 31.0})
    journal.append({"event": "stage", "study": "s", "stage": "screen", "what": "", "spent_s": 71.0})
    journal.append({"event": "screened", "study": "s", "tau": 0.6, "order": ["b8", "b9"], "spent_s": 90.0})
    journal.append({"event": "told", "study": "s", "number": 0, "key": "k", "status": "complete", "spent_s": 91.0})
    (course,) = courses(tmp_path)
    assert course.dataset == "data/digits"
    first, second, third = course.lines()
    assert "2 backbones" in first
    assert "0.60" in first
    assert "b0: reason 0" in second
    assert second.endswith("and 2 more")
    assert third == "time: screen 50 s, tune 40 s"


def test_the_time_between_two_runs_is_no_stage_s(tmp_path: Path, journal: Journal) -> None:
    stage = {"event": "stage", "study": "s", "what": ""}
    journal.append({**stage, "stage": "screen", "spent_s": 1.0})
    journal.append({**stage, "stage": "tune", "spent_s": 11.0})
    told = {"event": "told", "study": "s", "number": 0, "key": "k", "status": "complete"}
    journal.append({**told, "spent_s": 21.0})
    journal.append({"event": "opened", "study": "s", "cell": CELL, "arms": 4})
    journal.append({**stage, "stage": "screen", "spent_s": 50.0})
    journal.append({**stage, "stage": "tune", "spent_s": 51.0})
    journal.append({**told, "spent_s": 81.0})
    (course,) = courses(tmp_path)
    assert course.lines() == ["time: screen 11 s, tune 40 s"]


def test_a_run_that_goes_on_drops_anew(tmp_path: Path, journal: Journal) -> None:
    dropped = {"event": "dropped", "study": "s", "spent_s": 2.0}
    journal.append({**dropped, "backbone": "b0", "reason": "looking at it failed: no weights"})
    journal.append({"event": "opened", "study": "s", "cell": CELL, "arms": 4})
    journal.append({"event": "stage", "study": "s", "stage": "tune", "what": "", "spent_s": 3.0})
    journal.append({**dropped, "backbone": "b1", "strategy": "full", "reason": "no recipe: KeyError: 'layers'"})
    (course,) = courses(tmp_path)
    assert course.dropped == {"b1 full": "no recipe: KeyError: 'layers'"}


def test_the_finals_of_the_defaults_are_known(tmp_path: Path, journal: Journal) -> None:
    journal.append({"event": "stage", "study": "s", "stage": "finals", "what": "", "spent_s": 1.0})
    journal.append({"event": "finals", "study": "s", "keys": [["a"], ["b"]], "selected": ["c"], "defaults": ["b"]})
    (course,) = courses(tmp_path)
    assert course.defaults == ["b"]


def test_a_plain_search_has_none(tmp_path: Path, journal: Journal) -> None:
    journal.append(
        {
            "event": "told",
            "study": "s",
            "number": 0,
            "key": "k",
            "stage": "search",
            "status": "complete",
            "spent_s": 1.0,
        }
    )
    assert courses(tmp_path) == []


def test_a_run_with_more_time_forgets_what_an_earlier_one_dropped(tmp_path: Path, journal: Journal) -> None:
    reason = "there was no time to look at it"
    journal.append({"event": "stage", "study": "s", "stage": "screen", "what": "", "spent_s": 1.0})
    for name in ("b0", "b1"):
        journal.append({"event": "dropped", "study": "s", "backbone": name, "reason": reason, "spent_s": 2.0})
    journal.append({"event": "opened", "study": "s", "cell": CELL, "arms": 4})
    journal.append({"event": "dropped", "study": "s", "backbone": "b1", "reason": reason, "spent_s": 9.0})
    (course,) = courses(tmp_path)
    assert course.dropped == {"b1": reason}
    assert "screen" in dict(course.stages)
