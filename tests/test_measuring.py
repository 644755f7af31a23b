"""Speed as it is measured: the measuring itself, cold starts, what a run keeps, limits, and `tlbench measure`."""

from __future__ import annotations

import json
import time
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from checkpoints import make
from tlbench.benchmark import BackboneDeclaration, Benchmark, Device, Limits, Search
from tlbench.cli import main
from tlbench.components import Preprocess
from tlbench.evaluation import speed
from tlbench.evaluation.cold import cold_start
from tlbench.evaluation.deployed import Running, find, start
from tlbench.evaluation.device import Compute, open_compute
from tlbench.evaluation.serving import Serving
from tlbench.evaluation.speed import Protocol, measure, measure_running, raw_sample, weights_mib
from tlbench.evaluation.timing import Stopwatch
from tlbench.evaluation.variant import Source, Variant
from tlbench.executors import local
from tlbench.executors.local import run
from tlbench.journal import Journal
from tlbench.leaderboard.table import read_leaderboard
from tlbench.plugins import discover
from tlbench.store import Store

VGG = Source(backbone="zoo/vgg_mini", classes=5)
QUICK = Protocol(calls=30, batches=(1, 4), blocks=3, block_s=0.001, most_s=0.2, warm_up_s=0.05)


def tlbench_(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cpu() -> Compute:
    return open_compute(Device(kind="cpu", threads=1), workers=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference model that takes no time, so that a machine busy with other tests is quick, too."""
    monkeypatch.setattr(speed, "REFERENCE_SIZE", 32)


@pytest.fixture
def vgg(cpu: Compute) -> Running:
    return start(find(VGG, discover()).load(), Variant(), cpu)


def test_a_record_has_everything(cpu: Compute) -> None:
    record = measure(VGG, Variant(), cpu, QUICK, discover())
    assert record.latency.calls == 30
    assert 0 < record.latency.p50_ms <= record.latency.p90_ms
    assert [one.batch for one in record.throughput] == [1, 4]
    assert all(one.per_s > 0 and one.blocks == 3 for one in record.throughput)
    assert record.preprocess_ms > 0
    assert record.latency_with_preprocess.p50_ms > 0
    assert record.setting.threads == 1
    assert record.complexity["macs"] > 1e6
    assert record.provenance["random_weights"] is True
    assert record.cold == {}
    assert all(value > 0 for value in record.reference_ms)


def test_slow_first_calls_are_in_no_latency(cpu: Compute) -> None:
    """Pitfall 10, on a real clock."""

    class Sleepy(nn.Module):
        calls = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            time.sleep(0.1 if self.calls <= 5 else 0.001)
            return inputs

    deployed = replace(find(VGG, discover()).load(), model=Sleepy())
    record = measure_running(start(deployed, Variant(), cpu), replace(QUICK, warm_up_s=5.0))
    assert record.latency.p90_ms < 50
    assert record.warm_up["seconds"] > 0.5


def test_no_memory_for_a_batch_is_a_result_and_no_smaller_one_takes_its_place(
    vgg: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 9."""
    answer, seen = Running.answer, set()

    def small(self: Running, inputs: torch.Tensor) -> None:
        seen.add(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("no memory for that")
        answer(self, inputs)

    monkeypatch.setattr(Running, "answer", small)
    record = measure_running(vgg, QUICK)
    failed = record.throughput[1]
    assert (failed.batch, failed.per_s, failed.blocks) == (4, None, 0)
    assert failed.failure.startswith("oom: ")
    assert seen == {1, 4}
    assert record.latency.calls == 30


def test_what_an_architecture_raises_is_told_in_one_line(cpu: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Running, inputs: Any) -> None:
        raise RuntimeError("not\nimplemented")

    monkeypatch.setattr(Running, "answer", broken)
    with pytest.raises(speed.SpeedError, match="'zoo/vgg_mini' cannot be run bfloat16: RuntimeError: not"):
        measure(VGG, Variant(dtype="bfloat16"), cpu, QUICK, discover())


def test_preprocessing_is_in_the_second_latency_alone(vgg: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep is never shorter than told, whatever else the machine does."""
    kind = type(vgg.deployed.preprocess)
    prepare = kind.prepare

    def slow(self: Preprocess, raw: Any) -> Any:
        time.sleep(0.05)
        return prepare(self, raw)

    monkeypatch.setattr(kind, "prepare", slow)
    record = measure_running(vgg, QUICK)
    assert record.latency.p50_ms < 50 <= record.preprocess_ms
    assert record.latency_with_preprocess.p50_ms >= 50


def test_a_plugin_s_own_modality_has_no_raw_sample(cpu: Compute) -> None:
    deployed = replace(find(VGG, discover()).load(), modality="sound")
    record = measure_running(start(deployed, Variant(), cpu), QUICK)
    assert (record.preprocess_ms, record.latency_with_preprocess) == (None, None)
    assert raw_sample("text").count(" ") == 19
    assert raw_sample("image").shape == (375, 500, 3)


def test_texts_are_measured(cpu: Compute, tmp_path: Path) -> None:
    folder = make("bert", tmp_path / "bert")
    declared = {
        "name": "mine/bert",
        "base": "transformers/checkpoint",
        "weights": str(folder),
        "options": {},
        "preprocess": {},
    }
    source = Source(backbone="mine/bert", declared=(declared,), classes=2, pretrained=True)
    record = measure(source, Variant(), cpu, QUICK, discover())
    assert set(record.subject.inputs) >= {"input_ids", "attention_mask"}
    assert record.latency_with_preprocess is not None
    assert record.provenance["random_weights"] is False


def test_weights_as_served() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(255, 1024), "head": nn.Linear(1023, 256)})
    assert weights_mib(model, Variant()) == 2
    assert weights_mib(model, Variant(dtype="bfloat16")) == 1.5
    assert weights_mib(model, Variant(dtype="tf32")) == 2


def test_memory_of_a_gpu_is_what_the_model_takes(vgg: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPU that computes: without what else lies there, and with nothing kept of the batches before."""
    gpu, asked = torch.device("cuda:1"), list[Any]()

    def says(name: str, mib: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, name, lambda *given: asked.append((name, *given)) or mib * 2**20)

    says("memory_allocated", 50)
    says("empty_cache")
    says("reset_peak_memory_stats")
    says("max_memory_allocated", 70)
    says("max_memory_reserved", 90)
    monkeypatch.setattr(speed, "stopwatch", lambda compute: Stopwatch())
    monkeypatch.setattr(speed, "reference_ms", lambda compute, watch: asked.append("reference") or 1.0)
    monkeypatch.setattr(Running, "converted", lambda self, arrays: torch.zeros(len(arrays), 3, 32, 32))
    record = measure_running(replace(vgg, compute=replace(vgg.compute, device=gpu), placed_bytes=20 * 2**20), QUICK)
    assert record.memory["peak_allocated"] == {"1": 40.0, "4": 40.0}
    assert record.memory["peak_reserved"] == {"1": 90.0, "4": 90.0}
    names = ("reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved")
    batch = [("empty_cache",), *((name, gpu) for name in names)]
    assert asked == ["reference", ("memory_allocated", gpu), *batch, *batch, "reference"]


def test_the_reference_stays_on_the_cpu(cpu: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[weakref.ref[nn.Module]] = []

    def copied(model: nn.Module) -> nn.Module:
        copy = deepcopy(model)
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(speed, "deepcopy", copied)
    speed.reference_ms(cpu, Stopwatch())
    assert copies == []
    speed.reference_ms(replace(cpu, device=torch.device("meta")), Stopwatch())
    (copy,) = copies
    assert copy() is None
    assert {parameter.device.type for parameter in speed._reference().parameters()} == {"cpu"}


def test_a_cold_start_is_told_by_a_fresh_process() -> None:
    found = cold_start(VGG, Variant(), "cpu", 1)
    assert found["import_s"] > 0.2
    assert found["load_s"] > 0
    assert found["first_ms"] > 0
    assert 0 <= found["added_resident"] < 200 < found["library_resident"] < found["peak_resident"]


def test_a_cold_start_that_fails_says_why() -> None:
    with pytest.raises(speed.SpeedError, match=r"status 1: .*vgg_min"):
        cold_start(Source(backbone="zoo/vgg_min"), Variant(), "cpu", 1)


# What a run keeps


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose finals are one architecture with linear heads, and a control; no speed was measured."""
    folder = tmp_path_factory.mktemp("ran") / "digits"
    run(benchmark(), folder)
    return folder


def benchmark(**changes: Any) -> Benchmark:
    fields = {
        "name": "digits",
        "backbones": ("zoo/vgg_mini",),
        "strategies": ("basic/linear-probe", "basic/ridge-probe"),
        "datasets": ("data/digits",),
        "seeds": (0, 1),
        "search": Search(trials=1),
        "device": Device(kind="cpu", threads=1),
        **changes,
    }
    return Benchmark(**fields)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlbench.evaluation.serving.BRIEF", replace(QUICK, batches=(1, 8)))
    monkeypatch.setattr("tlbench.search.admission.BRIEF", replace(QUICK, batches=(1, 8)))


def test_models_that_compute_the_same_are_measured_once(ran: Path, cpu: Compute, brief: None) -> None:
    said: list[str] = []
    serving = Serving(store=Store(ran), plugins=discover(), compute=cpu, say=said.append)
    assert len(Store(ran).model_keys()) >= 4
    (model,) = serving.unknown("accuracy")
    record = serving.measure(model)
    assert said == []
    assert serving.unknown("accuracy") == []
    assert [known.key for known in Store(ran).speeds()] == [record.key]
    board = read_leaderboard(ran)
    with_backbone = board[board["backbone"] == "zoo/vgg_mini"]
    assert set(with_backbone["latency_ms"]) == {record.latency.p50_ms}
    assert set(with_backbone["throughput_per_s"]) == {record.throughput_at(8)}
    assert set(with_backbone["speed_setting"]) == {record.setting.in_words}
    assert board[board["backbone"] == "none"]["latency_ms"].isna().all()


def test_the_best_by_mean_validation_is_measured_first_of_equals_the_first_by_name_and_before_them_the_answer(
    tmp_path: Path, cpu: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "digits"
    names = ("zoo/vgg_mini", "zoo/efficientnet_mini", "zoo/resnet_mini")
    run(benchmark(backbones=names, strategies=("basic/linear-probe",)), folder)
    serving = Serving(store=Store(folder), plugins=discover(), compute=cpu)
    scores = {("zoo/vgg_mini", 0): 0.9, ("zoo/vgg_mini", 1): 0.1}

    def score(self: Serving, kept: Any, metric: str) -> float:
        return scores.get((kept.name, kept.trial.seed), 0.6)

    monkeypatch.setattr(Serving, "_score", score)
    assert [kept.name for kept in serving.unknown("accuracy")] == [*sorted(names[1:]), "zoo/vgg_mini"]

    answer = {kept.trial.key for kept in serving.finals() if kept.name == "zoo/vgg_mini"}
    monkeypatch.setattr(local, "answer_keys", lambda *_: answer)
    measured: list[str] = []
    monkeypatch.setattr(Serving, "measure", lambda self, kept: measured.append(kept.name))
    limited = benchmark(search=Search(trials=1, budget_s=1.0))
    for spent_s, expected in ((2.0, ["zoo/vgg_mini"]), (0.5, ["zoo/vgg_mini", *sorted(names[1:])])):
        measured.clear()
        plan: Any = SimpleNamespace(
            benchmark=limited, spent_s=spent_s, store=serving.store, journal=Journal(folder / "journal.jsonl")
        )
        local._measure(serving, plan, lambda: False)
        assert measured == expected


def test_a_run_measures_what_it_keeps_in_the_end(tmp_path: Path, brief: None) -> None:
    folder, events = tmp_path / "digits", []
    run(benchmark(strategies=("basic/linear-probe",)), folder, speed=True, on_event=events.append)
    assert getattr(events[-1], "text", "") == "measuring the speed of 1 model"
    (record,) = Store(folder).speeds()
    again: list[Any] = []
    run(benchmark(strategies=("basic/linear-probe",)), folder, speed=True, on_event=again.append)
    assert not any(getattr(event, "text", "").startswith("measuring") for event in again)
    assert Store(folder).speeds()[0].provenance == record.provenance


def test_a_damaged_record_is_as_good_as_none(tmp_path: Path, brief: None, cpu: Compute) -> None:
    store = Store(tmp_path)
    record = measure(VGG, Variant(), cpu, QUICK, discover())
    store.put_speed(record)
    (tmp_path / "speed" / "0123.json").write_text("{")
    assert [known.key for known in store.speeds()] == [record.key]
    (tmp_path / "speed" / f"{record.key}.json").write_text('{"subject": 3}')
    assert store.speeds() == []


# Limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_params=300_000), "max_params = 300,000: 528,000 parameters"),
        (Limits(max_macs=1), "max_macs = "),
        (Limits(max_latency_ms=1e-6), "max_latency_ms = 1e-06: 90 % of single samples take up to "),
        (Limits(min_throughput_per_s=1e9), "min_throughput_per_s = 1e+09: "),
        (Limits(max_memory_mib=0.01), "max_memory_mib = 0.01: "),
    ],
)
def test_a_backbone_that_breaks_a_limit_is_a_row_with_the_reason(
    tmp_path: Path, brief: None, limits: Limits, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = "zoo/efficientnet_mini"
    look = speed.measured
    asked: list[str] = []

    def counted(source: Source, *rest: Any) -> Any:
        asked.append(source.backbone)
        record = look(source, *rest)
        if source.backbone == allowed:
            fast = replace(record.latency, p90_ms=0.0)
            rates = tuple(replace(one, per_s=1e12) for one in record.throughput)
            record = replace(record, latency=fast, throughput=rates, memory={**record.memory, "added_resident": 0.0})
        return record

    monkeypatch.setattr("tlbench.search.admission.measured", counted)
    if limits.max_macs:
        limits = Limits(max_macs=_macs(allowed))
    folder = tmp_path / "digits"
    settled = benchmark(
        backbones=("zoo/vgg_mini", allowed), strategies=("basic/linear-probe",), limits=limits, seeds=(0,)
    )
    run(settled, folder)
    board = read_leaderboard(folder)
    (excluded,) = board[board["state"] == "excluded"].to_dict("records")
    assert excluded["backbone"] == "zoo/vgg_mini"
    assert excluded["reason"].startswith(reason)
    assert set(board[board["state"] == "final"]["backbone"]) == {allowed, "none"}
    before = len(asked)
    run(settled, folder)
    assert len(asked) == before, "what is known is not measured again"
    run(replace(settled, limits=Limits()), folder)
    assert not (read_leaderboard(folder)["state"] == "excluded").any(), "without the limit it competes"
    run(settled, folder)
    board = read_leaderboard(folder)
    assert list(board[board["backbone"] == "zoo/vgg_mini"]["state"]) == ["excluded"]


def _macs(name: str) -> int:
    from tlbench.catalog import Catalog
    from tlbench.evaluation.complexity import of_backbone
    from tlbench.spaces import resolve

    return of_backbone(Catalog(discover()).backbone(name).component, resolve(), 10).macs


def test_a_declared_backbone_is_measured_as_it_is_declared(tmp_path: Path, brief: None) -> None:
    declared = (
        BackboneDeclaration(name="mine/net", base="timm/test_resnet", preprocess={"mean": [0.1, 0.1, 0.1]}),
        BackboneDeclaration(name="mine/other", base="mine/net", preprocess={"size": 32}),
    )
    folder = tmp_path / "digits"
    limited = benchmark(
        backbones=("mine/other",),
        strategies=("basic/scratch",),
        search=Search(trials=1, epochs=1),
        declared_backbones=declared,
        limits=Limits(max_latency_ms=1e6),
        seeds=(0,),
    )
    run(limited, folder, speed=True)
    (record,) = Store(folder).speeds()
    assert record.subject.backbone.name == "mine/other"
    assert record.subject.preprocess["mean"] == [0.1, 0.1, 0.1]
    board = read_leaderboard(folder).set_index("backbone")
    assert board.loc["mine/other", "latency_ms"] == record.latency.p50_ms


def test_what_facts_rule_out_is_not_even_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tlbench_zoo.backbone import ZooBackbone

    def load(self: Any, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("built")

    monkeypatch.setattr(ZooBackbone, "load", load)
    result = tlbench_("run", _file(tmp_path, "max_params = 1000"), "--out", tmp_path)
    assert result.exit_code == 2
    assert "no backbone keeps the limits (zoo/vgg_mini: max_params = 1,000: " in result.stderr


def _file(folder: Path, limits: str) -> Path:
    file = folder / "limited.toml"
    file.write_text(
        'backbones = ["zoo/vgg_mini"]\nstrategies = ["basic/linear-probe"]\ndatasets = ["data/digits"]\n'
        f"seeds = [0]\n[search]\ntrials = 1\n[limits]\n{limits}\n"
    )
    return file


# The command


def test_the_command_tells_a_line_per_backbone() -> None:
    result = tlbench_("measure", "zoo/vgg_mini", "zoo/vit_mini", "--threads", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any(line.startswith("zoo/vgg_mini ") and " ms " in line and "/s" in line for line in lines)
    assert any(line.startswith("zoo/vit_mini ") for line in lines)
    assert "1 thread" in lines[0]


def test_the_command_keeps_and_prints_records(tmp_path: Path, ran: Path) -> None:
    result = tlbench_("measure", ran, "--json", "--threads", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert told["subject"]["backbone"]["name"] == "zoo/vgg_mini"
    assert told["provenance"]["random_weights"] is False
    assert told["key"] in {record.key for record in Store(tmp_path).speeds()}
    assert told["key"] in {record.key for record in Store(ran).speeds()}


def test_a_saved_model_is_measured_with_its_head(ran: Path) -> None:
    store = Store(ran)
    result = tlbench_("measure", store.model_path(store.model_keys()[0]), "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["subject"]["head"]["classes"] == 10


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tlbench_("measure", "zoo/vgg_min").exit_code == 2
    assert tlbench_("measure", tmp_path).exit_code == 2
    result = tlbench_("measure", "zoo/vgg_mini", "--runtime", "onnxruntime", "--dtype", "float16")
    assert result.exit_code == 1
    assert "zoo/vgg_mini was not measured: ONNX Runtime is measured in float32" in result.stderr
    assert "nothing was measured" in result.stdout
