"""Paused trainings on the disk: whole or not there, and never another trajectory's."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pieces
from test_trial import OTHER, TRIAL
from tlbench import caches, files
from tlbench.evaluation import states as states_module
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.snapshot import Snapshot
from tlbench.evaluation.states import KEPT, States, trajectory

KEY = trajectory(TRIAL, pieces.CPU)


def states(key: Mapping[str, Any] = KEY) -> States:
    return States(key, Disk())


@pytest.fixture(autouse=True)
def untold() -> None:
    """Nothing was told yet in this process."""
    states_module._tell.cache_clear()


def snapshot(value: int = 1) -> Snapshot:
    tensors = {"whole": torch.full((3, 5), float(value)), "scalar": torch.tensor(value), "none": torch.zeros(0)}
    return Snapshot(tensors=tensors, facts={"counters": {"value": value, "third": 1 / 3, "nothing": None}})


def value(found: Snapshot) -> int:
    """Of a snapshot that is in itself one."""
    of = found.counters["value"]
    assert isinstance(of, int)
    assert found.facts == snapshot(of).facts
    assert found.tensors.keys() == snapshot().tensors.keys()
    for name, tensor in snapshot(of).tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    return of


def found(key: Mapping[str, Any] = KEY, step: int = 10**9) -> list[int]:
    return [value(one) for one in states(key).before(step)]


def paths() -> list[Path]:
    return sorted(caches.root().glob("states/*/*"))


def test_what_was_put_comes_back_bit_for_bit_the_latest_first() -> None:
    assert found() == []
    for step in (4, 12):
        states().put(step, snapshot(step))
    assert found() == [12, 4]
    assert found(step=12) == [12, 4]
    assert found(step=11) == [4]
    assert found(step=3) == []


def test_the_newest_are_kept() -> None:
    for number, step in enumerate((4, 12, 36, 8)):
        states().put(step, snapshot(step))
        for path in paths():
            if path.stem == str(step):
                os.utime(path, (number, number))
    assert KEPT == 3
    assert found() == [36, 12, 8]


def test_ended_ones_are_found_by_their_last_step_alone_and_are_counted_apart() -> None:
    for number, step in enumerate((6, 18, 54, 162)):
        states().put(step - 2, snapshot(step - 2))
        states().put(step, snapshot(step), ended=True)
        for path in paths():
            if path.stem in (str(step - 2), f"ended-{step}"):
                os.utime(path, (number, number))
    assert found() == [160, 52, 16]
    at_end = {step: [value(one) for one in states().at_end(step)] for step in (6, 18, 54, 162, 100)}
    assert at_end == {6: [], 18: [18], 54: [54], 162: [162], 100: []}


@pytest.mark.parametrize("name", OTHER)
def test_only_how_long_it_trains_and_what_for_is_no_part_of_the_key(name: str) -> None:
    """Pitfall 17: whatever else is changed, a state of before is never met."""
    states().put(4, snapshot())
    other = trajectory(replace(TRIAL, **{name: OTHER[name]}), pieces.CPU)
    assert found(other) == ([1] if name in ("epochs", "stage") else [])


def test_device_number_format_threads_and_libraries_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    computes = [
        pieces.CPU,
        replace(pieces.CPU, device=torch.device("cuda:0")),
        replace(pieces.CPU, dtype=torch.bfloat16),
        replace(pieces.CPU, threads=2),
    ]
    keys = [trajectory(TRIAL, compute) for compute in computes]
    keys += [trajectory(TRIAL, pieces.CPU, passes) for passes in (computes[0], computes[2])]
    monkeypatch.setattr(states_module, "version", lambda name: "newer" if name == "torch" else None)
    keys.append(trajectory(TRIAL, pieces.CPU))
    states().put(4, snapshot())
    assert [found(key) for key in keys] == [[1], *[[]] * 6]
    assert trajectory(TRIAL, computes[1]) == trajectory(TRIAL, replace(pieces.CPU, device=torch.device("cuda:1")))


def test_the_key_stands_inside_and_is_compared() -> None:
    states().put(4, snapshot())
    other = {**KEY, "schema": 0}
    states(other).put(4, snapshot(2))
    one, two = (path for path in paths() if path.suffix == ".safetensors")
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert found() == found(other) == []


def test_a_damaged_file_is_none() -> None:
    """Cut anywhere, or with any one byte changed: what is found is what was put, or nothing."""
    states().put(4, snapshot())
    (path,) = paths()
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert found() == []
    lost = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        lost += found() == []
    assert lost > 0.9 * len(content), "what is left are names of fields that nobody reads"
    path.write_bytes(content)
    assert found() == [1]


def test_an_older_state_stands_in_for_a_damaged_one() -> None:
    for step in (4, 12):
        states().put(step, snapshot(step))
    next(path for path in paths() if path.stem == "12").write_bytes(b"")
    assert found() == [4]


def test_what_is_half_written_has_no_name_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write", die)
    with pytest.raises(KeyboardInterrupt):
        states().put(4, snapshot())
    assert found() == []


def test_other_files_are_left_alone() -> None:
    states().put(4, snapshot())
    folder = paths()[0].parent
    (folder / "notes.txt").write_text("")
    assert found() == [1]
    (folder / "x.safetensors").write_text("")
    states().put(12, snapshot(12))
    assert (folder / "notes.txt").exists()


def test_a_full_disk_is_told_once_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        for step in (4, 12):
            states().put(step, snapshot())
    assert [record.getMessage() for record in caplog.records] == [
        "trainings cannot be paused, longer ones begin anew: No space left on device"
    ]
    assert paths() == []
    states().put(4, snapshot())
    assert found() == [1]


def test_a_cache_that_cannot_be_used_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        states().put(4, snapshot())
    assert found() == []
    assert "let TLBENCH_CACHE name another folder" in caplog.text


def test_a_limit_of_0_keeps_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    states().put(4, snapshot())
    with monkeypatch.context() as patch:
        patch.setenv("TLBENCH_CACHE_LIMIT", "0")
        assert not states().writes
        states().put(12, snapshot(12))
        assert found() == []
    assert found() == [1]


def test_states_make_room_for_others_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "100KiB")
    disk, large = Disk(), Snapshot(tensors={"weights": torch.zeros(10_000)}, facts={})
    for number in range(5):
        States({"of": number}, disk).put(4, large)
        for path in paths():
            if path.parent.stat().st_mtime > 1e6:
                os.utime(path.parent, (number, number))
    assert [bool(list(States({"of": number}, disk).before(4))) for number in range(5)] == [False] * 3 + [True] * 2
    States({"of": 5}, disk).put(4, Snapshot(tensors={"weights": torch.zeros(30_000)}, facts={}))
    assert len(paths()) == 2, "what is larger than everything may be drives nothing else out"


def test_a_cache_that_is_not_written_any_more_is_left_by_states_too() -> None:
    disk = Disk()
    one = States(KEY, disk)
    one.put(4, snapshot())
    disk.refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert not one.writes
    one.put(12, snapshot(12))
    assert found() == [1], "what is there is still found"


def test_several_may_write_and_read_at_once() -> None:
    """Every state that is ever read is a whole one."""
    stop, seen, errors = threading.Event(), list[int](), list[BaseException]()

    def go(work: Any) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    writers = [lambda step=step: states().put(step % 3, snapshot(step)) for step in range(1, 7)]
    threads = [threading.Thread(target=go, args=(work,)) for work in [*writers, *[lambda: seen.extend(found())] * 2]]
    for thread in threads:
        thread.start()
    threading.Event().wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(seen) > 10
    assert [path for path in paths() if path.name.startswith(files.PART)] == []
