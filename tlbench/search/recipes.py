"""Recipes: where those of the staged plan come from, many at once for probes, one by one for what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from tlbench.benchmark import Search
from tlbench.search.arm import Arm
from tlbench.search.points import points
from tlbench.search.sampling import OptunaStudy, fixed_sampler, make_sampler
from tlbench.seeds import derive_seed
from tlbench.strategies import FrozenStrategy
from tlbench.trial import canonical_json

TOGETHER, ALONE = 32, 3
"""Recipes per pool beside the defaults, of strategies that fit many at once and of those that do not."""

_UNCHANGING = {"augmentation": "none", "mixup": 0.0, "cutmix": 0.0}
"""What lets the activations below the layers that train be computed once."""


def staged(arm: Arm, cached: bool) -> Arm:
    """The arm as the staged plan trains it: in rungs that go on from each other, where the file does not forbid it.

    `cached`: without augmentation, so that what is frozen can be kept; a linear head begins where the probe ended.
    """
    given = {*arm.override.fixed, *arm.override.ranges}
    first = arm.defaults()
    fixed: dict[str, Any] = dict(_UNCHANGING) if cached else {}
    if cached and first["head"] == "linear" and "head" not in arm.override.ranges:
        fixed["head_start"] = "probe"
    if first["patience"] is None and first["average"] == 1 and not given & {"patience", "average"}:
        fixed["schedule"] = "wsd"
    added = {name: value for name, value in fixed.items() if name not in given}
    return replace(arm, override=replace(arm.override, fixed={**arm.override.fixed, **added}))


def of_probes(arm: Arm, search: Search) -> list[dict[str, Any]]:
    """Recipes of a frozen strategy: with every pool its defaults, and others spread over the rest of its space."""
    strategy = arm.component
    count = TOGETHER if isinstance(strategy, FrozenStrategy) and strategy.together else ALONE
    found = {canonical_json(recipe): recipe for pooled in _by_pool(arm) for recipe in _spread(pooled, search, count)}
    return list(found.values())


def _by_pool(arm: Arm) -> Iterator[Arm]:
    """The arm once per pool, unless the file says which."""
    given = {*arm.override.fixed, *arm.override.ranges}
    if "pool" in given or "pool" not in arm.component.reserved:
        yield arm
        return
    for pool in arm.context.pools:
        yield replace(arm, override=replace(arm.override, fixed={**arm.override.fixed, "pool": pool}))


def _spread(arm: Arm, search: Search, count: int) -> Iterator[dict[str, Any]]:
    """The defaults, then points of a scrambled Sobol sequence."""
    yield arm.defaults()
    for point in points(count, derive_seed(search.seed, arm.strategy.name, "probes") % 2**32):
        yield arm.recipe(point, "")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """A recipe of an arm, and how its sampler knows it."""

    arm: Arm
    params: dict[str, Any]
    suggested: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    is_first: bool = False
    """Whether these are the defaults."""

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return canonical_json([self.arm.backbone.name, self.arm.strategy.name, self.params])


@final
@dataclass(kw_only=True)
class Recipes:
    """Recipes of trained strategies. What is learned with one backbone serves the others of its kind."""

    search: Search
    label: str
    """Names the contest: its samplers are seeded by it."""

    asked: int = 0
    _studies: dict[str, OptunaStudy] = field(default_factory=dict)
    _apart: set[str] = field(default_factory=set)
    """Arms by kind and depth whose choices are others than those of the depth that was asked first."""

    def first(self, arm: Arm) -> Recipe:
        """The defaults."""
        seed = self._seed("first", arm.backbone.name, arm.strategy.name)
        return replace(self._ask(arm, fixed_sampler(arm.defaults(), seed)), is_first=True)

    def next(self, arm: Arm) -> Recipe:
        """What the sampler says, seeded by how many were asked before."""
        self.asked += 1
        return self._ask(arm, make_sampler(self.search.sampler, self._seed("points"), self._seed(self.asked)))

    def again(self, arm: Arm, suggested: Mapping[str, Any]) -> Recipe:
        """What the sampler said in an earlier run."""
        self.asked += 1
        return self._ask(arm, fixed_sampler(suggested, self._seed(self.asked)))

    def tell(self, recipe: Recipe, epochs: int, score: float | None, whole: bool) -> None:
        """The score after `epochs`; `whole`: as many as any recipe gets. What was stopped before is told as pruned."""
        state = TrialState.FAIL if score is None else TrialState.COMPLETE if whole else TrialState.PRUNED
        known = {name: of for name, of in recipe.distributions.items() if _contains(of, recipe.suggested[name])}
        self._study(recipe.arm).add_trial(
            create_trial(
                state=state,
                value=score if state == TrialState.COMPLETE else None,
                params={name: recipe.suggested[name] for name in known},
                distributions=known,
                intermediate_values={} if score is None else {epochs: score},
            )
        )

    def _ask(self, arm: Arm, sampler: optuna.samplers.BaseSampler) -> Recipe:
        try:
            return self._draw(arm, sampler)
        except ValueError:  # choices may be others than those of a backbone of another depth
            if _of_depth(arm) in self._apart:
                raise
            self._apart.add(_of_depth(arm))
            return self._draw(arm, sampler)

    def _draw(self, arm: Arm, sampler: optuna.samplers.BaseSampler) -> Recipe:
        study = self._study(arm)
        study.sampler = sampler
        trial = study.ask()
        try:
            params = arm.recipe(trial, "")
        finally:
            # Results are told as trials of their own, one per rung; this one only served to draw.
            study.tell(trial, state=TrialState.FAIL)
        return Recipe(arm=arm, params=params, suggested=trial.params, distributions=trial.distributions)

    def _study(self, arm: Arm) -> OptunaStudy:
        shared = _of_depth(arm) if _of_depth(arm) in self._apart else _of_kind(arm)
        if shared not in self._studies:
            sampler = make_sampler(self.search.sampler, self._seed("points"), self._seed(shared))
            self._studies[shared] = OptunaStudy(shared, self.search, sampler)
        return self._studies[shared]

    def _seed(self, *purpose: object) -> int:
        return derive_seed(self.search.seed, self.label, *map(str, purpose)) % 2**32


def _of_kind(arm: Arm) -> str:
    """What backbones have to agree in for one to learn from the other."""
    context = arm.context
    return canonical_json([arm.strategy.name, context.kind, list(context.pools), context.drop_path])


def _of_depth(arm: Arm) -> str:
    """Likewise where a strategy's choices follow the number of layers."""
    return canonical_json([_of_kind(arm), arm.context.layer_groups])


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that can be told: of a default or a grid's point beyond the range Optuna only warns."""
    return distribution._contains(distribution.to_internal_repr(value))
