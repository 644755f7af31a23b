"""Jobs of many rows: each row is what it would be alone, and what goes wrong with one is its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pieces
import tiny
from tlbench import files
from tlbench.catalog import Catalog
from tlbench.errors import StoreError
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.saved import load_model
from tlbench.measurement import PREDICTIONS_KEPT, Measurement
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Job, Reference, Trial


def asked(strategy: str, pool: str = "native", **params: Any) -> Trial:
    name = Reference(name=strategy, version=1)
    return pieces.trial(strategy=name, params={"pool": pool, **params}, epochs=0)


def means(temperature: float = 1.0, pool: str = "native") -> Trial:
    return asked("tiny/means", pool, temperature=temperature)


MIXED = [
    *(asked("basic/linear-probe", pool, l2=penalty) for pool in ("native", "max") for penalty in (0.01, 1.0)),
    *(asked("basic/ridge-probe", pool, l2=penalty) for pool in ("avg+max", "native") for penalty in (0.1, 10.0)),
    *(asked("basic/knn", "max", neighbours=count, temperature=heat) for count in (1, 9) for heat in (0.07, 0.5)),
    means(),
    means(0.5, "max"),
]


@pytest.fixture
def evaluator(tiny_plugin: object, tmp_path: Path) -> Evaluator:
    return Evaluator(Catalog(discover()), Store(tmp_path / "many"), pieces.CPU, {})


def answered(evaluator: Evaluator, trials: Sequence[Trial], above: float | None = None) -> list[Measurement]:
    """The results of one job, which are those that are stored."""
    job = Job(trial=trials[0], more=tuple(trials[1:]), keep_model_above=above)
    results = evaluator.evaluate(job, lambda epoch, score: False)
    assert [result.key for result in results] == [trial.key for trial in trials]
    assert [evaluator.store.get(trial.key) for trial in trials] == [
        Measurement.from_json(result.to_json()) for result in results
    ]
    assert [path.name for path in (evaluator.store.path / "measurements").iterdir()] == [job.key]
    return results


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """What a function was called with from now on."""
    calls, function = [], getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        calls.append(given)
        return function(*given, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def failures(results: Sequence[Measurement]) -> list[tuple[str, str] | None]:
    return [result.failure and (result.failure.type, result.failure.stage) for result in results]


def test_a_row_is_what_its_trial_would_be_alone(evaluator: Evaluator, tmp_path: Path) -> None:
    alone = Evaluator(evaluator.catalog, Store(tmp_path / "alone"), pieces.CPU, {})
    results = answered(evaluator, MIXED)
    kept = [evaluator.store.predictions(result.key) for result in results]
    assert sum(each is not None for each in kept) == PREDICTIONS_KEPT < len(MIXED)
    for result, predictions in zip(results, kept, strict=True):
        (expected,) = alone.evaluate(Job(trial=result.trial), lambda epoch, score: False)
        assert (result.status, result.frozen) == ("complete", expected.frozen)
        assert result.counts == {**expected.counts, "job_rows": len(MIXED)}
        assert result.provenance["plugins"] == expected.provenance["plugins"]
        assert result.provenance["complexity"] == expected.provenance["complexity"]
        assert result.cost.keys() == expected.cost.keys()
        assert result.scores.keys() == expected.scores.keys()
        for part, scores in result.scores.items():
            found, same = dict(scores), dict(expected.scores[part])
            whole, confusion = found.pop("confusion"), same.pop("confusion")
            assert found == pytest.approx(same, abs=5e-3)
            assert (whole is None) == (predictions is None)
            assert whole is None or np.abs(np.array(whole) - confusion).sum() <= 2
        if predictions is not None:
            reference = alone.store.predictions(result.key)
            assert reference is not None
            assert (predictions.sample_id, predictions.split) == (reference.sample_id, reference.split)
            probabilities = (torch.tensor(each.logits).double().softmax(1) for each in (predictions, reference))
            torch.testing.assert_close(*probabilities, atol=5e-3, rtol=0.0)


def test_predictions_are_those_of_the_best_rows(evaluator: Evaluator) -> None:
    results = answered(evaluator, [means(heat, pool) for heat in np.geomspace(0.1, 9, 9) for pool in ("native", "max")])
    score = {result.key: result.score("search", "accuracy") or 0.0 for result in results}
    kept = {key for key in score if evaluator.store.predictions(key) is not None}
    assert len(kept) == PREDICTIONS_KEPT
    assert min(score[key] for key in kept) >= max(score[key] for key in score.keys() - kept)


def test_one_pass_one_call_of_each_strategy(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch, tiny.Net, "forward_features")
    fits = counted(monkeypatch, tiny.Means, "fit")
    trials = [means(heat, pool) for heat in (0.1, 1.0, 9.0) for pool in ("native", "max", "avg+max")]
    results = answered(evaluator, trials, above=2.0)
    samples = sum(len(inputs) for _, inputs in passes if len(inputs) > 1 and inputs.device.type == "cpu")
    assert samples == 90 + 60
    assert [len(configurations) for _, _, _, configurations, _ in fits] == [9]
    assert {result.cost["features_cached"] for result in results} == {False}


def test_features_found_again_carry_their_cost(evaluator: Evaluator, tmp_path: Path) -> None:
    first = answered(evaluator, [means(), means(0.5, "max")])
    evaluator.store = Store(tmp_path / "again")
    again = answered(evaluator, [means(2.0), means(3.0, "max")])
    evaluator.store = Store(tmp_path / "more")
    more = answered(evaluator, [means(2.0), means(3.0, "avg")])
    costs = [{(each.cost["features_s"], each.cost["features_cached"]) for each in job} for job in (first, again, more)]
    (seconds,) = {cost for cost, _ in costs[0]}
    assert costs[:2] == [{(seconds, False)}, {(seconds, True)}]
    ((both, cached),) = costs[2]
    assert cached is False
    assert both >= seconds > 0


def test_rows_share_what_the_job_took(evaluator: Evaluator) -> None:
    results = answered(evaluator, MIXED)
    for name in ("train_s", "total_s"):
        (share,) = {result.cost[name] for result in results}
        assert share > 0
    sums = [sum(result.cost[name] for result in results) for name in ("train_s", "total_s")]
    assert sums[0] < sums[1]


# What goes wrong


def raising(error: BaseException, when: Callable[[Any], bool]) -> Any:
    """A `fit` that raises where one of its configurations is meant."""
    real = tiny.Means.fit

    def fit(self: Any, features: Any, labels: Any, configurations: Any, generator: Any) -> Any:
        if any(when(params) for params in configurations):
            raise error
        return real(self, features, labels, configurations, generator)

    return fit


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("bye"), MemoryError("no memory")])
def test_a_configuration_that_fails_costs_its_own_row(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(tiny.Means, "fit", raising(error, lambda params: params["temperature"] == 2.0))
    results = answered(evaluator, [means(), means(2.0), means(3.0), asked("basic/ridge-probe", l2=1.0)])
    assert failures(results) == [None, (type(error).__name__, "train"), None, None]
    assert results[1].failure is not None
    assert results[1].failure.kind == ("oom" if isinstance(error, MemoryError) else "error")
    assert results[1].counts["job_rows"] == 4
    assert results[1].provenance["plugins"]["strategy"]["plugin"] == "tiny"


class Broken(nn.Linear):
    """A head that raises, or gives what is no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.out_features == 3:
            raise ValueError("broken head")
        return torch.full((len(x), 3), torch.nan)


def test_every_way_to_fail_is_a_row_of_its_own(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny.Means.fit

    def fit(self: Any, features: Any, labels: Any, configurations: Any, generator: Any) -> Any:
        heads = list(real(self, features, labels, configurations, generator))
        broken = {5.0: Broken(16, 3), 6.0: Broken(16, 4)}
        return [broken.get(params["temperature"], head) for params, head in zip(configurations, heads, strict=True)]

    monkeypatch.setattr(tiny.Means, "fit", fit)
    odd = [
        means(5.0),
        means(6.0),
        means(1.0, "gem"),
        asked("basic/ridge-probe", l2=-1.0),
        asked("tiny/no-such", l2=1.0),
        asked("tiny/full", learning_rate=0.1),
    ]
    results = answered(evaluator, [means(), *odd, asked("basic/ridge-probe", l2=1.0)])
    assert failures(results) == [
        None,
        ("ValueError", "train"),
        ("TrialFailure", "score"),
        ("BenchmarkError", "features"),
        ("BenchmarkError", "train"),
        ("UnknownNameError", "load"),
        ("BenchmarkError", "load"),
        None,
    ]
    told = [result.failure.message for result in results if result.failure]
    assert "60 of 60 samples are not finite" in told[1]
    assert "has no pool 'gem': native, avg, max, avg+max" in told[2]
    assert "fits no head on features" in told[5]


def test_too_few_heads_are_the_strategys_failure(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.Means, "fit", lambda *_: [])
    results = answered(evaluator, [means(), means(2.0), asked("basic/ridge-probe", l2=1.0)])
    assert failures(results) == [("PluginError", "train"), ("PluginError", "train"), None]


@pytest.mark.parametrize(
    ("place", "stage"), [((tiny.Tiny, "load"), "features"), ((tiny._Blobs, "__getitem__"), "features")]
)
def test_without_features_all_rows_have_failed(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], stage: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(*place, fail)
    results = answered(evaluator, [means(), means(2.0)])
    assert failures(results) == [("OSError", stage)] * 2
    assert evaluator.store.model_keys() == []


def test_an_unknown_data_set_fails_all_rows(evaluator: Evaluator) -> None:
    gone = Reference(name="tiny/gone", version=1)
    results = answered(evaluator, [replace(means(heat), dataset=gone) for heat in (1.0, 2.0)])
    assert failures(results) == [("UnknownNameError", "load")] * 2


def test_a_full_disk_stops_the_run_and_leaves_nothing(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        evaluator.evaluate(Job(trial=means(), more=(means(2.0),), keep_model_above=2.0), lambda epoch, score: False)
    assert evaluator.store.keys() == []


# Seeds and random weights


def test_random_weights_are_each_seeds_own(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.Means, "pretrained", False)
    trials = [replace(means(heat), weights="random", seed=seed) for seed in (0, 1) for heat in (1.0, 0.1)]
    results = answered(evaluator, trials)
    alone = Evaluator(evaluator.catalog, Store(tmp_path / "alone"), pieces.CPU, {})
    for result in results:
        (expected,) = alone.evaluate(Job(trial=result.trial), lambda epoch, score: False)
        found, reference = (store.predictions(result.key) for store in (evaluator.store, alone.store))
        assert found is not None
        assert reference is not None
        np.testing.assert_allclose(found.logits, reference.logits, atol=1e-3)
        assert result.score("validation", "accuracy") == expected.score("validation", "accuracy")


# The model


def test_the_best_rows_model_is_kept_if_it_beats_the_incumbent(evaluator: Evaluator, tmp_path: Path) -> None:
    results = answered(evaluator, MIXED)
    best = max(results, key=lambda result: result.score("search", "accuracy") or 0.0)
    assert evaluator.store.model_keys() == [best.key]
    score = best.score("validation", "accuracy")
    assert score is not None
    kept = evaluator.store.predictions(best.key)
    assert kept is not None
    validation = tiny.Blobs().load(0).validation
    assert validation is not None
    samples = [validation[list(validation.ids).index(name)] for name in kept.sample_id]
    probabilities = load_model(evaluator.store.model_path(best.key))(samples)
    np.testing.assert_allclose(probabilities, torch.tensor(kept.logits).float().softmax(1).numpy(), atol=5e-3)
    for above, count in ((score, 0), (score - 0.01, 1)):
        evaluator.store = Store(tmp_path / str(above))
        answered(evaluator, MIXED, above)
        assert len(evaluator.store.model_keys()) == count


def test_a_model_that_cannot_be_saved_costs_the_best_row(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [means(heat) for heat in (1.0, 2.0, 3.0)]

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("cannot be saved")

    monkeypatch.setattr("tlbench.evaluation.evaluate.save", fail)
    results = answered(evaluator, trials)
    assert sorted(map(str, failures(results))) == ["('ValueError', 'save')", "None", "None"]
    kept = [evaluator.store.predictions(result.key) is not None for result in results]
    assert kept == [result.status == "complete" for result in results]
