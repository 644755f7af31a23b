"""Logits that need no model, and those of scikit-learn's classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def class_frequencies(labels: np.ndarray, classes: int) -> np.ndarray:
    """Logarithms float64 [classes] of how frequent each class is, one more sample of each added (Laplace)."""
    import numpy as np

    counts = np.bincount(labels, minlength=classes) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def per_class(decisions: np.ndarray) -> np.ndarray:
    """Logits [n, classes] of a `decision_function`, which for two classes gives only their difference [n]."""
    import numpy as np

    return np.stack([-decisions, decisions], axis=1) / 2 if decisions.ndim == 1 else decisions
