"""Number formats: what is faster in bfloat16 computes in it, as measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import pieces
import tiny
from tlbench import caches
from tlbench.benchmark import Device
from tlbench.catalog import Catalog
from tlbench.evaluation import device, formats
from tlbench.evaluation.device import Compute, open_compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.formats import Formats
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Job, Reference

OTHERS = ((torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True))
CPU = replace(pieces.CPU, others=OTHERS)
NETWORK = {"backbone": "this test's"}
WAYS, ABLE = device.other_ways, device.multiplies_bf16

Took = dict[tuple[str, bool], float]
FASTEST: Took = {
    ("float32", False): 1.0,
    ("float32", True): 0.8,
    ("bfloat16", False): 0.6,
    ("bfloat16", True): 0.5,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is measured, in order; bfloat16 and channels last are faster, unless a test says otherwise."""
    seen: list[tuple[str, bool]] = []
    take(monkeypatch, FASTEST, seen)
    return seen


def take(monkeypatch: pytest.MonkeyPatch, took: Took, seen: list[tuple[str, bool]] | None = None) -> None:
    """Let every way take some seconds."""

    def timed(work: object, way: Compute) -> float:
        if seen is not None:
            seen.append((way.dtype_name, way.channels_last))
        return took[way.dtype_name, way.channels_last]

    monkeypatch.setattr(formats, "_timed", timed)


def of_passes(of: Formats, compute: Compute = CPU, **network: Any) -> tuple[str, bool]:
    chosen = of.of_passes(compute, {**NETWORK, **network}, pieces.model)
    assert chosen.others == ()
    return chosen.dtype_name, chosen.channels_last


def of_training(of: Formats, channels_last: bool = False) -> tuple[str, bool]:
    chosen = of.of_training(CPU, NETWORK, pieces.model(), channels_last)
    return chosen.dtype_name, chosen.channels_last


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("bfloat16", True)),
        ({("bfloat16", True): 0.7}, ("bfloat16", False)),
        ({("bfloat16", True): 0.9, ("bfloat16", False): 0.9}, ("float32", True)),
        ({("bfloat16", True): 0.9, ("bfloat16", False): 0.9, ("float32", True): 0.95}, ("float32", False)),
        ({("float32", False): 0.003, ("bfloat16", True): 0.001}, ("float32", False)),
    ],
)
def test_what_is_clearly_faster_and_worth_it_is_chosen(
    changes: Took, expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, {**FASTEST, **changes})
    assert of_passes(Formats()) == expected


def test_ways_that_take_as_long_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of texts, which have no layout, the first of two that are one."""
    take(monkeypatch, {**FASTEST, ("float32", True): 1.0, ("bfloat16", True): 0.59})
    assert of_passes(Formats()) == ("bfloat16", False)


def test_rounds_end_with_the_time(asked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_S", 0.0)
    of_passes(Formats())
    assert asked == [*FASTEST] * 2


def test_what_would_take_too_much_memory_trains_as_usual(
    asked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MEMORY_SHARE", 0.0)
    assert of_training(Formats(disk=Disk())) == ("float32", False)
    assert asked == []


def test_a_model_that_cannot_be_had_is_an_error_here_already() -> None:
    def refuse() -> Any:
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        Formats().of_passes(CPU, NETWORK, refuse)


def test_of_a_training_the_recipe_says_the_layout(asked: list[tuple[str, bool]]) -> None:
    assert of_training(Formats(), channels_last=True) == ("bfloat16", False)
    assert asked == [("float32", False), ("bfloat16", False)] * (1 + formats.ROUNDS)


def test_nothing_is_measured_where_there_is_no_choice(asked: list[tuple[str, bool]]) -> None:
    assert Formats().of_passes(pieces.CPU, NETWORK, pieces.model) == pieces.CPU
    only = replace(pieces.CPU, others=((torch.float32, True),))
    assert Formats().of_training(only, NETWORK, pieces.model(), False) == pieces.CPU
    assert asked == []


def test_it_is_measured_once_in_turns_and_kept(asked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_passes(one := Formats(disk=Disk())) == ("bfloat16", True)
    assert asked == [*FASTEST] * (1 + formats.ROUNDS)
    take(monkeypatch, dict.fromkeys(FASTEST, 1.0))
    assert of_passes(one) == ("bfloat16", True), "in this process"
    assert of_passes(Formats(disk=Disk())) == ("bfloat16", True), "in another"
    assert of_passes(one, backbone="another") == ("float32", False)
    assert of_passes(one, replace(CPU, threads=7)) == ("float32", False)
    assert of_training(one) == ("float32", False), "a matter of its own"
    caches.clear("formats")
    assert of_passes(Formats(disk=Disk())) == ("float32", False)


def test_of_workers_that_measure_at_once_the_sooner_one_decides(
    asked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = formats.measured

    def measure(work: Any, ways: Sequence[Compute]) -> dict[str, float]:
        monkeypatch.setattr(formats, "measured", measured)
        assert of_passes(Formats(disk=Disk())) == ("bfloat16", True), "the other worker"
        return dict.fromkeys(measured(work, ways), 1.0)

    monkeypatch.setattr(formats, "measured", measure)
    assert of_passes(Formats(disk=Disk())) == ("bfloat16", True)


def test_what_cannot_compute_in_it_computes_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: object, way: Compute) -> None:
        if way.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        time.sleep(0.01 if way.channels_last else 0.05)

    real = formats._timed
    monkeypatch.setattr(formats, "_timed", lambda work, way: real(partial(refuse, work), way))
    assert of_passes(Formats(disk=Disk())) == ("float32", True)


def test_the_model_is_as_it_was() -> None:
    model = pieces.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    generator = torch.get_rng_state()
    for channels_last in (False, True):
        Formats().of_training(CPU, NETWORK, model, channels_last)
    Formats().of_passes(CPU, NETWORK, lambda: model)
    assert len([*caches.root().glob("formats/*/note.json")]) == 3, "all of it was measured"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trains
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("dtype", "able", "expected"),
    [("auto", True, OTHERS[::2]), ("auto", False, OTHERS[:1]), ("float32", True, OTHERS[:1])],
)
def test_a_cpu_may_round_where_nobody_said_otherwise(
    dtype: str, able: bool, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "other_ways", WAYS)
    monkeypatch.setattr(device, "multiplies_bf16", lambda: able)
    compute = open_compute(Device(kind="cpu", dtype=dtype, threads=1), workers=1)
    assert compute.others == expected
    assert compute.dtype == torch.float32
    half = open_compute(Device(kind="cpu", dtype="bfloat16", threads=1), workers=1)
    assert half.others == ((torch.bfloat16, True),)


def test_what_a_cpu_can_is_asked_where_torch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, expected in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert ABLE() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert ABLE() is False


# Whole jobs


def measured(folder: Any, compute: Compute, **trial: Any) -> tuple[Measurement, np.ndarray]:
    evaluator = Evaluator(Catalog(discover()), Store(folder), compute, {})
    of = pieces.trial(**trial)
    (found,) = evaluator.evaluate(Job(trial=of), lambda *_: False)
    assert found.status == "complete", found.failure
    kept = evaluator.store.predictions(found.key)
    assert kept is not None
    return found, kept.logits


@pytest.mark.parametrize("strategy", ["tiny/means", "tiny/full"])
def test_a_trial_is_what_it_would_be_in_the_chosen_format(
    strategy: str, tiny_plugin: object, asked: list[tuple[str, bool]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"temperature": 0.02, "pool": "native"} if strategy == "tiny/means" else pieces.recipe(tiny.Full())
    changes = {"strategy": Reference(name=strategy, version=1), "params": params}
    chosen, logits = measured(tmp_path / "chosen", CPU, **changes)
    assert asked
    assert chosen.provenance["dtype"] == "bfloat16"
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "other"))
    is_frozen = strategy == "tiny/means"
    same = replace(pieces.CPU, dtype=torch.bfloat16, channels_last=is_frozen)
    given, expected = measured(tmp_path / "given", same, **changes)
    assert given.provenance["dtype"] == "bfloat16"
    np.testing.assert_array_equal(logits, expected)
    usual, other = measured(tmp_path / "usual", pieces.CPU, **changes)
    assert usual.provenance["dtype"] == "float32"
    assert not np.array_equal(logits, other)
