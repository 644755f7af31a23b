"""Arrays on the disk: what was written is found whole or not at all, whatever befalls files, processes and the disk."""

from __future__ import annotations

import errno
import gc
import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlbench.evaluation import arrays
from tlbench.evaluation.arrays import Arrays, row_of
from tlbench.evaluation.records import RECORD_BYTES, Cost

KEY = {"of": "a test", "version": 1}
ROWS = [row_of(f"sample {number}") for number in range(8)]
_spawn = multiprocessing.get_context("spawn")


def raise_it(error: OSError) -> None:
    raise error


def opened(folder: Path, key: dict[str, Any] | None = None, failed: Callable[[OSError], None] = raise_it) -> Arrays:
    folder.parent.mkdir(exist_ok=True)
    return Arrays(folder, key or KEY, failed)


def values(number: int) -> np.ndarray:
    """Texts' tokens: of one length each."""
    return np.arange(100 + number * 37, dtype=np.int32) * (number + 1)


def filled(folder: Path, numbers: Sequence[int] = range(8)) -> Arrays:
    entry = opened(folder)
    entry.put([ROWS[number] for number in numbers], [values(number) for number in numbers])
    return entry


def found(entry: Arrays) -> list[int]:
    """The rows that are there, each of which is whole."""
    there = [number for number, array in enumerate(entry.get(ROWS)) if array is not None]
    for number, array in zip(there, entry.get([ROWS[number] for number in there]), strict=True):
        assert array is not None
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, values(number))
    return there


# What is written is found


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0,), np.float32),
        np.zeros((3, 0, 2), np.uint8),
        np.array(7.5),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(24, dtype=">i8").reshape(2, 3, 2, 2),
        np.arange(12, dtype=np.complex64)[::-2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_comes_back_as_it_was(tmp_path: Path, array: np.ndarray) -> None:
    opened(tmp_path / "e").put(ROWS[:2], [array, np.ones(3)])
    back, other, none = opened(tmp_path / "e").get(ROWS[:3])
    assert back is not None
    assert other is not None
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert other.tolist() == [1, 1, 1]
    assert none is None


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros((1,) * 5), np.array([(1,)], "i4,")])
def test_what_no_record_describes_is_not_kept(tmp_path: Path, array: np.ndarray) -> None:
    entry = opened(tmp_path / "e")
    entry.put(ROWS[:2], [array, np.ones(3)])
    assert [row in entry for row in ROWS[:2]] == [False, True]
    assert entry.get(ROWS[:1]) == [None]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=6))
def test_rows_may_come_in_any_order_and_more_than_once(tmp_path: Path, steps: list[list[int]]) -> None:
    folder = tmp_path / str(next(_numbers))
    entries = [opened(folder), opened(folder)]
    for step, entry in zip(steps, itertools.cycle(entries), strict=False):
        entry.put([ROWS[number] for number in step], [values(number) for number in step])
    wanted = sorted(set(itertools.chain.from_iterable(steps)))
    assert [found(entry) for entry in (*entries, opened(folder))] == [wanted] * 3
    assert (folder / "index").stat().st_size == len(wanted) * RECORD_BYTES, "no row is written twice"


_numbers = itertools.count()


def test_a_row_carries_what_it_took(tmp_path: Path) -> None:
    costs = [Cost(seconds=number / 3, amount=number) for number in range(8)]
    opened(tmp_path / "e").put(ROWS, [values(number) for number in range(8)], costs)
    entry = opened(tmp_path / "e")
    found(entry)
    assert entry.costs(ROWS[5:]) == costs[5:]


def test_a_write_to_an_array_reaches_nobody_else(tmp_path: Path) -> None:
    entry = filled(tmp_path / "e")
    (array,) = entry.get(ROWS[:1])
    assert array is not None
    array[:] = -1
    found(opened(tmp_path / "e"))


def test_a_note_is_found_whole_or_not_at_all(tmp_path: Path) -> None:
    entry = opened(tmp_path / "e")
    assert entry.note() is None
    for note in ({"parameters": 7}, [1.5, None, "ü"]):
        entry.write_note(note)
        assert opened(tmp_path / "e").note() == note
    file = tmp_path / "e" / "note.json"
    content = file.read_bytes()
    for damaged in (b"", content[:-3], content.replace(b"1.5", b"1.6"), b"[]", b"\xff"):
        file.write_bytes(damaged)
        assert entry.note() is None
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["data", "index", "key.json", "note.json"]


# Keys


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"of":"another"}', b"\xff" * 40])
def test_an_entry_with_another_key_or_a_damaged_one_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    """Two keys with one hash, which never happens, or a folder that somebody renamed."""
    filled(tmp_path / "e")
    (tmp_path / "e" / "key.json").write_bytes(damage)
    entry = opened(tmp_path / "e")
    assert found(entry) == []
    entry.put(ROWS[:2], [values(0), values(1)])
    assert found(opened(tmp_path / "e")) == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("what", ["no key", "a file", "an empty folder", "a folder for a key"])
def test_a_place_that_is_taken_is_cleared(tmp_path: Path, what: str) -> None:
    place = tmp_path / "e"
    if what == "a file":
        place.write_text("x")
    elif what == "no key":
        filled(place)
        (place / "key.json").unlink()
    else:
        (place / "key.json" if what == "a folder for a key" else place).mkdir(parents=True)
    assert found(filled(place)) == list(range(8))


# Damage


@pytest.mark.parametrize("name", ["data", "index"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("while_open", [False, True])
def test_what_was_cut_off_is_missing_and_can_be_written_again(
    tmp_path: Path, name: str, share: float, while_open: bool
) -> None:
    entry = filled(tmp_path / "e")
    found(entry)
    file = tmp_path / "e" / name
    os.truncate(file, int(file.stat().st_size * share))
    entry = entry if while_open and name == "data" else opened(tmp_path / "e")
    left = found(entry)
    assert left == list(range(len(left)))
    assert len(left) < 8
    entry.put(ROWS, [values(number) for number in range(8)])
    for one in (entry, opened(tmp_path / "e")):
        assert found(one) == list(range(8))


@pytest.mark.parametrize("name", ["data", "index"])
@pytest.mark.parametrize("place", range(0, 1000, 97))
def test_a_wrong_byte_costs_one_row(tmp_path: Path, name: str, place: int) -> None:
    filled(tmp_path / "e")
    file = tmp_path / "e" / name
    content = bytearray(file.read_bytes())
    place %= len(content)
    content[place] ^= 0x20
    file.write_bytes(content)
    entry = opened(tmp_path / "e")
    left = found(entry)
    assert len(left) >= 7
    entry.put(ROWS, [values(number) for number in range(8)])
    assert found(entry) == found(opened(tmp_path / "e")) == list(range(8))


def test_noise_in_the_place_of_files_is_no_row(tmp_path: Path) -> None:
    filled(tmp_path / "e")
    for name in ("data", "index"):
        (tmp_path / "e" / name).write_bytes(np.random.default_rng(0).bytes(5000))
    entry = opened(tmp_path / "e")
    assert found(entry) == []
    entry.put(ROWS, [values(number) for number in range(8)])
    assert found(opened(tmp_path / "e")) == list(range(8))


@pytest.mark.parametrize("at", range(1, 8))
def test_a_process_that_is_killed_between_two_writes_leaves_whole_rows(tmp_path: Path, at: int) -> None:
    """Half of the `at`-th write reaches the disk and nothing after it."""
    writes = 0
    real = os.pwrite

    def pwrite(descriptor: int, content: Any, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes < at:
            return real(descriptor, content, offset)
        real(descriptor, content[: len(content) // 2], offset)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        entry = opened(tmp_path / "e")
        try:
            for start in range(0, 8, 2):
                entry.put(ROWS[start : start + 2], [values(start), values(start + 1)])
        except KeyboardInterrupt:
            pass
    del entry
    left = found(opened(tmp_path / "e"))
    assert len(left) >= (at - 1) // 2 * 2
    entry = opened(tmp_path / "e")
    entry.put(ROWS, [values(number) for number in range(8)])
    assert found(opened(tmp_path / "e")) == list(range(8))


# A disk that refuses


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("written", [0, 1])
def test_a_disk_that_refuses_is_told_and_leaves_no_half_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, written: int
) -> None:
    told: list[int | None] = []
    entry = opened(tmp_path / "e", failed=lambda error: told.append(error.errno))
    entry.put(ROWS[:2], [values(0), values(1)])
    size, real, calls = (tmp_path / "e" / "data").stat().st_size, os.pwrite, itertools.count()

    def pwrite(descriptor: int, content: Any, offset: int) -> int:
        if next(calls) < written:
            return real(descriptor, content[:100], offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert entry.put(ROWS[2:], [values(number) for number in range(2, 8)]) == 0
    assert entry.put(ROWS[2:], [values(number) for number in range(2, 8)]) == 0
    monkeypatch.undo()
    assert told == [code]
    assert (tmp_path / "e" / "data").stat().st_size == size
    assert found(entry) == found(opened(tmp_path / "e")) == [0, 1]


def test_a_map_that_the_system_refuses_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[OSError] = []
    filled(tmp_path / "e")
    entry = opened(tmp_path / "e", failed=told.append)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(arrays.mmap, "mmap", refuse)
    assert entry.get(ROWS) == [None] * 8
    assert len(told) == 1


def test_a_folder_that_is_cleared_while_it_is_open_goes_on(tmp_path: Path) -> None:
    entry = filled(tmp_path / "e", range(4))
    for file in (tmp_path / "e").iterdir():
        file.unlink()
    (tmp_path / "e").rmdir()
    entry.put(ROWS, [values(number) for number in range(8)])
    entry.write_note({})
    assert found(entry) == list(range(8))
    assert found(opened(tmp_path / "e")) == []


def test_files_are_closed_when_nobody_holds_the_entry(tmp_path: Path) -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    entry = filled(tmp_path / "e")
    (array,) = entry.get(ROWS[:1])
    del entry
    gc.collect()
    assert array is not None
    np.testing.assert_array_equal(array, values(0))
    del array
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Several processes


def _work(folder: str, seed: int, rounds: int) -> None:
    """Write rows and read them in an order of its own."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        entry = opened(Path(folder))
        for number in generator.permutation(8):
            entry.put([ROWS[number]], [values(int(number))])
            assert number in found(entry)


def test_processes_that_write_and_read_one_entry_never_see_half_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    workers = [_spawn.Process(target=_work, args=(str(folder), seed, 20)) for seed in range(3)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        found(opened(folder))
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert found(opened(folder)) == list(range(8))
    assert (folder / "index").stat().st_size == 8 * RECORD_BYTES
