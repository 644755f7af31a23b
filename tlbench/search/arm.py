"""An arm: a backbone with a strategy on a data set; everything of a trial but its recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from tlbench.benchmark import StrategyOverride
from tlbench.spaces import RESERVED, Context, Narrowed, Params, Suggest, check
from tlbench.strategies import Strategy
from tlbench.trial import Reference, Stage, Trial


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One competitor of a search."""

    backbone: Reference
    strategy: Reference
    dataset: Reference
    declared: tuple[Mapping[str, Any], ...]
    weights: str
    preprocess: Mapping[str, Any]
    fingerprint: str
    split_seed: int
    shots: int | None
    context: Context
    component: Strategy
    override: StrategyOverride
    folds: int = 1
    """Folds that finals validate on in turn."""

    @property
    def kind(self) -> str:
        """The kind of transfer: `frozen` features, `trained` from pretrained weights, or from `random` ones."""
        if not self.component.pretrained:
            return "random"
        return "frozen" if self.component.frozen else "trained"

    def trial(self, params: Params, *, stage: Stage, seed: int, epochs: int, metric: str, evaluator: int) -> Trial:
        """The question this arm asks with a recipe."""
        return Trial(
            backbone=self.backbone,
            strategy=self.strategy,
            dataset=self.dataset,
            declared=self.declared,
            weights=self.weights,
            preprocess=self.preprocess,
            fingerprint=self.fingerprint,
            split_seed=self.split_seed,
            shots=self.shots,
            params=params,
            seed=seed,
            metric=metric,
            epochs=0 if self.component.frozen else epochs,
            stage=stage,
            evaluator=evaluator,
        )

    def finals(self, trial: Trial, seeds: Sequence[int]) -> list[Trial]:
        """A recipe that a search tried, to be trained anew and scored on test, once per seed.

        Each validates on another fold where there are several, so that what is chosen among finalists is chosen on
        more samples: repeated hold-out, whose training sets overlap as those of cross-validation do (Stone 1974,
        Cross-validatory choice and assessment of statistical predictions).
        """
        return [replace(trial, stage="final", seed=seed, fold=number % self.folds) for number, seed in enumerate(seeds)]

    def defaults(self) -> dict[str, Any]:
        """The first recipe, whole: every default, moved into what the file fixes and narrows."""
        params = self._known()
        for name, given in self.override.ranges.items():
            if name in params:
                params[name] = _into(params[name], given)
        return {**params, **self.override.fixed}

    def recipe(self, trial: Suggest, prefix: str) -> dict[str, Any]:
        """The full recipe that `trial` suggests."""
        narrowed = Narrowed(trial, self.override.fixed, self.override.ranges, prefix)
        suggested = self.component.space(narrowed, self.context)
        params = {**self._known(), **suggested, **narrowed.remaining(suggested)}
        check(params)
        return params

    def _known(self) -> dict[str, Any]:
        """The defaults of every parameter that the strategy has."""
        reserved = {name: RESERVED[name] for name in self.component.reserved}
        return {**reserved, **self.component.defaults(self.context)}


def arms_of(arms: Sequence[Arm], backbones: Sequence[str]) -> list[Arm]:
    """The arms of some backbones, backbone by backbone in their order."""
    own = [arm for arm in arms if arm.backbone.name in backbones]
    return sorted(own, key=lambda arm: backbones.index(arm.backbone.name))


def _into(value: Any, given: Mapping[str, Any]) -> Any:
    """The value nearest to `value` in the range a file gives."""
    if "choices" in given:
        return value if value in given["choices"] else given["choices"][0]
    low, high, step = given["low"], given["high"], given.get("step")
    if value is None:  # no patience, no clipping: as far as the range allows
        return high
    near = min(max(value, low), high)
    if step is None:
        return near
    return low + min(round((near - low) / step), math.floor((high - low) / step + 1e-9)) * step
