"""The objective: what a network is to read off a rendered image, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlbench_zoo.scenes import Scene

_WEIGHTS = {"shape": 1.0, "texture": 0.3, "background texture": 0.3, "palette": 0.2, "background palette": 0.2}
_COVER_WEIGHT, _COLOUR_WEIGHT = 2.0, 4.0
_COVER_SIZE = 8
_POSITIONS = 2


@final
class Objective(nn.Module):
    """Linear heads on a network's features: the class of every property, where the shape is, and both mean colours.

    Classes alone are slow to learn for a small network; a map of the shape and colours tell it something in every image
    from the first step on.
    """

    def __init__(self, network: Any, classes: Mapping[str, int], size: int) -> None:
        super().__init__()
        with torch.no_grad():
            unpooled = network.eval().forward_features(torch.zeros(1, 3, size, size))
            width = network.forward_head(unpooled, pre_logits=True).shape[1]
        network.train()
        self.names = list(classes)
        self.heads = nn.ModuleList(nn.Linear(width, classes[name]) for name in self.names)
        self.cover = nn.Linear(_maps(unpooled).flatten(1).shape[1], _COVER_SIZE**2)
        self.colours = nn.Linear(width, 6)

    def forward(self, unpooled: Tensor, pooled: Tensor, scene: Scene) -> Tensor:
        """The loss, a scalar: cross-entropies of classes and cover, squared error of colours, weighted."""
        target = functional.adaptive_avg_pool2d(scene.cover, _COVER_SIZE).flatten(1)
        cover = self.cover(_maps(unpooled).flatten(1))
        loss = _COVER_WEIGHT * functional.binary_cross_entropy_with_logits(cover, target)
        loss = loss + _COLOUR_WEIGHT * functional.mse_loss(self.colours(pooled), scene.colours)
        for name, head in zip(self.names, self.heads, strict=True):
            loss = loss + _WEIGHTS[name] * functional.cross_entropy(head(pooled), scene.labels[name])
        return loss

    def correct(self, pooled: Tensor, scene: Scene) -> dict[str, int]:
        """How many images' class of each property is told right."""
        return {
            name: int((head(pooled).argmax(1) == scene.labels[name]).sum())
            for name, head in zip(self.names, self.heads, strict=True)
        }


def _maps(unpooled: Tensor) -> Tensor:
    """Features of four quarters of the image, [n, width, 2, 2]; patches of a transformer without its class token."""
    if unpooled.ndim == 3:
        side = int(unpooled.shape[1] ** 0.5)
        unpooled = unpooled[:, -(side**2) :].mT.reshape(len(unpooled), -1, side, side)
    return functional.adaptive_avg_pool2d(unpooled, _POSITIONS)
