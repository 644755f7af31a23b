"""The screen: how well a backbone's features tell the classes of training data apart, without validation data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.evaluation.neighbours import leave_one_out
from tlbench.evaluation.ridge import RidgePath
from tlbench.evaluation.spectrum import Spectrum
from tlbench.evaluation.transferability import h_score, log_evidence
from tlbench.statistics import wilson

PENALTIES = tuple(np.geomspace(1e-4, 1e3, 29).tolist())
"""Those over which a ridge probe is searched, four a decade."""

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""DINO's (Caron et al. 2021)."""


@final
@dataclass(frozen=True, kw_only=True)
class Screened:
    """What a screen found in the best of a backbone's feature views."""

    view: str
    penalty: float
    width: int
    scores: Mapping[str, Any]
    """`n`, `n_correct`, `accuracy` with its 95 % Wilson interval: of the view's ridge regression, every sample judged
    by the fit without it. `neighbours_accuracy` likewise; `logme` and `h_score` as in `evaluation.transferability`."""


def screen(features: Mapping[str, Tensor], labels: Tensor) -> Screened:
    """The best view of training features [n, width] by ridge leave-one-out accuracy, over all `PENALTIES`.

    The first of equal views, and of equal penalties the strongest. What is found is optimistic by the choice among a
    few dozen regressions that resemble each other, alike for every backbone.
    """
    paths = {view: RidgePath.of(Spectrum.shared(values), labels) for view, values in _distinct(features).items()}
    found = {view: path.accuracies(PENALTIES).flip(0) for view, path in paths.items()}
    view = max(found, key=lambda name: float(found[name].max()))
    best = int(found[view].argmax())
    return Screened(
        view=view,
        penalty=PENALTIES[::-1][best],
        width=features[view].shape[1],
        scores={
            **_accuracy(float(found[view][best]), len(labels)),
            "neighbours_accuracy": _neighbours_accuracy(features[view], labels),
            "logme": log_evidence(paths[view].spectrum, labels),
            "h_score": h_score(paths[view].spectrum, labels),
        },
    )


def _distinct(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The views without those that hold the same numbers as one before."""
    found: dict[str, Tensor] = {}
    for view, values in features.items():
        if not any(values.shape == other.shape and torch.equal(values, other) for other in found.values()):
            found[view] = values
    return found


def _accuracy(accuracy: float, samples: int) -> dict[str, Any]:
    correct = round(accuracy * samples)
    low, high = wilson(correct, samples)
    return {
        "n": samples,
        "n_correct": correct,
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
    }


def _neighbours_accuracy(features: Tensor, labels: Tensor) -> float:
    (logits,) = leave_one_out(features, labels, [(NEIGHBOURS, TEMPERATURE)])
    return float((logits.argmax(dim=1) == labels).double().mean())
