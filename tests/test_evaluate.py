"""Evaluation of whole jobs: what is measured and stored, what must not be touched, what becomes of failures."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, log_loss
from torch import nn

import pieces
import tiny
from tlbench import files
from tlbench.catalog import Catalog
from tlbench.components import Backbone, Split
from tlbench.errors import StoreError
from tlbench.evaluation import bundle, final
from tlbench.evaluation.data import load_data
from tlbench.evaluation.device import Compute
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.fitting import Fitting
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.predict import predict
from tlbench.measurement import Measurement, Predictions
from tlbench.plugins import discover
from tlbench.spaces import resolve
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, Job, Reference, Trial

MEANS = {
    "strategy": Reference(name="tiny/means", version=1),
    "params": {"pool": "native", "temperature": 1.0},
    "epochs": 0,
}
PROBE = {
    "strategy": Reference(name="basic/linear-probe", version=1),
    "params": {"pool": "native", "l2": 0.1},
    "epochs": 0,
}
Make = Callable[..., Evaluator]


def go_on(epoch: int, score: float) -> bool:
    return False


def full(**changes: Any) -> Trial:
    return pieces.trial(params=pieces.recipe(tiny.Full(), **changes))


def of(strategy: str, **changes: Any) -> Trial:
    return pieces.trial(strategy=Reference(name=f"tiny/{strategy}", version=1), **changes)


@pytest.fixture
def make(tiny_plugin: object, tmp_path: Path) -> Make:
    """Evaluators, each with a results folder of its own."""
    made: list[Evaluator] = []

    def evaluator(excluded: dict[str, frozenset[str]] | None = None, compute: Compute = pieces.CPU) -> Evaluator:
        store = Store(tmp_path / f"results-{len(made)}")
        made.append(Evaluator(Catalog(discover()), store, compute, excluded or {}))
        return made[-1]

    return evaluator


@pytest.fixture
def evaluator(make: Make) -> Evaluator:
    return make()


def measured(evaluator: Evaluator, trial: Trial, keep_model_above: float | None = None) -> Measurement:
    """What the evaluator returns, which is also what it stored."""
    (result,) = evaluator.evaluate(Job(trial=trial, keep_model_above=keep_model_above), go_on)
    stored = evaluator.store.get(trial.key)
    assert stored is not None
    assert stored.to_json()["scores"] == result.to_json()["scores"]
    assert (stored.status, stored.failure) == (result.status, result.failure)
    return result


def complete(evaluator: Evaluator, trial: Trial) -> tuple[Measurement, Predictions]:
    result = measured(evaluator, trial)
    assert result.status == "complete", result.failure
    predictions = evaluator.store.predictions(trial.key)
    assert predictions is not None
    return result, predictions


# Scores and predictions


@pytest.mark.parametrize("trial", [full(), pieces.trial(**MEANS), pieces.trial(**PROBE)], ids=lambda t: t.strategy.name)
@pytest.mark.parametrize("stage", ["search", "final"])
def test_scores_are_those_of_the_stored_predictions(evaluator: Evaluator, trial: Trial, stage: Any) -> None:
    result, rows = complete(evaluator, replace(trial, stage=stage))
    data = load_data(tiny.Blobs(), split_seed=0, shots=None)
    searched = dict(zip(data.validation.ids, data.search.tolist(), strict=True))
    split = np.array(rows.split)
    chosen = np.array([searched.get(name, False) for name in rows.sample_id])
    parts = {"validation": split == "validation", "search": chosen, "pick": (split == "validation") & ~chosen}
    if stage == "final":
        parts["test"] = split == "test"
    assert result.scores.keys() == parts.keys()
    assert set(rows.split) == {"validation", "test"} & parts.keys()
    for part, where in parts.items():
        scores, label, predicted = result.scores[part], rows.label[where], rows.predicted[where]
        assert scores["n"] == int(where.sum())
        assert scores["n_correct"] == int((label == predicted).sum())
        assert scores["accuracy"] == accuracy_score(label, predicted)
        assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))
        assert scores["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro", zero_division=0))
        assert scores["confusion"] == confusion_matrix(label, predicted, labels=range(3)).tolist()
        probabilities = torch.from_numpy(rows.logits[where]).double().softmax(1).numpy()
        assert scores["nll"] == pytest.approx(log_loss(label, probabilities, labels=range(3)), rel=0.01)


def test_every_test_sample_is_evaluated_once(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 19: 101 samples and batches that do not divide them; none is dropped, none comes twice."""
    labels = [index % 3 for index in range(101)]
    ids = [f"test/{index}" for index in range(101)]
    test = Split(ids, labels, ("red", "green", "blue"), tiny._Blobs(labels, 3))
    monkeypatch.setattr(tiny.Blobs, "load_test", lambda self, seed: test)
    for trial in (full(batch_size=8), pieces.trial(**MEANS)):
        result, rows = complete(evaluator, replace(trial, stage="final"))
        assert result.counts["test"] == result.counts["test_evaluated"] == result.scores["test"]["n"] == 101
        tested = [name for name, split in zip(rows.sample_id, rows.split, strict=True) if split == "test"]
        assert sorted(tested) == sorted(ids)
        stored = dict(zip(rows.sample_id, rows.label.tolist(), strict=True))
        assert [stored[name] for name in ids] == labels


def test_a_constant_predictor_gets_the_share_of_its_class(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 25: a degenerate model scores the majority, and its row shows one predicted class."""

    def constant(self: Any, features: Any, labels: Any, configurations: Any, generator: Any) -> list[nn.Module]:
        head = nn.Linear(16, 3)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        return [head]

    labels = [1] * 40 + [0] * 10 + [2] * 5
    test = Split([f"t{i}" for i in range(55)], labels, ("red", "green", "blue"), tiny._Blobs(labels, 3))
    monkeypatch.setattr(tiny.Blobs, "load_test", lambda self, seed: test)
    monkeypatch.setattr(tiny.Means, "fit", constant)
    result, _ = complete(evaluator, pieces.trial(**MEANS, stage="final"))
    assert result.scores["test"]["accuracy"] == result.scores["test"]["majority_accuracy"] == 40 / 55
    assert result.scores["test"]["classes_predicted"] == 1
    assert result.scores["test"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert result.scores["test"]["confusion"] == [[0, 10, 0], [0, 40, 0], [0, 5, 0]]


def test_the_epoch_is_chosen_on_the_search_half_and_in_a_final_on_all_of_validation(evaluator: Evaluator) -> None:
    for stage, part in (("search", "search"), ("final", "validation")):
        trial = replace(full(learning_rate=0.05, batch_norm="training"), stage=stage, epochs=4)  # type: ignore[arg-type]
        result, _ = complete(evaluator, trial)
        best = result.curve[result.counts["best_epoch"] - 1].search_score
        assert best == max(point.search_score or 0.0 for point in result.curve)
        assert result.scores[part]["accuracy"] == best


# The test door


def test_a_search_never_touches_test_data(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 1: where test data cannot be had, every search trial works and every final fails, saying where."""

    def locked(self: Any, seed: int) -> Split:
        raise RuntimeError("the door is locked")

    monkeypatch.setattr(tiny.Blobs, "load_test", locked)
    for trial in (full(), pieces.trial(**MEANS), pieces.trial(**PROBE)):
        result, rows = complete(evaluator, trial)
        assert "test" not in {*result.scores, *rows.split, *result.counts}
        locked_out = measured(evaluator, replace(trial, stage="final"))
        assert locked_out.failure is not None
        assert (locked_out.failure.stage, locked_out.failure.message) == ("test", "the door is locked")
        assert not locked_out.scores


def test_a_final_opens_the_door_once_and_says_so(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = tiny.Blobs.load_test

    def noted(self: Any, seed: int) -> Split:
        opened.append(seed)
        return real(self, seed)

    monkeypatch.setattr(tiny.Blobs, "load_test", noted)
    result, _ = complete(evaluator, replace(full(), stage="final"))
    assert (result.counts["test_openings"], opened) == (1, [0])
    assert result.counts["test_duplicates"] == 0


def test_two_openings_are_counted_as_two(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    real = final.TestDoor.open

    def twice(self: Any, data: Any) -> Any:
        real(self, data)
        return real(self, data)

    monkeypatch.setattr(final.TestDoor, "open", twice)
    result, _ = complete(evaluator, replace(full(), stage="final"))
    assert result.counts["test_openings"] == 2


def test_a_strategy_that_asks_for_test_data_is_given_none(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peek(self: Any, features: Any, labels: Any, configurations: Any, generator: Any) -> Any:
        assert len(labels) == 90
        assert all(len(values) == 90 for values in features.values())
        return features["test"]

    monkeypatch.setattr(tiny.Means, "fit", peek)
    monkeypatch.setattr(tiny.Full, "adapt", lambda self, model, params: model.test)
    failures = [measured(evaluator, trial).failure for trial in (pieces.trial(**MEANS, stage="final"), full())]
    assert [failure and failure.type for failure in failures] == ["KeyError", "AttributeError"]


# Invariants of the oracles, through the whole evaluator


@pytest.mark.parametrize("batch_norm", ["frozen", "training"])
def test_learning_rate_0_changes_nothing(evaluator: Evaluator, batch_norm: str) -> None:
    """Weights stay as they were; batch-norm statistics too, unless the recipe lets them train."""
    trial = full(learning_rate=0.0, batch_norm=batch_norm, weight_decay=0.1)
    result, rows = complete(evaluator, trial)
    untouched = pieces.model(learning_rate=0.0, batch_norm=batch_norm)
    expected = predict(untouched, pieces.samples().validation, tiny.Tiny().preprocess, pieces.CPU)
    same = np.array_equal(rows.logits, expected.astype(np.float16))
    assert same is (batch_norm == "frozen")
    if batch_norm == "frozen":
        assert len({point.search_score for point in result.curve}) == 1


VARIED = {"augmentation": "rand", "mixup": 0.2, "cutmix": 1.0, "dropout": 0.2}


@pytest.mark.parametrize(
    "trial", [full(**VARIED), of("thaw"), pieces.trial(**MEANS), pieces.trial(**PROBE)], ids=lambda t: t.strategy.name
)
def test_the_same_trial_gives_the_same_predictions_bit_for_bit(
    make: Make, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the evaluator did before: caches and generators of other trials leave no trace (pitfall 18)."""
    cold, warm = make(), make()
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "warm"))
    for before in (replace(full(), seed=1), pieces.trial(**MEANS), pieces.trial(**PROBE, seed=3)):
        measured(warm, before)
    torch.rand(7)
    trial = replace(trial, shots=11, stage="final")
    two, second = complete(warm, trial)
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "cold"))
    one, first = complete(cold, trial)
    assert np.array_equal(first.logits, second.logits)
    assert first.sample_id == second.sample_id
    assert one.scores == two.scores
    assert [point.train_loss for point in one.curve] == [point.train_loss for point in two.curve]


def test_the_seed_matters(evaluator: Evaluator) -> None:
    one, two = (complete(evaluator, replace(full(), seed=seed))[1].logits for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_neighbours_of_no_part_are_searched_at_once(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of validation nor of test data, whether a trial is asked alone or with others."""
    knn, params = Reference(name="basic/knn", version=1), {"pool": "native", "temperature": 0.07}
    one, other = (pieces.trial(strategy=knn, params={**params, "neighbours": count}, epochs=0) for count in (3, 5))
    searched: list[int] = []
    real = torch.Tensor.topk

    def topk(self: torch.Tensor, count: int, **options: Any) -> object:
        searched.append(self.numel())
        return real(self, count, **options)

    monkeypatch.setattr(torch.Tensor, "topk", topk)
    monkeypatch.setattr(bundle, "MOST_ELEMENTS", 1000)
    result, _ = complete(evaluator, replace(one, stage="final"))
    together = evaluator.evaluate(Job(trial=one, more=(other,)), go_on)
    assert [each.status for each in together] == ["complete"] * 2
    assert searched
    counts = result.counts
    assert max(searched) <= 1000 < counts["train"] * min(counts["validation"], counts["test"])


# Frozen means frozen (pitfall 7)


@pytest.fixture
def resnet(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A residual network with batch norm, its weights random: none are to be had here."""
    backbone: Backbone = Catalog(discover()).backbone("timm/test_resnet").component
    real = type(backbone).load
    monkeypatch.setattr(type(backbone), "load", lambda self, pretrained: real(self, False))
    return backbone


def on_resnet(backbone: Backbone, **changes: Any) -> Trial:
    name = Reference(name=f"timm/{backbone.name}", version=backbone.version)
    facts = {"backbone": name, "preprocess": dict(backbone.preprocess.identity), "shots": 4, "epochs": 1}
    return pieces.trial(**{**facts, **changes})


def test_a_probe_leaves_a_real_network_as_it_was(evaluator: Evaluator, resnet: Backbone) -> None:
    module = resnet.load(pretrained=False)
    tensors = len(list(module.parameters())), len(list(module.buffers()))
    assert min(tensors) > 10
    probe, _ = complete(evaluator, on_resnet(resnet, **PROBE))
    assert probe.frozen["parameters_changed"] is probe.frozen["buffers_changed"] is False
    assert (probe.frozen["parameters_checked"], probe.frozen["buffers_checked"]) == tensors
    head = Reference(name="tiny/head", version=1)
    params = pieces.recipe(tiny.Head(), batch_norm="training", learning_rate=0.1)
    trained, _ = complete(evaluator, on_resnet(resnet, strategy=head, params=params))
    assert trained.frozen == probe.frozen
    assert trained.counts["parameters_trainable"] == trained.counts["parameters_head"]


def test_a_strategy_that_moves_what_it_calls_frozen_is_caught(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cheat(self: Any, model: Any, params: Any, epoch: int, epochs: int) -> None:
        with torch.no_grad():
            model.backbone.stem[1].running_mean += 1e-3

    monkeypatch.setattr(tiny.Head, "begin_epoch", cheat)
    result, _ = complete(evaluator, of("head"))
    assert result.frozen["buffers_changed"] is True
    assert result.frozen["parameters_changed"] is False
    assert result.row()["frozen_buffers_changed"] is True


# Failures: each a stored row with a kind, a stage and a message

FAILURES: dict[str, tuple[BaseException, str]] = {
    "an error": (ValueError("no such layer"), "error"),
    "an exit": (SystemExit("bye"), "error"),
    "memory of the machine": (MemoryError("no memory"), "oom"),
    "memory of the device": (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
    "memory of torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "oom"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
    "a disk that became read-only": (OSError(errno.EROFS, "Read-only file system"), "infrastructure"),
    "a missing file": (FileNotFoundError(errno.ENOENT, "No such file"), "error"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize(("place", "stage"), [("adapt", "train"), ("load", "load"), ("image", "train")])
def test_a_failure_is_a_row(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, case: str, place: str, stage: str
) -> None:
    error, kind = FAILURES[case]

    def fail(*_: Any) -> Any:
        raise error

    target: tuple[Any, str] = {
        "adapt": (tiny.Full, "adapt"),
        "load": (tiny.Tiny, "load"),
        "image": (tiny._Blobs, "__getitem__"),
    }[place]
    monkeypatch.setattr(*target, fail)
    result = measured(evaluator, full())
    assert result.failure is not None
    assert (result.status, result.failure.kind, result.failure.stage) == ("failed", kind, stage)
    assert (result.failure.type, result.failure.message) == (type(error).__name__, str(error))
    assert result.cost["total_s"] >= 0
    assert result.provenance["plugins"]["strategy"]["distribution"] == "tiny"
    assert evaluator.store.predictions(result.key) is None
    assert evaluator.store.model_keys() == []


def test_the_strategies_that_misbehave(evaluator: Evaluator) -> None:
    rows = {name: measured(evaluator, of(name)).failure for name in ("fails", "diverges")}
    assert {name: failure and (failure.kind, failure.stage) for name, failure in rows.items()} == {
        "fails": ("error", "train"),
        "diverges": ("diverged", "train"),
    }
    assert "loss became nan" in rows["diverges"].message  # type: ignore[union-attr]


def test_no_memory_for_a_single_sample_is_oom(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(self: Any, x: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    width = tiny.Net.forward_features
    monkeypatch.setattr(tiny.Net, "forward_features", lambda self, x: (width if len(x) == 1 else scarce)(self, x))
    assert measured(evaluator, pieces.trial(**MEANS)).status == "complete"
    calls: list[int] = []

    def once(self: Any, x: Any) -> Any:
        calls.append(len(x))
        return width(self, x) if len(calls) == 1 else scarce(self, x)

    monkeypatch.setattr(tiny.Net, "forward_features", once)
    failed = measured(evaluator, pieces.trial(**{**MEANS, "params": resolve({"temperature": 1.0, "pool": "max"})}))
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.stage) == ("oom", "features")
    assert "single sample" in failed.failure.message


def test_a_name_nobody_answers_to_is_a_row_too(evaluator: Evaluator) -> None:
    failed = measured(evaluator, of("ful"))
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.stage) == ("error", "load")
    assert "did you mean 'tiny/full'" in failed.failure.message


def test_two_heads_for_one_configuration_are_refused(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.Means, "fit", lambda *_: [nn.Linear(16, 3), nn.Linear(16, 3)])
    failed = measured(evaluator, pieces.trial(**MEANS))
    assert failed.failure is not None
    assert "'means' fitted 2 heads for one configuration" in failed.failure.message


def test_an_interrupt_is_not_a_result(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny.Full, "adapt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(Job(trial=full()), go_on)
    assert evaluator.store.keys() == []


def test_a_result_that_cannot_be_written_stops_the_run(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", full_disk)
    with pytest.raises(StoreError, match="No space left on device"):
        evaluator.evaluate(Job(trial=full()), go_on)


# What is remembered between trials (pitfall 17)

MISSES: dict[str, Any] = {
    "backbone": Reference(name="tiny/net", version=2),
    "declared": ({"base": "tiny/net", "options": {"width": 2}},),
    "weights": "sha256:" + "1" * 64,
    "preprocess": {**tiny.Tiny().preprocess.identity, "crop": 0.5},
    "dataset": Reference(name="tiny/blobs", version=2),
    "fingerprint": "another",
    "evaluator": 2,
    "params": resolve({"temperature": 1.0, "pool": "max"}),
}
HITS: dict[str, Any] = {
    "params": resolve({"temperature": 2.0}),
    "seed": 5,
    "metric": "nll",
    "stage": "final",
    "strategy": Reference(name="tiny/means", version=2),
    "split_seed": 1,
    "shots": 5,
    "fraction": 0.5,
}


def test_features_are_found_again_only_where_nothing_they_depend_on_changed(make: Make) -> None:
    evaluator = make()
    base = pieces.trial(**MEANS)
    first, again = complete(evaluator, base)[0], complete(evaluator, base)[0]
    assert (first.cost["features_cached"], again.cost["features_cached"]) == (False, True)
    assert first.cost["features_s"] == again.cost["features_s"] > 0
    assert first.frozen == again.frozen
    for name, value in HITS.items():
        assert complete(evaluator, replace(base, **{name: value}))[0].cost["features_cached"] is True, name
    for name, value in MISSES.items():
        assert complete(evaluator, replace(base, **{name: value}))[0].cost["features_cached"] is False, name
    evaluator.compute = replace(pieces.CPU, dtype=torch.bfloat16)
    assert complete(evaluator, base)[0].cost["features_cached"] is False


def test_features_from_memory_are_as_good_as_fresh_ones(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "0")
    warm = make()
    complete(warm, pieces.trial(**MEANS))
    other = pieces.trial(**{**MEANS, "params": resolve({"temperature": 0.5})})
    assert np.array_equal(complete(warm, other)[1].logits, complete(make(), other)[1].logits)


def test_a_frozen_strategy_from_scratch_sees_random_features_of_its_seed(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = complete(evaluator, pieces.trial(**MEANS))[1].logits
    monkeypatch.setattr(tiny.Means, "pretrained", False)
    random = [complete(evaluator, pieces.trial(**MEANS, weights="random", seed=seed))[1].logits for seed in (0, 1, 0)]
    assert not np.array_equal(random[0], pretrained)
    assert not np.array_equal(random[0], random[1])
    assert np.array_equal(random[0], random[2])


@pytest.mark.parametrize(
    ("name", "params"),
    [("tiny/means", {"temperature": 0.02}), ("basic/linear-probe", {"l2": 1e-4}), ("basic/knn", None)],
)
def test_what_mixed_precision_chooses_is_what_it_tests(
    tiny_plugin: object, name: str, params: dict[str, Any] | None
) -> None:
    """Only the backbone computes in bfloat16: validation and test logits are those of one and the same head."""
    strategy = Catalog(discover()).strategy(name).component
    params = {"pool": "native", **(params or {"neighbours": 20, "temperature": 0.07})}
    of, fitted = pieces.samples(), {}
    for dtype in (torch.bfloat16, torch.float32):
        fitting = Fitting(
            trial=pieces.trial(strategy=Reference(name=name, version=1), params=params),
            backbone=tiny.Tiny(),
            samples=of,
            compute=replace(pieces.CPU, dtype=dtype),
            memory=Memory(1),
        )
        fitted[dtype] = fitting.fit_frozen(strategy)
    half, exact = fitted.values()
    np.testing.assert_allclose(half.predict(of.validation), half.validation_logits, rtol=1e-5, atol=1e-5)
    assert not np.allclose(half.validation_logits, exact.validation_logits, rtol=1e-4, atol=1e-4)


# Controls, and heads that begin as probes

MAJORITY = {"strategy": Reference(name="controls/majority", version=1), "params": {}, "epochs": 0}


@pytest.fixture
def with_controls(make: Make, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.delenv("TLBENCH_DISABLE_PLUGINS")
    return make()


def test_a_control_is_scored_like_any_other_and_has_no_model(with_controls: Evaluator) -> None:
    trial = pieces.trial(**MAJORITY, backbone=NO_BACKBONE, weights="none", preprocess={}, stage="final")
    result, rows = complete(with_controls, trial)
    assert set(rows.split) == {"validation", "test"}
    for part in result.scores.values():
        assert part["accuracy"] == part["majority_accuracy"] == pytest.approx(1 / 3)
    assert result.counts["test_openings"] == 1
    assert result.counts["test"] == result.counts["test_evaluated"] == 60
    assert "backbone" not in result.provenance["plugins"]
    assert with_controls.store.model_keys() == []


def test_a_head_that_starts_as_a_probe_is_that_probe_before_training(evaluator: Evaluator) -> None:
    """With rate 0 nothing moves: the logits are those of the linear probe with the same penalty."""
    probe = complete(evaluator, pieces.trial(**{**PROBE, "params": {"pool": "avg", "l2": 0.03}}))[1]
    recipe = {"head_start": "probe", "probe_l2": 0.03, "pool": "avg", "learning_rate": 0.0}
    result, rows = complete(evaluator, full(**recipe))
    np.testing.assert_allclose(rows.logits, probe.logits, atol=2e-2)
    np.testing.assert_array_equal(rows.predicted, probe.predicted)
    assert result.cost["features_s"] > 0
    other = complete(evaluator, full(**{**recipe, "probe_l2": 10.0}))[1]
    assert not np.allclose(other.logits, probe.logits, atol=2e-2)
    failed = measured(evaluator, full(**recipe, head="mlp"))
    assert failed.failure is not None
    assert "head_start = 'probe' needs head = 'linear', not 'mlp'" in failed.failure.message


# Rows


def test_a_row_holds_what_decided_it(evaluator: Evaluator) -> None:
    """Pitfalls 22 and 30: the full recipe with absolute learning rate and batch size, and what was counted."""
    result, _ = complete(evaluator, replace(full(batch_size=32, learning_rate=0.02), stage="final"))
    row = result.row()
    assert row["trial_params"] == resolve({"batch_size": 32, "learning_rate": 0.02})
    assert row["trial_preprocess"] == tiny.Tiny().preprocess.identity
    assert (row["trial_evaluator"], row["trial_strategy_version"]) == (1, 1)
    expected = {
        "classes": 3,
        "train": 90,
        "validation": 60,
        "search": 30,
        "test": 60,
        "epochs_run": 2,
        "steps": 2 * math.ceil(90 / 32),
        "micro_batch": 32,
        "parameters_head": 51,
        "feature_width": 16,
    }
    assert {name: row[f"counts_{name}"] for name in expected} == expected
    total = row["counts_parameters_total"]
    assert total == row["counts_parameters_trainable"] == row["counts_parameters_backbone"] + 51
    for cost in ("load_s", "train_s", "validation_s", "total_s"):
        assert row[f"cost_{cost}"] >= 0
    assert row["cost_features_s"] is None
    assert row["cost_train_s"] + row["cost_validation_s"] <= row["cost_total_s"]


def test_a_row_says_where_it_comes_from(evaluator: Evaluator) -> None:
    torch.set_num_threads(1)
    result, _ = complete(evaluator, full())
    seen = result.provenance
    assert seen["plugins"]["backbone"] == {"plugin": "tiny", "distribution": "tiny", "version": "1.0"}
    assert torch.__version__.startswith(seen["libraries"]["torch"])
    assert (seen["device"], seen["dtype"], seen["threads"], seen["tf32"]) == ("cpu", "float32", 1, None)
    assert datetime.fromisoformat(seen["started_utc"]) <= datetime.fromisoformat(seen["ended_utc"])


def test_preprocessing_is_part_of_the_question() -> None:
    """Pitfalls 5 and 6: another mean, crop or interpolation is another trial."""
    identity = dict(tiny.Tiny().preprocess.identity)
    assert {"mean", "std", "size", "interpolation", "crop"} <= identity.keys()
    keys = {pieces.trial(preprocess={**identity, name: "other"}).key for name in identity}
    assert len(keys | {full().key}) == len(identity) + 1


def test_samples_left_out_are_in_no_part(make: Make) -> None:
    excluded = frozenset({"train/0", "train/1", "validation/2", "test/3", "test/4"})
    result, rows = complete(make({"tiny/blobs": excluded}), replace(full(), stage="final"))
    assert not excluded & set(rows.sample_id)
    assert [result.counts[part] for part in ("train", "validation", "test")] == [88, 59, 58]


def test_shots_and_fraction_reduce_training_alone(evaluator: Evaluator) -> None:
    """Pitfall 20: every class keeps its share."""
    result, _ = complete(evaluator, replace(pieces.trial(**MEANS), shots=10, fraction=0.5))
    assert (result.counts["train"], result.counts["validation"]) == (15, 60)


# What is kept


def test_a_search_trial_keeps_its_model_only_if_it_beats_the_incumbent(evaluator: Evaluator) -> None:
    trial = full()
    score = measured(evaluator, trial).score("validation", "accuracy")
    assert score is not None
    assert evaluator.store.model_keys() == [trial.key]
    evaluator.store.drop_model(trial.key)
    for threshold, kept in ((score, []), (score + 0.01, []), (score - 0.01, [trial.key])):
        measured(evaluator, trial, keep_model_above=threshold)
        assert evaluator.store.model_keys() == kept


def test_a_lower_loss_beats_the_incumbent(evaluator: Evaluator) -> None:
    trial = replace(full(), metric="nll")
    score = measured(evaluator, trial).score("validation", "nll")
    assert score is not None
    evaluator.store.drop_model(trial.key)
    for threshold, kept in ((score - 0.01, []), (score + 0.01, [trial.key])):
        measured(evaluator, trial, keep_model_above=threshold)
        assert evaluator.store.model_keys() == kept


def test_a_final_always_keeps_its_model(evaluator: Evaluator) -> None:
    trial = replace(full(), stage="final")
    measured(evaluator, trial, keep_model_above=2.0)
    assert evaluator.store.model_keys() == [trial.key]


def test_a_pruned_trial_has_its_curve_and_no_model(evaluator: Evaluator) -> None:
    trial = replace(full(), epochs=5)
    (result,) = evaluator.evaluate(Job(trial=trial), lambda epoch, score: epoch == 2)
    assert (result.status, len(result.curve), result.answers) == ("pruned", 2, False)
    assert result.counts["epochs_run"] == 2
    assert evaluator.store.model_keys() == []
    assert evaluator.store.get(trial.key) is not None


def test_a_model_is_deployed_once(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging twice, for the test and for the saved model, would give another model the second time."""
    deployed: list[Any] = []

    def deploy(self: Any, model: Any) -> Any:
        deployed.append(model)
        return model

    monkeypatch.setattr(tiny.Full, "deploy", deploy)
    complete(evaluator, replace(full(), stage="final"))
    assert len(deployed) == 1


TOP: dict[str, Any] = {"strategy": Reference(name="tiny/head", version=1), "params": pieces.recipe(tiny.Head())}


def test_the_row_tells_that_it_trained_on_cached_activations(make: Make) -> None:
    evaluator = make()
    rate = {**TOP, "params": pieces.recipe(tiny.Head(), learning_rate=1e-2)}
    first, again = complete(evaluator, pieces.trial(**TOP))[0], complete(evaluator, pieces.trial(**rate))[0]
    for row in (first, again):
        assert (row.counts["boundary"], row.counts["augmentation"]) == ("head", "cached")
        assert row.frozen["parameters_changed"] is row.frozen["buffers_changed"] is False
    assert (first.cost["boundary_cached"], again.cost["boundary_cached"]) == (False, True)
    for name in ("boundary_s", "boundary_flops"):
        assert first.cost[name] == again.cost[name] > 0
    full = complete(evaluator, pieces.trial())[0]
    assert (full.counts["boundary"], full.counts["augmentation"]) == (None, "none")
    assert full.cost["boundary_s"] is full.cost["boundary_flops"] is full.cost["boundary_cached"] is None


def test_a_boundary_is_found_again_only_where_nothing_it_depends_on_changed(make: Make) -> None:
    evaluator = make()
    base = pieces.trial(**TOP)
    complete(evaluator, base)
    for name in ("seed", "metric", "stage"):
        assert complete(evaluator, replace(base, **{name: HITS[name]}))[0].cost["boundary_cached"] is True, name
    for name, value in MISSES.items():
        if name != "params":
            assert complete(evaluator, replace(base, **{name: value}))[0].cost["boundary_cached"] is False, name


def test_cached_activations_take_a_share_of_the_machines_memory(make: Make) -> None:
    evaluator = make()
    evaluator.boundaries = Memory(4, most_bytes=1000)
    row = complete(evaluator, pieces.trial(**TOP))[0]
    assert (row.counts["boundary"], evaluator.boundaries.nbytes) == (None, 0)
