"""Features and decoded samples that are kept: what is found again, what never is, and what is computed only once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pieces
import tiny
from tlbench import caches
from tlbench.catalog import Catalog
from tlbench.evaluation import provenance, shelf
from tlbench.evaluation.arrays import Arrays, row_of
from tlbench.evaluation.device import Compute
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.features import Features
from tlbench.evaluation.fitting import Fitting
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.samples import Samples
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.spaces import resolve
from tlbench.store import Store
from tlbench.strategies import Strategy
from tlbench.trial import Job, Reference, Trial

MEANS: dict[str, Any] = {
    "strategy": Reference(name="tiny/means", version=1),
    "params": {"pool": "native", "temperature": 1.0},
    "epochs": 0,
}


class Counted:
    """How many samples were decoded, and how many went through the network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded = self.forwarded = self.passes = 0
        decode, forward = tiny._Blobs.__getitem__, tiny.Net.forward_features

        def counted_decode(blobs: Any, index: int) -> Any:
            self.decoded += 1
            return decode(blobs, index)

        def counted_forward(net: Any, x: Any) -> Any:
            if x.device.type != "meta" and len(x) > 1:  # one goes through alone where shapes are looked at
                self.forwarded += len(x)
                self.passes += 1
            return forward(net, x)

        monkeypatch.setattr(tiny._Blobs, "__getitem__", counted_decode)
        monkeypatch.setattr(tiny.Net, "forward_features", counted_forward)

    def since(self) -> tuple[int, int]:
        """Decoded and forwarded since it was last asked."""
        found = self.decoded, self.forwarded
        self.decoded = self.forwarded = self.passes = 0
        return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def evaluate(tiny_plugin: object, tmp_path: Path) -> Callable[..., Measurement]:
    """A trial in a process of its own, as far as memory goes."""

    def measured(trial: Trial, compute: Compute = pieces.CPU, say: Any = lambda _: None) -> Measurement:
        evaluator = Evaluator(Catalog(discover()), Store(tmp_path / "results"), compute, {}, say=say)
        (result,) = evaluator.evaluate(Job(trial=trial), lambda epoch, score: False)
        assert result.status == "complete", result.failure
        return result

    return measured


def logits(tmp_path: Path, trial: Trial) -> np.ndarray:
    predictions = Store(tmp_path / "results").predictions(trial.key)
    assert predictions is not None
    return predictions.logits


def entries(section: str) -> Iterator[Arrays]:
    """Every entry of a section, with the key it says it has."""
    for folder in (caches.root() / section).glob("[!.C]*"):
        yield Arrays(folder, json.loads((folder / "key.json").read_text()), lambda error: None)


# Found again


def test_a_second_search_decodes_nothing_and_computes_no_features(
    evaluate: Callable[..., Measurement], counted: Counted, tmp_path: Path
) -> None:
    trial = pieces.trial(**MEANS)
    first = evaluate(trial)
    before = logits(tmp_path, trial)
    assert counted.since() == (150, 150)
    second = evaluate(trial)
    assert counted.since() == (0, 0)
    assert (first.cost["features_cached"], second.cost["features_cached"]) == (False, True)
    for name in ("features_s", "features_flops"):
        assert second.cost[name] == pytest.approx(first.cost[name]), "what is found still carries its cost"
    assert second.frozen == first.frozen
    assert second.counts == first.counts
    assert second.scores == first.scores
    assert np.array_equal(logits(tmp_path, trial), before)


@pytest.mark.parametrize(
    "changes", [{"split_seed": 3}, {"shots": 4}, {"fraction": 0.3}, {"seed": 9}, {"metric": "nll"}]
)
def test_any_part_of_the_samples_is_found(
    evaluate: Callable[..., Measurement], counted: Counted, changes: dict[str, Any]
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    found = evaluate(pieces.trial(**{**MEANS, **changes}))
    assert counted.since() == (0, 0)
    assert found.cost["features_cached"] is True


def test_a_larger_part_is_computed_as_far_as_it_is_missing(
    evaluate: Callable[..., Measurement], counted: Counted
) -> None:
    small = evaluate(pieces.trial(**MEANS, fraction=0.2))
    assert counted.since() == (18 + 60, 18 + 60)
    whole = evaluate(pieces.trial(**MEANS))
    assert counted.since() == (72, 72)
    assert whole.cost["features_cached"] is False
    assert whole.cost["features_s"] > small.cost["features_s"] > 0
    assert whole.cost["features_flops"] == pytest.approx(small.cost["features_flops"] * 150 / 78, rel=1e-6)


def test_samples_are_shared_by_all_that_prepare_them_alike(
    evaluate: Callable[..., Measurement], counted: Counted
) -> None:
    evaluate(pieces.trial(epochs=1))
    assert counted.since()[0] == 150
    for other in (pieces.trial(epochs=2, seed=4, split_seed=1), pieces.trial(**MEANS, shots=3)):
        evaluate(other)
        assert counted.since()[0] == 0


def test_a_pass_that_was_killed_goes_on_where_it_stopped(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tlbench.evaluation.predict.BLOCK", 8)
    monkeypatch.setattr("tlbench.evaluation.device.BATCH_ELEMENTS", {"cpu": 8 * 8 * 3 * 8})
    forward = tiny.Net.forward_features

    def mortal(net: Any, x: Any) -> Any:
        if counted.passes == 5:
            raise KeyboardInterrupt
        return forward(net, x)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Net, "forward_features", mortal)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pieces.trial(**MEANS))
    decoded, forwarded = counted.since()
    assert forwarded == 40
    resumed = evaluate(pieces.trial(**MEANS))
    assert counted.since() == (150 - decoded, 150 - 40)
    assert resumed.cost["features_cached"] is False
    killed_and_resumed = logits(tmp_path, pieces.trial(**MEANS))
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "another"))
    evaluate(pieces.trial(**MEANS))
    assert np.array_equal(logits(tmp_path, pieces.trial(**MEANS)), killed_and_resumed)


def test_a_pass_without_its_note_is_noted_again(evaluate: Callable[..., Measurement], counted: Counted) -> None:
    """Killed between the last feature and the note: the features are there, what is known of the network is not."""
    first = evaluate(pieces.trial(**MEANS))
    counted.since()
    for note in caches.root().glob("features/*/note.json"):
        note.unlink()
    again = evaluate(pieces.trial(**MEANS))
    assert counted.since() == (0, 0)
    assert again.frozen == first.frozen
    assert again.counts == first.counts
    assert [*caches.root().glob("features/*/note.json")]


# Several views


def fitting(views: Samples, **changes: Any) -> Fitting:
    return Fitting(
        trial=pieces.trial(**{**MEANS, **changes}),
        backbone=tiny.Tiny(),
        samples=views,
        compute=pieces.CPU,
        memory=Memory(8),
    )


def test_several_views_take_one_pass_and_are_those_computed_alone(counted: Counted) -> None:
    samples = pieces.samples()
    together: Features = fitting(samples).features(tiny.Tiny.pools)
    assert counted.since() == (150, 150)
    assert together.train.keys() == together.validation.keys() == set(tiny.Tiny.pools)
    for view in tiny.Tiny.pools:
        alone = fitting(samples, params={"pool": view}).features([view])
        assert torch.equal(alone.train[view], together.train[view])
        assert torch.equal(alone.validation[view], together.validation[view])
    assert torch.equal(together.train["avg+max"], torch.cat([together.train["avg"], together.train["max"]], dim=1))


def test_only_the_views_that_are_missing_are_computed(counted: Counted) -> None:
    one = fitting(pieces.samples())
    first = one.features(["native"])
    counted.since()
    more = one.features(["native", "max"])
    assert counted.since()[1] == 150
    assert not more.cached
    assert more.train["native"] is first.train["native"]
    assert one.features(["max", "native"]).cached
    assert counted.since()[1] == 0


def test_views_at_hand_may_make_room_for_those_computed_with_them(counted: Counted) -> None:
    one = replace(fitting(pieces.samples()), memory=Memory(2))
    first = one.features(["native"])
    more = one.features(["avg", "max", "native"])
    assert list(more.train) == list(more.validation) == ["avg", "max", "native"]
    assert more.train["native"] is first.train["native"]
    counted.since()
    assert one.features(["avg", "max"]).cached
    assert counted.since() == (0, 0)


def test_features_in_memory_keep_to_their_bytes(tiny_plugin: object, tmp_path: Path) -> None:
    """A view of 150 samples has 16 numbers of 4 bytes for each, avg+max twice as many."""
    one = replace(fitting(pieces.samples()), memory=Memory(8, most_bytes=3 * 9600))
    one.features(["native"])
    assert one.memory.nbytes == 9600
    one.features(["native", "avg", "max", "avg+max"])
    assert one.memory.nbytes == 3 * 9600
    alone, fourth = (
        Evaluator(Catalog(discover()), Store(tmp_path / "results"), pieces.CPU, {}, workers).features
        for workers in (1, 4)
    )
    assert alone.most_bytes is not None
    assert fourth.most_bytes == alone.most_bytes // 4


def test_features_that_are_not_finite_fail_the_trial_and_are_not_kept(
    evaluate: Callable[..., Measurement], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial, forward = pieces.trial(**MEANS), tiny.Net.forward_features
    evaluator = Evaluator(Catalog(discover()), Store(tmp_path / "overflow"), pieces.CPU, {})

    def overflowing(net: Any, x: Any) -> Any:
        features = forward(net, x)
        return features if x.device.type == "meta" else features.index_fill(0, torch.tensor([0]), float("inf"))

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Net, "forward_features", overflowing)
        (failed,) = evaluator.evaluate(Job(trial=trial), lambda epoch, score: False)
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.stage) == ("diverged", "features")
    assert "of 90 samples are not finite, computed in float32" in failed.failure.message
    rows = [row_of(name) for name in tiny.Blobs().load(0).train.ids]
    assert not any(array is not None for entry in entries("features") for array in entry.get(rows))
    assert evaluate(trial).status == "complete"


# Never found (pitfall 17)

SAMPLE_MISSES: dict[str, Any] = {
    "dataset": Reference(name="tiny/blobs", version=2),
    "fingerprint": "another",
    "preprocess": {**tiny.Tiny().preprocess.identity, "mean": [0.4, 0.5, 0.5]},
}
FEATURE_MISSES: dict[str, Any] = {
    "backbone": Reference(name="tiny/net", version=2),
    "declared": ({"base": "tiny/net", "options": {"width": 2}},),
    "weights": "sha256:" + "1" * 64,
    "evaluator": 2,
    "params": {"pool": "max", "temperature": 1.0},
}


@pytest.mark.parametrize("name", SAMPLE_MISSES)
def test_changed_data_and_preprocessing_never_find_what_was_decoded_before(
    evaluate: Callable[..., Measurement], counted: Counted, name: str
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    evaluate(pieces.trial(**{**MEANS, name: SAMPLE_MISSES[name]}))
    assert counted.since() == (150, 150)


@pytest.mark.parametrize("name", FEATURE_MISSES)
def test_another_network_or_view_never_finds_features_and_finds_samples(
    evaluate: Callable[..., Measurement], counted: Counted, name: str
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    evaluate(pieces.trial(**{**MEANS, name: FEATURE_MISSES[name]}))
    assert counted.since() == (0, 150)


@pytest.mark.parametrize(
    "compute", [replace(pieces.CPU, dtype=torch.bfloat16), replace(pieces.CPU, threads=2)], ids=["dtype", "threads"]
)
def test_another_arithmetic_never_finds_features(
    evaluate: Callable[..., Measurement], counted: Counted, compute: Compute
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    evaluate(pieces.trial(**MEANS), compute)
    assert counted.since() == (0, 150)


@pytest.mark.parametrize("library", provenance.NETWORKS)
def test_another_version_of_a_library_never_finds_features(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    known = dict(provenance._libraries())
    monkeypatch.setattr(provenance, "_libraries", lambda: tuple({**known, library: "0.0"}.items()))
    evaluate(pieces.trial(**MEANS))
    assert counted.since() == (0, 150)


@pytest.mark.parametrize("library", shelf.LIBRARIES)
def test_another_version_of_a_library_never_finds_samples(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    known = dict(shelf._libraries())
    monkeypatch.setattr(shelf, "_libraries", lambda: tuple({**known, library: "0.0"}.items()))
    evaluate(pieces.trial(**MEANS))
    assert counted.since() == (150, 150)


@pytest.mark.parametrize("role", ["dataset", "backbone"])
def test_another_version_of_a_plugin_never_finds_samples(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    real = getattr(Catalog, role)
    monkeypatch.setattr(Catalog, role, lambda self, name: replace(real(self, name), distribution_version="2.0"))
    evaluate(pieces.trial(**MEANS))
    assert counted.since() == (150, 150)


def test_random_weights_of_another_seed_never_find_features(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.Means, "pretrained", False)
    for seed, forwarded in ((0, 150), (1, 150), (0, 0)):
        evaluate(pieces.trial(**MEANS, weights="random", seed=seed))
        assert counted.since()[1] == forwarded


def test_two_preprocessings_with_one_identity_are_two(
    evaluate: Callable[..., Measurement], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    monkeypatch.setattr(tiny.Tiny, "preprocess", renamed())
    evaluate(pieces.trial(**MEANS))
    assert counted.since() == (150, 150)


def test_in_memory_too_two_preprocessings_with_one_identity_are_two(
    tiny_plugin: object, counted: Counted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And two backbones that prepare alike share their samples there."""
    evaluator = Evaluator(Catalog(discover()), Store(tmp_path / "results"), pieces.CPU, {})

    def taken(version: int) -> tuple[int, int]:
        of = pieces.trial(**MEANS, backbone=Reference(name="tiny/net", version=version))
        (result,) = evaluator.evaluate(Job(trial=of), lambda epoch, score: False)
        assert result.status == "complete", result.failure
        return counted.since()

    assert [taken(1), taken(2)] == [(150, 150), (0, 150)]
    assert len(list(evaluator.samples)) == 1
    monkeypatch.setattr(tiny.Tiny, "preprocess", renamed())
    assert taken(3) == (150, 150)
    assert len(list(evaluator.samples)) == 2


METHODS = ("identity", "prepare", "batch", "example", "elements", "mix")


def renamed() -> Any:
    """The preprocessing of the tiny backbone, as a class of its own with the same identity."""
    return type("Other", (), {name: getattr(tiny.Tiny().preprocess, name) for name in METHODS})()


# The test door


def test_a_search_leaves_nothing_sealed_and_a_final_nothing_open(evaluate: Callable[..., Measurement]) -> None:
    for trial in (pieces.trial(**MEANS), pieces.trial(epochs=1)):
        evaluate(trial)
    assert not (caches.root() / "sealed").exists()
    for trial in (pieces.trial(**MEANS, stage="final"), pieces.trial(epochs=1, stage="final")):
        evaluate(trial)
    test = [row_of(name) for name in tiny.Blobs().load_test(0).ids]
    others = [row_of(name) for split in ("train", "validation") for name in getattr(tiny.Blobs().load(0), split).ids]

    def holding(section: str, rows: list[bytes]) -> int:
        return sum(array is not None for entry in entries(section) for array in entry.get(rows))

    assert (holding("samples", test), holding("features", test)) == (0, 0)
    assert (holding("samples", others), holding("features", others)) == (150, 150)
    assert holding("sealed", test) == 60 * 2, "samples and features"
    assert holding("sealed", others) == 0


def test_finals_of_one_backbone_make_one_test_pass(
    evaluate: Callable[..., Measurement], counted: Counted, tmp_path: Path
) -> None:
    evaluate(pieces.trial(**MEANS))
    counted.since()
    final = pieces.trial(**MEANS, stage="final")
    first = evaluate(final)
    assert counted.since() == (60, 60)
    for other in (replace(final, seed=1), replace(final, params={"pool": "native", "temperature": 3.0})):
        again = evaluate(other)
        assert counted.since() == (0, 0)
        assert again.counts["test_openings"] == 1
        assert again.counts["test_evaluated"] == first.counts["test_evaluated"] == 60
    assert np.array_equal(logits(tmp_path, final), logits(tmp_path, replace(final, seed=1)))


def test_without_a_test_split_the_fifth_of_another_seed_is_computed_for_each_side(
    evaluate: Callable[..., Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample may be trained on under one split seed and tested under another: each side has its own place for it."""
    monkeypatch.setattr(tiny.Blobs, "has_test", False)
    for seed in (0, 1):
        evaluate(pieces.trial(**MEANS, stage="final", split_seed=seed))
    rows = [row_of(name) for name in tiny.Blobs().load(0).train.ids]
    sealed = [array is not None for entry in entries("sealed") for array in entry.get(rows)]
    assert 18 * 2 < sum(sealed) <= 36 * 2


# A disk that refuses


def full_disk(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["full", "a file", "off"])
@pytest.mark.parametrize("strategy", ["means", "full"])
def test_without_a_cache_results_are_the_same(
    evaluate: Callable[..., Measurement], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, strategy: str
) -> None:
    trial = pieces.trial(**(MEANS if strategy == "means" else {"epochs": 1}), stage="final")
    evaluate(trial)
    expected, said = logits(tmp_path, trial), list[str]()
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "another"))
    if what == "full":
        monkeypatch.setattr(os, "pwrite", full_disk)
    elif what == "a file":
        (tmp_path / "another").write_text("")
    else:
        monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "0")
    evaluate(trial, say=said.append)
    assert np.array_equal(logits(tmp_path, trial), expected)
    assert len(said) == (what != "off"), said


def test_strategies_know_nothing_of_the_cache(evaluate: Callable[..., Measurement], tmp_path: Path) -> None:
    """What a strategy does to the features it is given reaches no other trial."""
    trial = pieces.trial(**MEANS)
    evaluate(trial)
    before, real = logits(tmp_path, trial), tiny.Means.fit

    def spoil(self: Strategy, features: Any, *rest: Any) -> Any:
        heads = list(real(self, {view: values.clone() for view, values in features.items()}, *rest))  # type: ignore[arg-type]
        features["native"].zero_()
        return heads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.Means, "fit", spoil)
        evaluate(pieces.trial(**{**MEANS, "params": resolve({"temperature": 2.0})}))
    evaluate(trial)
    assert np.array_equal(logits(tmp_path, trial), before)
