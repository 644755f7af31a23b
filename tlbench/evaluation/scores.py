"""Scores: every metric of one part, from logits and labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlbench.errors import TrialFailure
from tlbench.statistics import wilson

BINS = 15
"""Equal-width bins of confidence in the calibration error (Guo et al. 2017)."""

MOST_ELEMENTS = 2**20
"""Logits scored at once: 8 MiB."""

TOP = 5


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Metrics of `logits` [n, classes] against `labels` [n], as plain numbers for JSON.

    Predicted is the class with the highest logit, of equal ones the first; the five of `top5_accuracy` (None below six
    classes) are chosen alike. `macro_*` average over all classes, 0 where a class has nothing to divide by;
    `balanced_accuracy` averages recall over the classes that occur. `nll` is in nats. `accuracy_low` and
    `accuracy_high` are the 95 % Wilson interval. `majority_accuracy` is what always naming the most frequent class
    would get: with `classes_predicted` it shows a degenerate model. `confusion` has true classes as rows.

    Raises `TrialFailure` ("diverged") for logits that are not finite and `ValueError` for no samples.
    """
    logits, labels = _checked(logits, labels)
    _all_finite(logits)
    confusion = _confusions(logits[None].argmax(axis=2), labels, logits.shape[1])
    return {**_scored(logits[None], labels)[0], "confusion": confusion[0].tolist()}


def score_many(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any] | TrialFailure]:
    """What `score` gives of each of many `logits` [rows, n, classes], or raises; without `confusion`, which is None.

    A row takes 0.1 ms where scikit-learn's functions for the same take 4 ms (400 samples of ten classes). Confusions
    would take more room than all the rest: 1,000 rows of 100 classes have ten million numbers.
    """
    found: list[dict[str, Any] | TrialFailure] = []
    step = max(MOST_ELEMENTS // max(logits[0].size, 1), 1)
    for start in range(0, len(logits), step):
        batch = logits[start : start + step].astype(np.float64)
        _, labels = _checked(batch[0], labels)
        finite = np.asarray(np.isfinite(batch).all(axis=(1, 2)))
        scores = iter(_scored(batch[finite], labels))
        for each, is_finite in zip(batch, finite, strict=True):
            found.append({**next(scores), "confusion": None} if is_finite else _failure(each))
    return found


def _scored(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """All but the confusions of finite logits [rows, n, classes]."""
    rows, samples, classes = logits.shape
    by_class = np.ascontiguousarray(logits.transpose(0, 2, 1))  # a maximum over ten classes takes a tenth of the time
    predicted = logits.argmax(axis=2)
    highest = by_class.max(axis=1)
    own = logits[:, np.arange(samples), labels]
    logarithms = np.log(np.exp(by_class - highest[:, None]).sum(axis=1))  # of the partition, above the highest logit
    correct = predicted == labels
    confusions = _confusions(predicted, labels, classes)
    columns = {
        "n_correct": correct.sum(axis=1),
        "accuracy": correct.mean(axis=1),
        "majority_accuracy": confusions.sum(axis=2).max(axis=1) / samples,
        "classes_predicted": np.count_nonzero(confusions.sum(axis=1), axis=1),
        "top5_accuracy": _top(by_class, labels, own).mean(axis=1) if classes > TOP else np.full(rows, None),
        **_class_means(confusions),
        "nll": (logarithms - (own - highest)).mean(axis=1),
        "calibration_error": _calibration_errors(np.exp(-logarithms), correct),
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [_with_interval(dict(zip(columns, row, strict=True)), samples) for row in values]


def _with_interval(scores: dict[str, Any], samples: int) -> dict[str, Any]:
    low, high = wilson(scores["n_correct"], samples)
    return {"n": samples, **scores, "accuracy_low": low, "accuracy_high": high}


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: [n, classes] and [n] with n > 0 are needed")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} but logits for {logits.shape[1]} classes")
    return logits, labels


def _all_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise _failure(logits)


def _failure(logits: np.ndarray) -> TrialFailure:
    bad = len(logits) - int(np.isfinite(logits).all(axis=1).sum())
    return TrialFailure("diverged", f"logits of {bad} of {len(logits)} samples are not finite")


def _confusions(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts [rows, true class, predicted class]."""
    rows = len(predicted)
    cells = (np.arange(rows)[:, None] * classes + labels) * classes + predicted
    return np.bincount(cells.ravel(), minlength=rows * classes**2).reshape(rows, classes, classes)


def _top(by_class: np.ndarray, labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Whether fewer than `TOP` classes are ranked before the label: higher logits, and equal ones of classes before."""
    before = np.arange(by_class.shape[1])[:, None] < labels
    ahead = (by_class > own[:, None]) | ((by_class == own[:, None]) & before)
    return np.asarray(ahead.sum(axis=1) < TOP)


def _class_means(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Means over classes: what has nothing to divide by is 0, but in the balanced accuracy is left out."""
    right = np.diagonal(confusions, axis1=1, axis2=2).astype(np.float64)
    occurring, named = confusions.sum(axis=2), confusions.sum(axis=1)
    recall = right / occurring.clip(min=1)
    return {
        "balanced_accuracy": recall.sum(axis=1) / np.count_nonzero(occurring, axis=1),
        "macro_precision": (right / named.clip(min=1)).mean(axis=1),
        "macro_recall": recall.mean(axis=1),
        "macro_f1": (2 * right / (occurring + named).clip(min=1)).mean(axis=1),
    }


def _calibration_errors(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Gap between mean confidence and accuracy of bins (k/15, (k+1)/15], weighted by their sizes [rows]."""
    rows, samples = correct.shape
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1) + BINS * np.arange(rows)[:, None]
    gaps = np.bincount(bins.ravel(), weights=(confidence - correct).ravel(), minlength=rows * BINS)
    errors: np.ndarray = np.abs(gaps.reshape(rows, BINS)).sum(axis=1) / samples
    return errors
