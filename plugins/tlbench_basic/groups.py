"""Parameter groups: the layers of a backbone, its fresh part, and the rates they learn at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlbench.parameters import number
from tlbench.spaces import Params
from tlbench.strategies import ParameterGroup

if TYPE_CHECKING:
    from torch import nn

_HIGHEST_SCALE = 1e6


def fresh_part(model: Any, params: Params) -> ParameterGroup:
    """Pool and head, at `head_learning_rate_scale` times the learning rate."""
    scale = number(params, "head_learning_rate_scale", 0.0, _HIGHEST_SCALE)
    return ParameterGroup([*model.pool.parameters(), *model.head.parameters()], scale)


def check_rates(params: Params) -> None:
    """Refuse factors on the learning rate that cannot be used. Raises `BenchmarkError`."""
    number(params, "head_learning_rate_scale", 0.0, _HIGHEST_SCALE)
    if "layer_decay" in params:
        layer_decay(params)


def backbone_part(model: Any, *, frozen: int = 0, decay: float | None = None) -> list[ParameterGroup]:
    """The backbone's layer groups but for the first `frozen` ones.

    With `decay`, each learns at ``decay ** depth`` times the learning rate, where depth counts layer groups from the
    top, whose own depth is 0; without, all learn at the learning rate itself.
    """
    layers = _layers(model)[frozen:]
    if decay is None:
        return [ParameterGroup([parameter for layer in layers for parameter in layer])]
    top = len(layers) - 1
    return [ParameterGroup(layer, decay ** (top - index)) for index, layer in enumerate(layers)]


def layer_decay(params: Params) -> float | None:
    """The recipe's `layer_decay`: None is off; 0 is a rate of 0 for all but the top layer group, not "off"."""
    return None if params["layer_decay"] is None else number(params, "layer_decay", 0.0, 1.0)


def _layers(model: Any) -> list[list[nn.Parameter]]:
    """The backbone's parameters by layer group, from input to output."""
    named = dict(model.backbone.named_parameters())
    return [[named[name] for name in names] for names in model.layer_groups]
