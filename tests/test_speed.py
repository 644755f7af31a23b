import json
from dataclasses import replace
from typing import Any

import pytest

from speeds import HERE, record
from tlbench.speed import Conditions, SpeedRecord, Throughput
from tlbench.trial import Reference


def test_a_record_without_doubts_is_to_be_believed() -> None:
    assert record().doubts == []
    assert record().speed_ok


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"settled": False}, "had not settled"),
        ({"latency": replace(record().latency, moved=0.04)}, "moved by 4 %"),
        ({"reference_ms": (25.0, 27.0)}, "drifted by 8 %"),
        ({"reference_ms": (27.0, 25.0)}, "drifted by 7 %"),
        ({"throughput": (Throughput(batch=1, per_s=120.0, iqr_relative=0.0, blocks=5),)}, "disagree"),
        ({"throughput": (Throughput(batch=1, per_s=80.0, iqr_relative=0.0, blocks=5),)}, "disagree"),
        ({"conditions": Conditions(throttled=["heat (hardware)"])}, "throttled: heat (hardware)"),
        ({"conditions": Conditions(foreign_cores=1.0, free_cores=0.5)}, "took 1.0 cores, 0.5 more than were free"),
    ],
)
def test_what_speaks_against_a_record_is_told(changes: dict[str, Any], doubt: str) -> None:
    """Pitfalls 10, 11 and 14."""
    (told,) = record(**changes).doubts
    assert doubt in told
    assert not record(**changes).speed_ok


@pytest.mark.parametrize(
    "changes",
    [
        {"latency": replace(record().latency, moved=0.029)},
        {"reference_ms": (25.0, 26.0)},
        {"throughput": (Throughput(batch=1, per_s=110.0, iqr_relative=0.0, blocks=5),)},
        {"throughput": ()},
        {"conditions": Conditions(foreign_cores=3.0, free_cores=2.9)},
        {"conditions": Conditions()},
    ],
)
def test_what_is_within_bounds_or_unknown_is_no_doubt(changes: dict[str, Any]) -> None:
    assert record(**changes).speed_ok


def test_json_and_back() -> None:
    whole = record(latency_with_preprocess=record().latency, cold={"import_s": 1.0})
    text = json.dumps(whole.to_json())
    assert json.dumps(SpeedRecord.from_json(json.loads(text)).to_json()) == text
    assert json.loads(text)["speed_ok"] is True


def test_whatever_changes_the_speed_changes_the_key() -> None:
    """Pitfall 13: no field of model, setting and versions may be left out."""
    known = record()
    subject = known.subject
    subjects = [
        replace(subject, backbone=Reference(name="zoo/a", version=2)),
        replace(subject, declared=({"base": "zoo/b", "options": {}},)),
        replace(subject, preprocess={"size": 16}),
        replace(subject, pool="avg"),
        replace(subject, head={"kind": "linear", "width": 4, "classes": 3}),
        replace(subject, inputs={"inputs": [3, 16, 16]}),
    ]
    settings = [
        replace(HERE, machine={"processor": "abacus", "cores": 4}),
        replace(HERE, device="cuda"),
        replace(HERE, dtype="tf32"),
        replace(HERE, layout="channels_last"),
        replace(HERE, compile="default"),
        replace(HERE, runtime="torch 3"),
        replace(HERE, threads=1),
    ]
    others = [replace(known, subject=changed) for changed in subjects]
    others += [replace(known, setting=changed) for changed in settings]
    others.append(replace(known, libraries={"torch": "3"}))
    others.append(replace(known, protocol=known.protocol - 1))
    assert len({other.key for other in others} | {known.key}) == 1 + len(others)
    assert len({setting.key for setting in (HERE, *settings)}) == 1 + len(settings)
    assert record(p50_ms=99.0).key == known.key


def test_throughput_by_batch() -> None:
    oom = Throughput(batch=32, per_s=None, iqr_relative=None, blocks=0, failure="oom: no memory")
    known = record()
    found = replace(known, throughput=(*known.throughput, oom))
    assert (found.throughput_at(1), found.throughput_at(8)) == (100, 200)
    assert found.throughput_at(32) is None
    assert found.throughput_at(64) is None


def test_a_setting_in_words() -> None:
    assert HERE.in_words == "abacus, 2 threads, float32, torch 2"
    gpu = replace(
        HERE, machine={"gpu": "H1", "processor": "abacus"}, dtype="bfloat16", layout="channels_last", compile="default"
    )
    assert gpu.in_words == "H1, bfloat16, channels last, compiled (default), torch 2"
