"""The disk as one process uses it: what is kept, what makes room for it, and what is said where nothing can be kept."""

from __future__ import annotations

import errno
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlbench import caches
from tlbench.errors import QuantityError
from tlbench.evaluation.arrays import row_of
from tlbench.evaluation.disk import Disk

ROW = row_of("a sample")
_spawn = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said() -> list[str]:
    return []


def keep(disk: Disk, name: str, kib: int = 1, section: str = "features") -> None:
    """An entry of this size."""
    entry = disk.open(section, {"name": name})
    assert entry is not None
    entry.put([ROW], [np.zeros(kib * 1024, np.uint8)])


def kept(disk: Disk, *names: str) -> list[str]:
    """The names whose entries have something; looking makes entries for the others, so it ends a test."""
    entries = {name: disk.open("features", {"name": name}) for name in names}
    return [name for name, entry in entries.items() if entry is not None and entry.get([ROW])[0] is not None]


def age(*names: str) -> None:
    """Let entries have been used one after the other, the first longest ago."""
    for path in caches.root().glob("*/*/key.json"):
        name = path.read_text().split('"name":"')[1].split('"')[0]
        if name in names:
            os.utime(path, (1000 + names.index(name),) * 2)


def test_what_one_process_kept_another_finds() -> None:
    keep(Disk(), "a")
    assert kept(Disk(), "a", "b") == ["a"]


def test_a_process_opens_an_entry_once() -> None:
    disk = Disk()
    entry = disk.open("features", {"name": "a"})
    assert disk.open("features", {"name": "a"}) is entry
    assert disk.open("samples", {"name": "a"}) is not entry
    assert disk.open("features", {"name": "b"}) is not entry


# Room


def test_what_was_used_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcde":
        keep(Disk(), name, kib=100)
    age("c", "a", "e", "b", "d")
    disk = Disk()
    assert kept(disk, "c") == ["c"], "opening is a use"
    del disk
    assert caches.shrink(350 * 1024) <= 350 * 1024
    assert kept(Disk(), *"abcde") == ["b", "c", "d"]


def test_all_sections_share_one_limit() -> None:
    for name, section in zip("abc", caches.SECTIONS, strict=False):
        keep(Disk(), name, kib=100, section=section)
    age("b", "c", "a")
    caches.shrink(150 * 1024)
    assert [one.name for one in caches.sections() if one.size_bytes > 100_000] == ["samples"]


def test_what_is_in_use_stays(said: list[str]) -> None:
    for name in "ab":
        keep(Disk(), name, kib=100)
    age("a", "b")
    holder = Disk()
    entry = holder.open("features", {"name": "a"})
    age("a", "b")
    caches.shrink(150 * 1024)
    assert entry is not None
    assert kept(Disk(), "a", "b") == ["a"]
    assert caches.shrink(0) >= 100 * 1024
    del entry
    assert caches.shrink(0) < 10 * 1024


def _hold(connection: Connection) -> None:
    entry = Disk().open("features", {"name": "a"})
    connection.send(entry is not None)
    connection.recv()


def test_what_another_process_uses_stays() -> None:
    keep(Disk(), "a", kib=100)
    here, there = _spawn.Pipe()
    process = _spawn.Process(target=_hold, args=(there,))
    process.start()
    assert here.recv() is True
    assert caches.shrink(0) >= 100 * 1024
    here.send("end")
    process.join()
    assert caches.shrink(0) < 10 * 1024


def test_writing_makes_room_by_itself(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "1MiB")
    disk = Disk(said.append)
    for number in range(30):
        keep(disk, f"{number:02}", kib=100)
        age(*(f"{other:02}" for other in range(number + 1)))
    assert sum(one.size_bytes for one in caches.sections()) <= 1.1 * 2**20
    names = [f"{number:02}" for number in range(30)]
    assert kept(Disk(), *names) == names[-10:]
    assert said == []


def test_entries_in_use_that_reach_the_limit_end_the_writing(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "100KiB")
    disk = Disk(said.append)
    entries = [disk.open("features", {"name": str(number)}) for number in range(5)]
    for entry in entries:
        assert entry is not None
        entry.put([ROW], [np.zeros(60 * 1024, np.uint8)])
    assert said == [
        "the cache holds its 100 KiB, all of it in use: what else it could hold is computed again "
        "(TLBENCH_CACHE_LIMIT raises the limit)"
    ]
    assert sum(one.size_bytes for one in caches.sections()) < 130 * 1024


def test_what_a_crash_left_makes_room_and_what_is_being_made_does_not(root: Path) -> None:
    section = caches.open_section("features")
    for name in ("old", "new"):
        (section / f".part-{name}").mkdir()
        (section / f".part-{name}" / "data").write_bytes(bytes(2000))
    os.utime(section / ".part-old", (1000, 1000))
    caches.shrink(0)
    assert [path.name for path in section.glob(".part-*")] == [".part-new"]


def test_the_limit_is_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLBENCH_CACHE_LIMIT", raising=False)
    usage = type("Usage", (), {"free": 6 * 2**30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert caches.limit_bytes() == 3 * 2**30
    keep(Disk(), "a", kib=1024)
    assert 3 * 2**30 + 2**19 <= caches.limit_bytes() < 3 * 2**30 + 2**20, "what it holds already is room"
    usage.free = 2**50
    assert caches.limit_bytes() == 20 * 2**30
    for text, limit in {"5GiB": 5 * 2**30, "500 MB": 5 * 10**8, "1.5kib": 1536, "0": 0, "7b": 7}.items():
        monkeypatch.setenv("TLBENCH_CACHE_LIMIT", text)
        assert caches.limit_bytes() == limit
    for text in ("much", "5", "-1GiB", "5 parsecs"):
        monkeypatch.setenv("TLBENCH_CACHE_LIMIT", text)
        with pytest.raises(QuantityError, match=f"TLBENCH_CACHE_LIMIT: '{text}' is not a size with its unit"):
            Disk()


def test_a_limit_of_0_keeps_nothing_and_says_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "0")
    assert Disk(said.append).open("features", {}) is None
    assert said == []
    assert not root.exists()


# A disk that refuses


@pytest.mark.parametrize("what", ["a file for a root", "foreign files", "read-only"])
def test_a_cache_that_cannot_be_opened_is_said_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], what: str
) -> None:
    if what == "a file for a root":
        root.write_text("")
    elif what == "foreign files":
        (root / "features").mkdir(parents=True)
        (root / "features" / "thesis.txt").touch()
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may be root, whom no mode stops
    disk = Disk(said.append)
    assert [disk.open("features", {"name": name}) for name in "ab"] == [None, None]
    assert len(said) == 1
    assert said[0].startswith("no cache (")
    assert str(root) in said[0]
    assert "\n" not in said[0]


def test_a_full_disk_is_said_once_and_what_is_there_is_still_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    disk = Disk(said.append)
    keep(disk, "a")
    entries = [disk.open("features", {"name": name}) for name in "abc"]

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    for entry in entries:
        assert entry is not None
        entry.put([row_of("another")], [np.ones(3)])
        entry.write_note({"a": 1})
    expected = f"no cache ({root}: No space left on device): what it would hold is computed again in every run"
    assert said == [expected]
    assert [entry and entry.get([ROW])[0] is not None for entry in entries] == [True, False, False]
    assert disk.open("features", {"name": "d"}) is None
