"""Pooling: from a backbone's unpooled features to one vector per sample, or to positions for a head that pools."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from tlbench.evaluation.heads import masked_mean

_GEM_START = 3.0
"""The exponent that generalised-mean pooling starts from (Radenovic et al. 2019)."""


def attention_mask(inputs: Any) -> Tensor | None:
    """What of the inputs belongs to samples, [n, length]; None where samples do not differ in length."""
    return None if isinstance(inputs, Tensor) else inputs.get("attention_mask")


@final
class Pool(nn.Module):
    """Unpooled features to one vector per sample [n, width], as one of `Backbone.pools` says."""

    def __init__(self, name: str, layout: str, prefix_tokens: int) -> None:
        super().__init__()
        self.name, self.layout, self.prefix_tokens = name, layout, prefix_tokens
        if "gem" in name.split("+"):
            self.exponent = nn.Parameter(torch.tensor(_GEM_START))

    def forward(self, backbone: nn.Module, unpooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool as the name says; `native` is the model's own `forward_head`."""
        if self.name == "native":
            told = {} if mask is None else {"attention_mask": mask}
            pooled: Tensor = backbone.forward_head(unpooled, pre_logits=True, **told)  # type: ignore[operator]
            return pooled
        return torch.cat([self._part(part, unpooled, mask) for part in self.name.split("+")], dim=1)

    def positions(self, unpooled: Tensor) -> Tensor:
        """Features by position, channels last: [n, height, width, channels] or, of tokens, [n, length, channels]."""
        if self.layout == "NLC":
            return unpooled[:, self.prefix_tokens :]
        return unpooled.movedim(1, -1) if self.layout == "NCHW" else unpooled

    def visible(self, mask: Tensor | None) -> Tensor | None:
        """Which of the positions belong to samples."""
        return None if mask is None else mask[:, self.prefix_tokens :]

    def _part(self, part: str, unpooled: Tensor, mask: Tensor | None) -> Tensor:
        if part == "cls":
            return unpooled[:, 0]
        if part == "last":
            return unpooled[torch.arange(unpooled.shape[0]), _last(unpooled, mask)]
        flat, counted = self.positions(unpooled).flatten(1, -2), self.visible(mask)
        if part == "avg":
            return masked_mean(flat, counted)
        if part == "gem":
            return masked_mean(flat.clamp(min=1e-6) ** self.exponent, counted) ** (1 / self.exponent)
        return (flat if counted is None else flat.masked_fill(counted[..., None] == 0, -math.inf)).amax(1)


def _last(unpooled: Tensor, mask: Tensor | None) -> Tensor:
    """Position of each sample's last token that is no padding, on whichever side the padding is."""
    length = unpooled.shape[1]
    if mask is None:
        return torch.full((unpooled.shape[0],), length - 1, device=unpooled.device)
    return (mask * torch.arange(1, length + 1, device=mask.device)).argmax(1)


def squared(positions: Tensor, inputs: Any) -> Tensor:
    """Patches [n, length, channels] of square images as a map, where they fill one; anything else as it is.

    Of other images a square number of patches need be no square: 8 x 2 are as many as 4 x 4.
    """
    if not isinstance(inputs, Tensor) or inputs.shape[-2] != inputs.shape[-1] or positions.ndim != 3:
        return positions
    side = math.isqrt(positions.shape[1])  # an integer: of texts, whose length a graph leaves open, it is not asked
    return positions.reshape(positions.shape[0], side, side, -1) if side * side == positions.shape[1] else positions
