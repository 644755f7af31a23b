"""Prices: how long a job will take, learned from those that were done."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from tlbench.measurement import Measurement
from tlbench.trial import Trial

OVERHEAD_S = 0.5
"""What any job takes: loading weights, writing results."""

BACKWARD = 2.2
"""What a backward pass with the optimiser's step takes, in forward passes: 3.0 to 3.3 for both were measured."""

DECAY = 1 / 3
"""Part of a training that a rung does not share with the next one."""


@final
@dataclass(kw_only=True)
class Prices:
    """Seconds by backbone and strategy. Unknown is None: what was never measured cannot be said to be too long."""

    _forward: dict[str, float] = field(default_factory=dict)
    """Of a sample through a frozen backbone."""

    _epoch: dict[tuple[str, str], float] = field(default_factory=dict)
    _validation: dict[tuple[str, str], float] = field(default_factory=dict)
    _ratios: dict[str, list[float]] = field(default_factory=dict)
    """Of measured and expected epochs, by strategy."""

    def learn(self, measurement: Measurement, reach: float) -> None:
        """Take note of what a job took; `reach` is the frozen share of the backbone's layers."""
        trial, cost, counts = measurement.trial, measurement.cost, measurement.counts
        passed = _passed(counts, trial)
        if cost.get("features_s") and passed:
            self._forward[trial.backbone.name] = float(cost["features_s"]) / passed
        if trial.epochs and cost.get("train_s") and measurement.curve:
            where = (trial.backbone.name, trial.strategy.name)
            expected = self._expected(trial.backbone.name, int(counts.get("train") or 0), reach)
            self._epoch[where] = float(cost["train_s"]) / measurement.curve[-1].epoch
            self._validation[where] = float(cost.get("validation_s") or 0.0)
            if expected:
                self._ratios.setdefault(trial.strategy.name, []).append(self._epoch[where] / expected)

    def features(self, backbone: str, samples: int) -> float | None:
        """A pass of `samples` through a frozen backbone, and what is fitted on it."""
        forward = self._forward.get(backbone)
        return None if forward is None else OVERHEAD_S + forward * samples

    def training(self, trial: Trial, samples: int, reach: float, resumed: int = 0) -> float | None:
        """A training run, of which the undecayed part of `resumed` epochs is there already."""
        where = (trial.backbone.name, trial.strategy.name)
        epoch = self._epoch.get(where)
        if epoch is None:
            expected = self._expected(trial.backbone.name, samples, reach)
            ratios = self._ratios.get(trial.strategy.name, [1.0])
            epoch = None if expected is None else expected * statistics.median(ratios)
        if epoch is None:
            return None
        left = trial.epochs - (1 - DECAY) * resumed
        return OVERHEAD_S + epoch * left + self._validation.get(where, 0.1 * epoch)

    def _expected(self, backbone: str, samples: int, reach: float) -> float | None:
        """An epoch by the forward pass alone, where nothing better is known."""
        forward = self._forward.get(backbone)
        return None if forward is None else forward * samples * (1 + BACKWARD * (1 - reach))


def _passed(counts: Mapping[str, int | None], trial: Trial) -> int:
    """Samples that a job passed through a frozen backbone."""
    validation = 0 if trial.stage == "screen" else counts.get("validation") or 0
    return int(counts.get("train") or 0) + validation
