"""The screen: leave-one-out scores of training features, and nothing of validation data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import pieces
import tiny
from tlbench.catalog import Catalog
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.screen import NEIGHBOURS, PENALTIES, TEMPERATURE, screen
from tlbench.evaluation.spectrum import Spectrum
from tlbench.evaluation.transferability import h_score, log_evidence
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.statistics import wilson
from tlbench.store import Store
from tlbench.trial import SCREEN, Job, Trial


def digits(samples: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(n_class=5, return_X_y=True)
    noise = torch.randn(samples, 64, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(values[:samples]).float() + 8 * noise, torch.from_numpy(labels[:samples])


def of_ridge(values: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """The share that regressions without each sample get right, each solved anew."""
    targets, right = np.eye(labels.max() + 1)[labels], 0
    for left_out in range(len(labels)):
        rest = np.arange(len(labels)) != left_out
        mean, shares = values[rest].mean(axis=0), targets[rest].mean(axis=0)
        centred = values[rest] - mean
        weights = np.linalg.solve(
            centred.T @ centred + len(labels) * penalty * np.eye(values.shape[1]), centred.T @ (targets[rest] - shares)
        )
        right += int(((values[left_out] - mean) @ weights + shares).argmax() == labels[left_out])
    return right / len(labels)


def of_neighbours(values: np.ndarray, labels: np.ndarray) -> float:
    right = 0
    for left_out in range(len(labels)):
        rest = np.arange(len(labels)) != left_out
        model = KNeighborsClassifier(
            n_neighbors=NEIGHBOURS,
            metric="cosine",
            algorithm="brute",
            weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
        ).fit(values[rest], labels[rest])
        right += int(model.predict(values[left_out : left_out + 1])[0] == labels[left_out])
    return right / len(labels)


def test_the_best_view_is_judged_as_by_independent_references() -> None:
    features, labels = digits()
    views = {"poor": features[:, :20].contiguous(), "good": features, "same": features.clone()}
    found = screen(views, labels)
    assert (found.view, found.width, found.scores["n"]) == ("good", 64, 150)
    values = StandardScaler().fit_transform(features.double().numpy())
    accuracies = {penalty: of_ridge(values, labels.numpy(), penalty) for penalty in PENALTIES}
    assert found.scores["accuracy"] == pytest.approx(max(accuracies.values()), abs=1e-12)
    assert accuracies[found.penalty] == pytest.approx(found.scores["accuracy"], abs=1e-12)
    assert found.scores["n_correct"] == round(150 * found.scores["accuracy"])
    assert (found.scores["accuracy_low"], found.scores["accuracy_high"]) == wilson(found.scores["n_correct"], 150)
    assert found.scores["neighbours_accuracy"] == pytest.approx(
        of_neighbours(features.double().numpy(), labels.numpy())
    )
    spectrum = Spectrum.of(features)
    assert found.scores["logme"] == pytest.approx(log_evidence(spectrum, labels), abs=1e-9)
    assert found.scores["h_score"] == pytest.approx(h_score(spectrum, labels), abs=1e-9)


def test_more_features_than_samples() -> None:
    features, labels = digits(40)
    found = screen({"native": features}, labels)
    assert found.scores["accuracy"] > 0.5
    assert all(np.isfinite(value) for value in found.scores.values())


# Through the evaluator


def screening(**changes: Any) -> Trial:
    return pieces.trial(strategy=SCREEN, params={}, epochs=0, stage="screen", **changes)


@pytest.fixture
def evaluator(tiny_plugin: object, tmp_path: Path) -> Evaluator:
    return Evaluator(Catalog(discover()), Store(tmp_path), pieces.CPU, {})


def screened(evaluator: Evaluator, trial: Trial) -> Measurement:
    (result,) = evaluator.evaluate(Job(trial=trial), lambda epoch, score: False)
    assert evaluator.store.get(trial.key) == Measurement.from_json(result.to_json())
    return result


def test_validation_is_not_touched(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def noted(self: Any, index: int) -> Any:
        looked.append(str(self.seed))
        return real(self, index)

    real = tiny._Blobs.__getitem__
    monkeypatch.setattr(tiny._Blobs, "__getitem__", noted)
    result = screened(evaluator, screening())
    assert looked == ["1"] * 90, "every training sample once, no other"
    assert result.scores.keys() == {"train"}
    assert result.scores["train"]["n"] == 90
    assert not {"validation", "search", "test"} & result.counts.keys()
    assert evaluator.store.predictions(result.key) is None
    assert evaluator.store.model_keys() == []


def test_a_screen_is_a_row_with_costs_and_provenance(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    real = tiny.Net.forward_features

    def noted(self: Any, x: Any) -> Any:
        passed.append(len(x) if x.device.type == "cpu" else 0)
        return real(self, x)

    monkeypatch.setattr(tiny.Net, "forward_features", noted)
    result = screened(evaluator, screening())
    assert sum(count for count in passed if count > 1) == 90, "all views in one pass"
    assert result.status == "complete"
    assert result.answers
    assert 0.9 < result.scores["train"]["accuracy"] <= 1.0
    assert (result.counts["classes"], result.counts["train"]) == (3, 90)
    assert result.counts["view"] in tiny.Tiny.pools
    assert result.counts["penalty"] in PENALTIES
    assert result.counts["feature_width"] in (16, 32)
    assert result.cost["features_s"] > 0
    assert result.cost["features_cached"] is False
    assert result.cost["train_s"] + result.cost["features_s"] <= result.cost["total_s"]
    assert result.frozen["parameters_changed"] is result.frozen["buffers_changed"] is False
    assert result.provenance["plugins"].keys() == {"backbone", "dataset"}
    again = screened(evaluator, screening(seed=1))
    assert again.cost["features_cached"] is True
    assert again.scores == result.scores


def test_a_fraction_is_stratified(evaluator: Evaluator) -> None:
    result = screened(evaluator, screening(fraction=0.2))
    assert (result.counts["train"], result.scores["train"]["n"]) == (18, 18)
    assert result.key != screening().key


def test_a_screen_that_fails_is_a_failed_row(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, pretrained: bool) -> Any:
        raise ValueError("no weights")

    monkeypatch.setattr(tiny.Tiny, "load", fail)
    failure = screened(evaluator, screening()).failure
    assert failure is not None
    assert (failure.type, failure.stage) == ("ValueError", "features")
    unknown = screened(evaluator, replace(screening(), backbone=replace(SCREEN, name="tiny/gone"))).failure
    assert unknown is not None
    assert unknown.stage == "load"
