"""Cost: peaks that start again with each trial, and what every row must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pieces
from tlbench.catalog import Catalog
from tlbench.evaluation import cost, energy
from tlbench.evaluation.cost import Cost
from tlbench.evaluation.device import Compute
from tlbench.evaluation.energy import LEAST_S, Meter, open_meter
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, Evaluator
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.spaces import Context, resolve
from tlbench.store import Store
from tlbench.trial import Job, Reference, Trial

MIB = 2**20


def spent(compute: Compute = pieces.CPU, workers: int = 1) -> Cost:
    return Cost(compute, workers)


# Memory


def test_the_resident_peak_is_that_of_the_trial_and_not_of_an_earlier_one() -> None:
    if not cost._forget_resident_peak():
        pytest.skip("the kernel does not let the peak start again")
    np.ones(256 * MIB, np.uint8)
    idle, busy = spent(), spent()
    low = idle.so_far()["peak_rss_mib"]
    np.ones(192 * MIB, np.uint8)
    high = busy.so_far()["peak_rss_mib"]
    assert high > low + 150
    assert spent().so_far()["peak_rss_mib"] < high - 150


@pytest.mark.parametrize("where", ["nowhere", "locked"])
def test_where_the_kernel_does_not_allow_it_the_peak_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "clear_refs").mkdir()
    (tmp_path / "status").write_text("VmHWM:\t  1024 kB\n")
    monkeypatch.setattr(cost, "PROCESS", tmp_path if where == "locked" else tmp_path / "none")
    assert spent().so_far()["peak_rss_mib"] is None


def test_the_resident_peak_is_read_from_what_the_kernel_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("VmPeak:\t 9999 kB\nVmHWM:\t    1536 kB\nVmRSS:\t 512 kB\n")
    monkeypatch.setattr(cost, "PROCESS", tmp_path)
    assert spent().so_far()["peak_rss_mib"] == 1.5
    assert (tmp_path / "clear_refs").read_text() == "5"
    (tmp_path / "status").write_text("VmRSS:\t 512 kB\n")
    assert spent().so_far()["peak_rss_mib"] is None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A GPU whose allocator is made up; gives what is asked of it."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(f"reset {device}"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * MIB)
    open_meter.cache_clear()
    yield asked
    open_meter.cache_clear()


ON_GPU = Compute(device=torch.device("cuda:1"), dtype=torch.float32, threads=1)


def test_the_peaks_of_a_gpu_start_again_with_the_trial(gpu: list[str]) -> None:
    taken = spent(ON_GPU).so_far()
    assert gpu == ["init", "reset cuda:1"]
    assert (taken["peak_allocated_mib"], taken["peak_reserved_mib"]) == (3.0, 5.0)


def test_the_peaks_of_a_gpu_that_cannot_be_used_are_unknown(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: Any) -> None:
        raise torch.OutOfMemoryError("others filled it")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", full)
    taken = spent(ON_GPU).so_far()
    assert taken["peak_allocated_mib"] is taken["peak_reserved_mib"] is None


def test_a_cpu_has_no_peaks_of_an_allocator() -> None:
    taken = spent().so_far()
    assert taken["peak_allocated_mib"] is taken["peak_reserved_mib"] is None


# Energy


@pytest.mark.parametrize(("workers", "joules"), [(1, 10.0), (2, None)])
def test_a_meter_that_several_workers_share_tells_nothing_of_one(
    monkeypatch: pytest.MonkeyPatch, workers: int, joules: float | None
) -> None:
    readings = iter([[5.0], [15.0]])
    made = Meter(source="rapl", read=lambda: next(readings), ranges=[1e6])
    monkeypatch.setattr(cost, "open_meter", lambda device: made)
    times = iter([0.0, 0.0, LEAST_S, LEAST_S])
    monkeypatch.setattr(energy.time, "monotonic", lambda: next(times, LEAST_S))
    assert spent(workers=workers).so_far()["energy_j"] == joules


# Rows of real trials

STRATEGIES = {"frozen": "linear-probe", "neighbours": "knn", "trained": "full", "lora": "lora", "scratch": "scratch"}
BACKBONES = ("zoo/resnet_mini", "zoo/vit_mini")


def trial(backbone: str, strategy: str) -> Trial:
    """Of few digits, with the strategy's defaults."""
    catalog = Catalog(discover())
    network, way = catalog.backbone(backbone).component, catalog.strategy(f"basic/{strategy}").component
    digits = catalog.dataset("data/digits").component
    context = Context(
        modality="image",
        kind=network.facts.kind,
        layer_groups=6,
        pools=tuple(network.pools),
        classes=10,
        train_size=50,
    )
    chosen = way.defaults(context)
    params = {"pool": "native", **chosen} if way.frozen else resolve(chosen, {"batch_size": 20})
    return Trial(
        backbone=Reference(name=backbone, version=network.version),
        strategy=Reference(name=f"basic/{strategy}", version=way.version),
        dataset=Reference(name="data/digits", version=digits.version),
        weights=network.weights() if way.pretrained else network.random_weights(),
        preprocess=dict(network.preprocess.identity),
        fingerprint=digits.fingerprint,
        split_seed=0,
        shots=5,
        params=params,
        seed=0,
        metric="accuracy",
        epochs=0 if way.frozen else 2,
        stage="search",
        evaluator=EVALUATOR_VERSION,
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Measurement]:
    """A measurement, as it is read back, of every kind of strategy on two backbones."""
    store = Store(tmp_path_factory.mktemp("results"))
    evaluator = Evaluator(Catalog(discover()), store, pieces.CPU, {})
    found = {}
    for backbone in BACKBONES:
        for kind, strategy in STRATEGIES.items():
            asked = trial(backbone, strategy)
            evaluator.evaluate(Job(trial=asked, keep_model_above=None), lambda epoch, score: False)
            measured = store.get(asked.key)
            assert measured is not None
            assert measured.status == "complete", measured.failure
            found[backbone, kind] = measured
    return found


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_every_row_is_possible(rows: dict[tuple[str, str], Measurement], backbone: str, kind: str) -> None:
    row = rows[backbone, kind]
    spent, counted = row.cost, row.counts
    durations = {name: value for name, value in spent.items() if name.endswith("_s") and value is not None}
    assert {"train_s", "total_s"} <= durations.keys()
    assert min(durations.values()) >= 0
    assert spent["train_s"] + (spent.get("validation_s") or 0) <= spent["total_s"]
    assert (kind != "neighbours") <= counted["parameters_trainable"] <= counted["parameters_total"]
    assert counted["parameters_backbone"] + counted["parameters_head"] == counted["parameters_total"]
    assert counted["macs"] > 0
    assert counted["activations"] > 0
    weights_mib = 4 * counted["parameters_total"] / MIB
    assert spent["peak_rss_mib"] is None or spent["peak_rss_mib"] > weights_mib
    assert (spent["energy_j"] is None) is (spent["energy_source"] is None)
    assert spent["energy_j"] is None or spent["energy_j"] > 0
    assert all(
        value is None or value != 0 or name.endswith("_s") for name, value in spent.items() if value is not False
    )
    assert row.provenance["complexity"]["tool_version"] == str(torch.__version__)
    assert row.provenance["complexity"]["unsupported"] == []


def test_what_is_deployed_is_as_complex_whatever_was_trained(
    rows: dict[tuple[str, str], Measurement], backbone: str
) -> None:
    counts = [rows[backbone, kind].counts for kind in ("frozen", "trained", "lora", "scratch")]
    assert len({(found["macs"], found["activations"], found["parameters_total"]) for found in counts}) == 1
    neighbours, linear = rows[backbone, "neighbours"].counts, counts[0]
    width = linear["feature_width"]
    assert neighbours["macs"] - linear["macs"] == width * (neighbours["train"] - 10)
    assert neighbours["activations"] - linear["activations"] == neighbours["train"] - 10


def test_features_cost_a_forward_pass_of_every_sample(rows: dict[tuple[str, str], Measurement], backbone: str) -> None:
    """The second strategy finds them in memory, and they cost what they cost the first."""
    first, second = rows[backbone, "frozen"], rows[backbone, "neighbours"]
    body = first.counts["macs"] - 10 * first.counts["feature_width"]
    assert first.cost["features_flops"] == 2 * body * (first.counts["train"] + first.counts["validation"])
    for name in ("features_s", "features_flops"):
        assert first.cost[name] == second.cost[name]
    assert (first.cost["features_cached"], second.cost["features_cached"]) == (False, True)


def test_training_costs_what_trains(rows: dict[tuple[str, str], Measurement], backbone: str) -> None:
    """Two forward passes and more where all trains, one and the way back where little does; none where nothing does."""
    trained, lora, scratch = (rows[backbone, kind] for kind in ("trained", "lora", "scratch"))
    for row in (trained, lora, scratch):
        assert row.cost["samples_seen"] == 2 * row.counts["train"] == 100
        assert row.cost["train_samples_per_s"] > 0
    forward = 2 * trained.counts["macs"] * 100
    assert 2.5 * forward < trained.cost["train_flops"] < 3.1 * forward
    assert trained.cost["train_flops"] == scratch.cost["train_flops"]
    assert 1.9 * forward < lora.cost["train_flops"] < 3.3 * forward
    assert "train_flops" not in rows[backbone, "frozen"].cost


def test_a_measurement_of_before_is_read_and_what_it_lacks_is_unknown(
    rows: dict[tuple[str, str], Measurement], tmp_path: Path
) -> None:
    whole = rows[BACKBONES[0], "trained"]
    counts = {name: value for name, value in whole.counts.items() if name not in ("macs", "activations")}
    old = replace(whole, cost={"train_s": 1.0, "total_s": 2.0}, counts=counts, provenance={"device": "cpu"})
    store = Store(tmp_path)
    for measurement in (old, replace(whole, trial=replace(whole.trial, seed=1))):
        store.put(measurement, None)
    assert store.get(old.key) == Measurement.from_json(old.to_json())
    by_key = {row["key"]: row for row in store.rows()}
    for name in ("cost_train_flops", "cost_peak_rss_mib", "counts_macs", "provenance_complexity_tool"):
        assert by_key[old.key][name] is None
        assert name == "cost_peak_rss_mib" or by_key[replace(whole.trial, seed=1).key][name] is not None
