"""Geometry: what a vision model's unpooled features look like, seen by a forward pass on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from tlbench_transformers.module import image_features


@final
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Axes of the features, tokens before the patches, the native pooling and all pools."""

    layout: str
    prefix_tokens: int
    pooling: str
    pools: tuple[str, ...]


def observe(model: nn.Module, size: tuple[int, int]) -> Geometry:
    """Look at the features of `model`, which lies on the meta device, for images of `size` (height, width)."""
    with torch.device("meta"), torch.no_grad():
        features = image_features(model.eval(), torch.zeros(1, 3, *size))
    if features.ndim == 3:
        return _tokens(model, features, size)
    _, first, second, third = features.shape
    layout = "NHWC" if first * size[1] == second * size[0] and second != third else "NCHW"
    return Geometry(layout=layout, prefix_tokens=0, pooling="avg", pools=("native", "avg", "max"))


def _tokens(model: Any, features: Tensor, size: tuple[int, int]) -> Geometry:
    """Tokens beyond those of the patches come first: class token and registers."""
    patch = getattr(model.config, "patch_size", None)
    classed = any(name.endswith("cls_token") for name, _ in model.named_parameters())
    patches = (size[0] // patch) * (size[1] // patch) if isinstance(patch, int) else 0
    prefix = features.shape[1] - patches if classed and 0 < patches < features.shape[1] else 0
    if prefix:
        return Geometry(layout="NLC", prefix_tokens=prefix, pooling="cls", pools=("native", "cls", "avg", "max"))
    return Geometry(layout="NLC", prefix_tokens=0, pooling="avg", pools=("native", "avg", "max"))
