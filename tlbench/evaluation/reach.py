"""The reach of freezing: how far up a strategy leaves a backbone as it is, asked without training."""

from __future__ import annotations

from collections.abc import Sequence

from tlbench.components import Backbone
from tlbench.evaluation.freezing import apply_groups, trainable_names
from tlbench.evaluation.model import META, Classifier, blueprint, build, move, seeded
from tlbench.spaces import Params, resolve
from tlbench.strategies import TrainedStrategy

_BACKBONE = "backbone."
_SEED = 0


def reach(backbone: Backbone, strategy: TrainedStrategy, params: Params, classes: int) -> float:
    """The share of the backbone's layer groups that lie before the first parameter that trains.

    0.0: everything trains, or may from some epoch on; 1.0: the head alone. What has no place among the layer groups is
    taken for part of the first that it may belong to.
    """
    if type(strategy).begin_epoch is not TrainedStrategy.begin_epoch:
        return 0.0
    recipe = resolve(params)
    try:
        with META:
            model = blueprint(backbone, recipe, classes)
            model.example = move(model.example, META)
            names = _trained(model, strategy, recipe)
    except Exception:  # networks that look at values, and strategies that do: with weights, if only fresh ones
        model = build(backbone, recipe, classes, pretrained=False, seed=_SEED)
        names = _trained(model, strategy, recipe)
    groups = model.layer_groups
    return min((_group(name, groups) for name in names), default=len(groups)) / len(groups)


def _trained(model: Classifier, strategy: TrainedStrategy, params: Params) -> list[str]:
    """Names, relative to the backbone, of its parameters that train."""
    with seeded(_SEED, "adapt"):
        groups = strategy.adapt(model, params)
    apply_groups(model, groups)
    return [name.removeprefix(_BACKBONE) for name in trainable_names(model) if name.startswith(_BACKBONE)]


def _group(name: str, groups: Sequence[Sequence[str]]) -> int:
    """Index of the first of the layer groups that names the parameter, or has the nearest relative to one added."""
    kinship = [max((_shared(name, other) for other in group), default=0) for group in groups]
    return kinship.index(max(kinship))


def _shared(one: str, other: str) -> int:
    """How many parts of two dotted names are the same, from the left."""
    parts = list(zip(one.split("."), other.split("."), strict=False))
    return next((index for index, (mine, its) in enumerate(parts) if mine != its), len(parts))
