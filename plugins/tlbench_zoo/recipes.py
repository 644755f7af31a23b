"""Recipes: how long and how a network is pretrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW with a warm-up and a cosine to 0, on images rendered anew for every step."""

    steps: int
    batch: int = 64
    """More steps of 64 images are worth more than fewer of 128."""

    shapes: int = 300
    """Classes of shapes, a third each of fractals, contours and curves."""

    learning_rate: float = 4e-3
    """The highest; `RATE_SCALES` has what it is multiplied with."""

    weight_decay: float = 0.05
    warmup: int = 200
    """Steps of a rising rate."""

    clip_norm: float = 5.0
    evaluated: int = 4096
    """New images on which the card's accuracies are measured."""


RECIPES = {
    "short": Recipe(steps=20, batch=16, shapes=30, warmup=5, evaluated=64),
    "full": Recipe(steps=8000),
    "long": Recipe(steps=24_000),
}
"""`short` is for checks: its weights are of no use. `long` made `resnet_mini`, `full` the package's other weights.
Twice as long again brought that network nothing."""

RATE_SCALES = {"convnext_mini": 0.5, "vit_mini": 0.25}
"""Networks without batch norm bear lower rates; 1 for all others."""
