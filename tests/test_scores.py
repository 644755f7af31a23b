"""Scores against independent loops and scikit-learn, and what must leave them unchanged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from tlbench.errors import TrialFailure
from tlbench.evaluation.scores import score


def drawn(seed: int, n: int = 200, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right more often than by chance, and labels in which every class occurs."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % classes)
    logits = generator.normal(size=(n, classes)) * 2
    logits[np.arange(n), labels] += 1.5
    return logits, labels


def slow_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    total = 0.0
    for k in range(15):
        inside = [
            (max(row), int(row.argmax() == label))
            for row, label in zip(probabilities, labels, strict=True)
            if k / 15 < max(row) <= (k + 1) / 15
        ]
        if inside:
            confidence, accuracy = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_against_independent_references(seed: int) -> None:
    logits, labels = drawn(seed)
    scores = score(logits, labels)
    probabilities = np.array([[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits])
    predicted = logits.argmax(axis=1)
    assert scores["n"] == 200
    assert scores["n_correct"] == sum(predicted == labels)
    assert scores["accuracy"] == accuracy_score(labels, predicted)
    assert scores["accuracy_low"] < scores["accuracy"] < scores["accuracy_high"]
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert scores["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5), abs=1e-12)
    assert scores["nll"] == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
    assert scores["calibration_error"] == pytest.approx(slow_calibration_error(probabilities, labels), abs=1e-12)


def test_macro_scores_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 2])
    scores = score(np.eye(4)[predicted], labels)
    assert scores["confusion"] == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert scores["macro_precision"] == pytest.approx((1 + 1 / 2 + 0 + 0) / 4)
    assert scores["macro_recall"] == pytest.approx((3 / 4 + 1 / 2 + 0 + 0) / 4)
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 1 / 2) / 4)
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize("shift", [-1e3, 0.5, 1e4])
def test_a_constant_added_to_all_logits_changes_nothing(shift: float) -> None:
    logits, labels = drawn(0)
    before, after = score(logits, labels), score(logits + shift, labels)
    assert after.pop("confusion") == before.pop("confusion")
    assert after == {name: pytest.approx(value, abs=1e-9) for name, value in before.items()}


def test_permuting_classes_permutes_the_confusion() -> None:
    logits, labels = drawn(1)
    order = np.random.default_rng(2).permutation(7)
    before, after = score(logits, labels), score(logits[:, order], np.argsort(order)[labels])
    assert after.pop("confusion") == np.array(before.pop("confusion"))[np.ix_(order, order)].tolist()
    assert after == {name: pytest.approx(value, abs=1e-12) for name, value in before.items()}


def test_doubling_the_rows_narrows_the_interval_and_nothing_else() -> None:
    logits, labels = drawn(3)
    before, after = score(logits, labels), score(np.tile(logits, (2, 1)), np.tile(labels, 2))
    assert after["accuracy_low"] > before["accuracy_low"]
    assert after["accuracy_high"] < before["accuracy_high"]
    assert after["confusion"] == (2 * np.array(before["confusion"])).tolist()
    for name in before.keys() - {"n", "n_correct", "accuracy_low", "accuracy_high", "confusion"}:
        assert after[name] == pytest.approx(before[name], abs=1e-12)


def test_a_constant_predictor_gets_the_majority_accuracy() -> None:
    labels = np.array([2] * 60 + [0] * 25 + [1] * 15)
    scores = score(np.tile([0.0, 0.1, 0.2], (100, 1)), labels)
    assert scores["accuracy"] == scores["majority_accuracy"] == 0.6
    assert scores["classes_predicted"] == 1
    assert scores["balanced_accuracy"] == pytest.approx(1 / 3)


def test_ties_go_to_the_first_class_in_every_metric() -> None:
    logits = np.zeros((200, 100))
    assert score(logits, np.zeros(200, int))["accuracy"] == 1
    scores = score(logits, np.arange(200) % 100)
    assert scores["accuracy"] == 1 / 100
    assert scores["top5_accuracy"] == 5 / 100
    assert score(logits, np.arange(200) % 5)["top5_accuracy"] == 1
    assert scores["nll"] == pytest.approx(math.log(100))
    assert scores["calibration_error"] == pytest.approx(0, abs=1e-12)


def test_partial_ties_are_ranked_by_class() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.integers(0, 3, (500, 40)).astype(float), generator.integers(0, 40, 500)
    best = [sorted(range(40), key=lambda c, row=row: -row[c])[:5] for row in logits]  # type: ignore[misc]
    hits = [label in five for label, five in zip(labels, best, strict=True)]
    assert score(logits, labels)["top5_accuracy"] == np.mean(hits)


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_classes_missing_from_labels_and_predictions_give_no_warning(classes: int) -> None:
    scores = score(np.tile(np.eye(classes)[0], (4, 1)), np.full(4, classes - 1))
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["macro_f1"] == 0
    assert (scores["top5_accuracy"] is None) == (classes < 6)
    assert np.shape(scores["confusion"]) == (classes, classes)
    assert score(np.eye(classes)[:1], np.zeros(1, int))["accuracy"] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scores_are_plain_json_whatever_the_type_of_the_logits(dtype: type) -> None:
    logits, labels = drawn(4)
    scores = score(logits.astype(dtype), labels.astype(np.int32))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["nll"] == pytest.approx(score(logits, labels)["nll"], abs=1e-2)
    assert scores == score(logits.astype(dtype).astype(np.float64), labels)


def test_confident_and_wrong_costs_what_the_logits_say() -> None:
    assert score(np.array([[1e4, 0.0]]), np.array([1]))["nll"] == 1e4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_a_diverged_trial(value: float) -> None:
    logits, labels = drawn(5)
    logits[3, 2] = logits[3, 4] = logits[8, 0] = value
    with pytest.raises(TrialFailure, match="2 of 200") as caught:
        score(logits, labels)
    assert caught.value.kind == "diverged"


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.zeros((2, 3)), np.zeros(3, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((1, 3)), np.array([3])),
        (np.zeros((1, 3)), np.array([-1])),
    ],
)
def test_what_is_no_prediction_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"are needed|logits for 3 classes"):
        score(logits, labels)
