"""One trial: every fact that decides an outcome, and the key that stands for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tlbench.spaces import Params

Stage = Literal["screen", "search", "final"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A component by its full name, and the version of it that was used."""

    name: str
    version: int


NO_BACKBONE = Reference(name="none", version=0)
"""In the place of a backbone where a strategy is a control, which has none."""


SCREEN = Reference(name="screen", version=1)
"""In the place of a strategy where a backbone's features are looked at and no validation sample is."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Backbone, strategy, data and recipe. Not part of it: trial number, device, executor, benchmark name."""

    backbone: Reference
    strategy: Reference
    dataset: Reference
    declared: tuple[Mapping[str, Any], ...] = ()
    """Base and options of a backbone that the benchmark declares, and of its base if that is declared too."""

    weights: str
    """Identity of the pretrained weights, or of random ones where training starts from scratch; `none` of a control."""

    preprocess: Mapping[str, Any]
    """The preprocessing's identity; nothing for a control, whose own is part of its version."""

    fingerprint: str
    """The data set's fingerprint, samples left out included."""

    split_seed: int
    shots: int | None
    """Training samples per class; None: all."""

    params: Params
    """The full recipe: every reserved name and the strategy's own."""

    seed: int
    metric: str
    """Validation metric that chooses the best epoch."""

    epochs: int
    """Epochs of training; 0 for a frozen strategy, which fits in closed form or to convergence."""

    fraction: float = 1.0
    """Part of the training data, in (0, 1]."""

    stage: Stage
    evaluator: int
    """Version of the engine's evaluation: raised when scores stop being comparable."""

    @property
    def key(self) -> str:
        """16 hexadecimal digits of the sha256 over the canonical JSON of every field."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """The trial that `dataclasses.asdict` wrote."""
        references = {name: Reference(**value[name]) for name in ("backbone", "strategy", "dataset")}
        return cls(**{**value, **references, "declared": tuple(value["declared"])})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Refuses NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an executor hands to a worker: names and numbers only."""

    trial: Trial
    more: tuple[Trial, ...] = ()
    keep_model_above: float | None = None
    """Save the fitted model if its search score exceeds this; finals are always saved."""

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.trial.key
