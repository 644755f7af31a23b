"""On a GPU: the same training loop, in every number format, with results that agree with the CPU's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pieces
import tiny
from tlbench import caches
from tlbench.benchmark import Device
from tlbench.evaluation import formats
from tlbench.evaluation.deployed import find, start
from tlbench.evaluation.device import Compute, open_compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.formats import Formats
from tlbench.evaluation.multinomial import multinomial_path
from tlbench.evaluation.neighbours import cosine, euclidean, leave_one_out
from tlbench.evaluation.predict import predict
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.spectrum import Spectrum
from tlbench.evaluation.speed import Protocol, measure_running
from tlbench.evaluation.states import States
from tlbench.evaluation.timing import stopwatch
from tlbench.evaluation.transferability import h_score, log_evidence
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import discover

pytestmark = pytest.mark.gpu

VIT = Source(backbone="zoo/vit_mini", classes=10)


def gpu(dtype: torch.dtype) -> Compute:
    return Compute(device=torch.device("cuda"), dtype=dtype, threads=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_learns_with_every_augmentation(dtype: torch.dtype) -> None:
    changes = {"augmentation": "rand", "mixup": 0.2, "cutmix": 1.0, "channels_last": True, "batch_norm": "training"}
    _, run = pieces.run(tiny.Full(), epochs=4, compute=gpu(dtype), **changes)
    assert all(np.isfinite(point.train_loss) for point in run.curve)
    _, run = pieces.run(tiny.Full(), epochs=20, compute=gpu(dtype), batch_norm="training")
    assert max(point.search_score for point in run.curve) > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_training_is_resumed_with_its_generators_and_its_scale(dtype: torch.dtype) -> None:
    """Gradients may be summed in another order each time: what is equal on the CPU is close here."""
    changes = {"schedule": "wsd", "dropout": 0.3, "augmentation": "flip", "batch_norm": "training"}
    states = States({"of": "this test"}, Disk())
    for epochs, resumed in ((1, 0), (3, 4), (9, 12), (9, 54)):
        _, expected = pieces.run(tiny.Full(), epochs=epochs, compute=gpu(dtype), **changes)
        _, run = pieces.run(tiny.Full(), epochs=epochs, compute=gpu(dtype), states=states, **changes)
        assert run.steps_resumed == resumed
        np.testing.assert_allclose(run.validation_logits, expected.validation_logits, rtol=1e-2, atol=1e-2)


def test_a_way_to_compute_is_chosen_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LEAST_S", 0.0)
    asked = replace(gpu(torch.bfloat16), others=((torch.bfloat16, True), (torch.float32, False)))
    found = Formats(disk=Disk())
    chosen = [
        found.of_passes(asked, {"of": "this test"}, lambda: pieces.model().to("cuda")),
        found.of_training(asked, {"of": "this test"}, pieces.model(), channels_last=True),
    ]
    assert len([*caches.root().glob("formats/*/note.json")]) == 2, "both were measured"
    for way in chosen:
        logits = predict(pieces.model().to("cuda"), pieces.samples().validation, tiny.Tiny().preprocess, way)
        assert np.isfinite(logits).all()


def test_frozen_means_frozen() -> None:
    _, run = pieces.run(tiny.Head(), compute=gpu(torch.float32))
    assert run.frozen["parameters_changed"] is False
    assert run.frozen["buffers_changed"] is False
    assert run.frozen["parameters_checked"] == 8


def test_logits_agree_with_the_cpu() -> None:
    model, of, preprocess = pieces.model().eval(), pieces.samples(), tiny.Tiny().preprocess
    expected = predict(model, of.validation, preprocess, pieces.CPU)
    got = predict(model.to("cuda"), of.validation, preprocess, gpu(torch.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)  # convolutions may compute in TF32


def test_float32_is_not_tf32() -> None:
    model, of, preprocess = pieces.model().eval(), pieces.samples(), tiny.Tiny().preprocess
    expected = predict(model, of.validation, preprocess, pieces.CPU)
    compute = open_compute(Device(kind="cuda", dtype="float32", threads=1), workers=1)
    got = predict(model.to("cuda"), of.validation, preprocess, compute)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# Speed


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16", "float16"])
def test_speed_is_measured_in_every_number_format(dtype: str) -> None:
    running = start(find(VIT, discover()).load(), Variant(dtype=dtype), gpu(torch.float32))
    record = measure_running(running, Protocol(calls=50, blocks=3, block_s=0.02))
    assert record.setting.dtype == dtype
    assert record.setting.machine["gpu"] == torch.cuda.get_device_name()
    assert abs(record.throughput_at(1) * record.latency.p50_ms / 1000 - 1) < 0.5
    assert record.throughput_at(8) > 2 * record.throughput_at(1)
    assert record.memory["peak_allocated"]["8"] > record.memory["weights"]


def test_memory_is_the_model_s_own_whatever_else_lies_there() -> None:
    found, hogs = [], []
    for _ in range(3):
        running = start(find(VIT, discover()).load(), Variant(), gpu(torch.float32))
        found.append(measure_running(running, Protocol(calls=30, batches=(8, 1), blocks=3, block_s=0.01)).memory)
        hogs.append(torch.empty(2**27, dtype=torch.uint8, device="cuda"))
        del running
    peaks = [memory["peak_allocated"]["1"] for memory in found]
    assert all(memory["weights"] < peak < memory["weights"] + 40 for memory, peak in zip(found, peaks, strict=True))
    assert peaks[2] == pytest.approx(peaks[1], abs=1.0)
    assert found[0]["peak_reserved"]["1"] <= found[0]["peak_reserved"]["8"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_is_timed_by_its_own_events() -> None:
    try:
        compute = open_compute(Device(kind="cuda:1", dtype="float32", threads=1), workers=1)
        running = start(find(VIT, discover()).load(), Variant(), compute)
        record = measure_running(running, Protocol(calls=50, blocks=3, block_s=0.02))
    finally:
        torch.cuda.set_device(0)
    assert abs(record.throughput_at(1) * record.latency.p50_ms / 1000 - 1) < 0.5
    assert record.memory["peak_allocated"]["8"] > record.memory["weights"]


def test_blocks_are_timed_by_the_device() -> None:
    """An event is stamped when the device comes to it: a block takes as long as its kernels, told or waited for."""
    a = torch.randn(4096, 4096, device="cuda")
    watch = stopwatch(gpu(torch.float32))
    assert watch.events
    watch.block_s(lambda: a @ a)
    by_events, by_clock = (
        watch.block_s(lambda: [a @ a for _ in range(50)]),
        watch.seconds(lambda: [a @ a for _ in range(50)]),
    )
    assert by_events == pytest.approx(by_clock, rel=0.2)


def test_a_compiled_model_computes_the_same() -> None:
    deployed = find(VIT, discover()).load()
    plain, compiled = (start(deployed, way, gpu(torch.float32)) for way in (Variant(), Variant(compile="default")))
    inputs = plain.inputs(4)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.run(inputs), plain.run(inputs), rtol=1e-2, atol=1e-3)


def test_no_memory_on_the_device_is_a_result() -> None:
    running = start(find(VIT, discover()).load(), Variant(), gpu(torch.float32))
    running.answer(running.inputs(1))
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 2**26, dtype=torch.uint8, device="cuda")
    record = measure_running(running, Protocol(calls=30, batches=(1, 4096), blocks=3, block_s=0.01))
    del hog
    assert record.throughput[1].failure.startswith("oom: ")


# Probes


@pytest.mark.parametrize("width", [16, 200])
def test_probe_kernels_agree_with_the_cpu(width: int) -> None:
    labels = torch.arange(120) % 5
    features = torch.randn(120, width, generator=torch.Generator().manual_seed(0))
    features[:, :5] += torch.nn.functional.one_hot(labels)
    penalties = [1e-3, 0.1, 10.0, 1.0] * 4
    found = []
    for values, classes in ((features, labels), (features.cuda(), labels.cuda())):
        spectrum = Spectrum.of(values)
        ridge = RidgePath.of(spectrum, classes)
        path = multinomial_path(spectrum, classes, penalties, tolerance=1e-9, dtype=torch.float64)
        votes = [leave_one_out(values, classes, [(7, 0.07)], similarity=each) for each in (cosine, euclidean)]
        scores = torch.tensor([log_evidence(spectrum, classes), h_score(spectrum, classes)])
        found.append([ridge.solutions(penalties)[0], ridge.leave_one_out(penalties), path.objectives, *votes, scores])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two.cpu(), one, rtol=1e-5, atol=1e-4)
