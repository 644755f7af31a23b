from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tlbench.benchmark import Device
from tlbench.catalog import Catalog
from tlbench.errors import BenchmarkError, SpeedError, UnknownNameError
from tlbench.evaluation import deployed, speed
from tlbench.evaluation.deployed import Deployed, Running, expected, find, fresh_subject, setting, start
from tlbench.evaluation.device import Compute, open_compute, tf32_allowed, tf32_kept
from tlbench.evaluation.model import shape
from tlbench.evaluation.provenance import arithmetic, provenance
from tlbench.evaluation.variant import Source, Variant, others
from tlbench.plugins import discover
from tlbench.trial import canonical_json

VGG = Source(backbone="zoo/vgg_mini", classes=5)


@pytest.fixture(scope="module")
def cpu() -> Compute:
    return open_compute(Device(kind="cpu", threads=1), workers=1)


@pytest.fixture(scope="module")
def vgg() -> Deployed:
    return find(VGG, discover()).load()


def logits(model: Deployed, variant: Variant, cpu: Compute, batch: int = 3) -> np.ndarray:
    running = start(model, variant, cpu)
    with torch.inference_mode():
        found: Any = running.run(running.inputs(batch))
    return np.asarray(found)


def test_the_head_is_attached_and_the_model_deployed(vgg: Deployed, cpu: Compute) -> None:
    assert logits(vgg, Variant(), cpu).shape == (3, 5)
    assert not vgg.model.training
    assert vgg.subject.head == {"kind": "linear", "width": vgg.subject.head["width"], "classes": 5}
    assert vgg.subject.inputs == {"inputs": [3, 32, 32]}
    assert vgg.random


def test_pretrained_weights_are_taken_where_they_are(cpu: Compute) -> None:
    found = find(replace(VGG, pretrained=True), discover()).load()
    assert not found.random
    assert found.subject == find(VGG, discover()).load().subject


def test_weights_out_of_reach_become_random_ones_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = find(Source(backbone="timm/test_vit", pretrained=True), discover()).load()
    assert found.random


def test_what_is_not_built_has_the_same_subject(vgg: Deployed) -> None:
    catalog = Catalog(discover())
    entry = catalog.backbone("zoo/vgg_mini")
    assert fresh_subject(entry, catalog, shape(entry.component), 5) == vgg.subject


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="vgg_mini"):
        find(Source(backbone="zoo/vgg_min"), discover())


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [
        (Variant(layout="channels_last"), 1e-4),
        (Variant(runtime="onnxruntime"), 1e-4),
        (Variant(dtype="bfloat16"), 0.1),
    ],
)
def test_every_way_of_running_computes_the_same(
    vgg: Deployed, cpu: Compute, variant: Variant, tolerance: float
) -> None:
    plain = logits(vgg, Variant(), cpu)
    found = logits(vgg, variant, cpu)
    assert np.abs(found - plain).max() <= tolerance * max(1.0, np.abs(plain).max())
    assert np.array_equal(logits(vgg, Variant(), cpu), plain), "measuring one way must not change the model for another"


def test_half_precision_is_that_of_the_backbone(vgg: Deployed, cpu: Compute) -> None:
    running = start(vgg, Variant(dtype="bfloat16"), cpu)
    assert running.inputs(1).dtype == torch.bfloat16
    assert next(running.run.backbone.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert running.run.head.weight.dtype == torch.float32  # type: ignore[attr-defined]


def test_compiling_is_torch_s(vgg: Deployed, cpu: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: modes.append(mode) or model)
    start(vgg, Variant(compile="default"), cpu)
    start(vgg, Variant(compile="max-autotune"), cpu)
    assert modes == [None, "max-autotune"]


def test_ways_that_cannot_be_had_are_refused(vgg: Deployed, cpu: Compute) -> None:
    with pytest.raises(SpeedError, match="measured in float32"):
        start(vgg, Variant(runtime="onnxruntime", dtype="bfloat16"), cpu)
    with pytest.raises(SpeedError, match="float32 alone"):
        start(replace(vgg, model=torch.nn.Linear(1, 1)), Variant(dtype="float16"), cpu)


def test_threads_are_those_that_torch_has(cpu: Compute) -> None:
    """Pitfall 15."""
    assert setting(Variant(), cpu).threads == torch.get_num_threads() == 1


@pytest.fixture
def flags() -> Iterator[tuple[Any, Any]]:
    """Torch's two flags of TF32, as they were afterwards."""
    both = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in both]
    yield both
    for flag, value in zip(both, before, strict=True):
        flag.allow_tf32 = value


def test_tf32_is_read_from_the_flags(monkeypatch: pytest.MonkeyPatch, flags: tuple[Any, Any]) -> None:
    """Pitfall 12: whatever was asked for, the label says what the flags say."""
    gpu = Compute(device=torch.device("cuda"), dtype=torch.float32, threads=1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    for flag in flags:
        flag.allow_tf32 = False
    assert setting(Variant(), gpu).dtype == "float32"
    flags[0].allow_tf32 = True
    assert setting(Variant(), gpu).dtype == "tf32"
    assert setting(Variant(dtype="bfloat16"), gpu).dtype == "bfloat16"
    deployed.use(Variant(), gpu)
    assert setting(Variant(), gpu).dtype == "float32"
    deployed.use(Variant(dtype="tf32"), gpu)
    assert all(flag.allow_tf32 for flag in flags)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, flags: tuple[Any, Any]) -> list[torch.device]:
    """On a machine that says it has two GPUs: those made the current one."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    return made


def opened(kind: str) -> Compute:
    return open_compute(Device(kind=kind, dtype="float32", threads=torch.get_num_threads()), workers=1)


def test_the_gpu_that_is_asked_for_becomes_the_current_one(taken: list[torch.device]) -> None:
    """Events and whatever else names no GPU are about the current one."""
    assert [str(opened(kind).device) for kind in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    assert taken == [torch.device("cuda:1")]
    with pytest.raises(BenchmarkError, match="'cuda:2', but torch sees no GPU beyond 'cuda:1'"):
        opened("cuda:2")


def test_measuring_with_tf32_leaves_a_run_without(taken: list[torch.device], flags: tuple[Any, Any]) -> None:
    """Pitfall 12: what a run computes does not depend on what was measured in its process before."""
    for flag in flags:
        flag.allow_tf32 = True
    gpu = opened("cuda")
    assert tf32_allowed() == (False, False)
    assert expected(Variant(dtype="tf32"), gpu).dtype == "tf32"
    assert tf32_allowed() == (False, False)
    with tf32_kept(gpu):
        deployed.use(Variant(dtype="tf32"), gpu)
        assert tf32_allowed() == (True, True)
    assert tf32_allowed() == (False, False)


def test_a_measurement_leaves_the_arithmetic_as_it_was(
    taken: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that fails."""
    used = []

    def broken(model: Deployed, variant: Variant, compute: Compute) -> Running:
        deployed.use(variant, compute)
        used.append(tf32_allowed())
        raise SpeedError("no figures")

    monkeypatch.setattr(speed, "start", broken)
    with pytest.raises(SpeedError, match="no figures"):
        speed.measure(VGG, Variant(dtype="tf32"), opened("cuda"), speed.BRIEF, discover())
    assert used == [(True, True)]
    assert tf32_allowed() == (False, False)


def test_provenance_knows_tf32_of_convolutions(taken: list[torch.device], flags: tuple[Any, Any]) -> None:
    gpu, told, keys = opened("cuda"), [], set()
    for matmul, convolution in ((False, False), (False, True), (True, False), (True, True)):
        flags[0].allow_tf32, flags[1].allow_tf32 = matmul, convolution
        told.append(provenance(gpu)["tf32"])
        keys.add(canonical_json(arithmetic(gpu)))
    assert told == [False, True, True, True]
    assert len(keys) == 4


def test_what_a_model_takes_of_a_gpu_is_seen_when_it_is_put_there(
    vgg: Deployed, cpu: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(vgg, Variant(), cpu).placed_bytes == 0
    allocated = iter([500, 1200])
    monkeypatch.setattr(Compute, "allocated_bytes", lambda self: next(allocated))
    assert start(vgg, Variant(), cpu).placed_bytes == 700


def test_other_ways_are_one_step_away() -> None:
    assert [other.in_words for other in others(Variant(), "cpu")] == [
        "bfloat16",
        "channels last",
        "compiled (default)",
        "onnxruntime",
    ]
    assert Variant() not in others(Variant(), "cuda")
    assert {other.dtype for other in others(Variant(), "cuda")} == {"tf32", "bfloat16", "float16"}
