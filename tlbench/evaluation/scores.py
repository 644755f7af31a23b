"""Scores: every metric of one part, from logits and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tlbench.errors import TrialFailure
from tlbench.statistics import wilson

BINS = 15
"""Equal-width bins of confidence in the calibration error (Guo et al. 2017)."""


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
    classes = range(logits.shape[1])
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    log_probabilities = log_softmax(logits, axis=1)
    correct = ranked[:, 0] == labels
    confusion = confusion_matrix(labels, ranked[:, 0], labels=classes)
    low, high = wilson(int(correct.sum()), len(labels))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, ranked[:, 0], labels=classes, average="macro", zero_division=0
    )
    return {
        "n": len(labels),
        "n_correct": int(correct.sum()),
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "majority_accuracy": float(confusion.sum(axis=1).max() / len(labels)),
        "classes_predicted": int(np.count_nonzero(confusion.sum(axis=0))),
        "top5_accuracy": float((ranked == labels[:, None]).any(axis=1).mean()) if len(classes) > 5 else None,
        "balanced_accuracy": _balanced_accuracy(confusion),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "nll": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "calibration_error": _calibration_error(np.exp(log_probabilities.max(axis=1)), correct),
        "confusion": confusion.tolist(),
    }


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: [n, classes] and [n] with n > 0 are needed")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} but logits for {logits.shape[1]} classes")
    bad = len(logits) - int(np.isfinite(logits).all(axis=1).sum())
    if bad:
        raise TrialFailure("diverged", f"logits of {bad} of {len(logits)} samples are not finite")
    return logits, labels


def _balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall of the classes that occur; scikit-learn's own warns when one is predicted that does not."""
    occurring = confusion.sum(axis=1)
    present = occurring > 0
    return float((confusion.diagonal()[present] / occurring[present]).mean())


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Gap between mean confidence and accuracy of bins (k/15, (k+1)/15], weighted by their sizes."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(correct))
