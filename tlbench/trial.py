"""One trial: every fact that decides an outcome, and the key that stands for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from tlbench.spaces import Params

Stage = Literal["screen", "search", "final"]
"""A screen looks at training data alone and scores a backbone, not a recipe: it is no competitor's result."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A component by its full name, and the version of it that was used."""

    name: str
    version: int


NO_BACKBONE = Reference(name="none", version=0)
"""In the place of a backbone where a strategy is a control, which has none."""

SCREEN = Reference(name="screen", version=1)
"""In the place of a strategy where a backbone is screened, which fits no model."""


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

    fold: int = 0
    """Which fifth of every class validates, where the data set brings no validation split; finals on small data take
    them in turn (`Arm.finals`)."""

    stage: Stage
    evaluator: int
    """Version of the engine's evaluation: raised when scores stop being comparable."""

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the sha256 over the canonical JSON of every field, but for a fold of 0.

        So trials of before there were folds keep their keys.
        """
        facts = self.to_json()
        return _digest(canonical_json({name: facts[name] for name in facts if name != "fold" or self.fold}))

    def to_json(self) -> dict[str, Any]:
        """JSON of every field; its values are the trial's own, which nobody may change."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: asdict(value) if isinstance(value, Reference) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """The trial that `to_json` wrote."""
        references = {name: Reference(**value[name]) for name in ("backbone", "strategy", "dataset")}
        return cls(**{**value, **references, "declared": tuple(value["declared"])})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Refuses NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an executor hands to a worker: names and numbers only.

    Raises `ValueError` for trials that one computation cannot answer.
    """

    trial: Trial
    more: tuple[Trial, ...] = ()
    """Further search trials of frozen strategies that the same computation answers: they differ from `trial` in
    strategy, parameters and seed alone, and each from all others."""

    keep_model_above: float | None = None
    """Save the fitted model, of several the best one, if its validation score exceeds this; finals are always saved."""

    def __post_init__(self) -> None:
        """Check that one computation answers all trials."""
        if not self.more:
            return
        first = self.trial
        if first.stage != "search":
            raise ValueError(f"a trial of stage '{first.stage}' is a job of its own")
        for other in self.more:
            if replace(first, strategy=other.strategy, params=other.params, seed=other.seed) != other:
                raise ValueError("trials of one job may differ in strategy, parameters and seed alone")
        if len({trial.key for trial in self.trials}) < len(self.trials):
            raise ValueError("a trial is twice in one job")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, in the order of the results."""
        return self.trial, *self.more

    @cached_property
    def key(self) -> str:
        """The trial's key; of several trials 16 hexadecimal digits of the sha256 over all their keys."""
        return _digest(" ".join(trial.key for trial in self.trials)) if self.more else self.trial.key
