"""Geometry: what a timm model's unpooled features look like, seen by a forward pass on the meta device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The three attributes of `tlbench.components.Backbone` that follow from the features."""

    layout: str
    prefix_tokens: int
    pools: tuple[str, ...]


def observe(module: nn.Module, size: tuple[int, int]) -> Geometry:
    """Look at the features of `module`, which lies on the meta device, for images of `size` (height, width)."""
    with torch.device("meta"), torch.no_grad():
        features = module.eval().forward_features(torch.zeros(1, 3, *size))  # type: ignore[operator]
    if not isinstance(features, Tensor):  # several scales at once: only the model itself can pool them
        return Geometry(layout="NCHW", prefix_tokens=0, pools=("native",))
    if features.ndim == 3:
        return _tokens(module, features)
    last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    return Geometry(layout="NHWC" if last else "NCHW", prefix_tokens=0, pools=("native", "avg", "max", "gem"))


def _tokens(module: Any, features: Tensor) -> Geometry:
    """Where a model does not count its prefix tokens, tokens that fill no square are not told apart from patches."""
    prefix = getattr(module, "num_prefix_tokens", None)
    classed = getattr(module, "cls_token", None) is not None
    if prefix is None:
        squared = math.isqrt(features.shape[1]) ** 2 == features.shape[1]
        return Geometry(
            layout="NLC", prefix_tokens=0, pools=("native", "avg", "max") if squared and not classed else ("native",)
        )
    pools = ("native", "cls", "avg", "max", "cls+avg") if classed else ("native", "avg", "max")
    return Geometry(layout="NLC", prefix_tokens=prefix, pools=pools)
