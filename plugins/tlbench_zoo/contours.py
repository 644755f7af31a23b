"""Contours: closed curves around a middle, one sum of waves a class; filled, outlined or ringed.

After RCDB (Kataoka et al. 2022) and VisualAtom (Takashima et al. 2023), evaluated at every pixel as an implicit
function: edges are smooth at any size, and no curve has to be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tlbench_zoo.geometry import pixels, placements, uniform

_WAVES = 7
_FILLED, _OUTLINED = 0, 1  # 2: ringed


@final
@dataclass(frozen=True, eq=False)
class Contours:
    """A bank of curves: radius 0.75 + the sum over k of amplitude k * cos(k * angle + phase k)."""

    amplitudes: Tensor
    """[classes, 7], 0 for waves a curve does not have."""

    phases: Tensor
    """[classes, 7]."""

    styles: Tensor
    """[classes]: 0 filled, 1 outlined, 2 ringed."""

    rings: Tensor
    """[classes]: how many rings, for those that have them."""

    @classmethod
    def drawn(cls, classes: int, generator: torch.Generator) -> Contours:
        """Draw `classes` curves."""
        device = generator.device
        falling = torch.arange(1, _WAVES + 1, device=device) ** -0.4
        sizes = 0.45 * uniform((classes, _WAVES), 0, 1, generator) ** 2 * falling
        there = uniform((classes, _WAVES), 0, 1, generator) < 0.5
        phases = uniform((classes, _WAVES), 0, 2 * math.pi, generator)
        styles = torch.randint(0, 3, (classes,), generator=generator, device=device)
        return cls(sizes * there, phases, styles, uniform((classes,), 1.5, 4.5, generator))

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.styles)

    def coverage(self, classes: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Render an instance of every class in `classes` [n]: coverage in [0, 1], [n, size, size].

        Instances differ in amplitudes and phases, by a seventh or so, in the width of a line and in how they lie.
        """
        count = len(classes)
        shape, device = (count, _WAVES), classes.device
        amplitudes = self.amplitudes[classes] * (1 + 0.15 * torch.randn(shape, generator=generator, device=device))
        phases = self.phases[classes] + 0.15 * torch.randn(shape, generator=generator, device=device)
        matrices, shifts = placements(count, generator)
        distance, angle = _polar(matrices, shifts, size)
        radius = torch.full_like(distance, 0.75)
        for wave in range(_WAVES):
            swing = torch.cos((wave + 1) * angle + phases[:, wave, None, None])
            radius = radius + amplitudes[:, wave, None, None] * swing
        radius = radius.clamp(min=0.12)
        pixel = 2.4 / size / torch.linalg.matrix_norm(matrices)[:, None, None]
        width = uniform((count, 1, 1), 0.05, 0.15, generator) + pixel / 2
        filled = torch.sigmoid(2 * (radius - distance) / pixel)
        outlined = torch.exp(-(((radius - distance) / width) ** 2))
        waves = torch.cos(2 * math.pi * distance / radius * self.rings[classes, None, None])
        style = self.styles[classes, None, None]
        ringed = filled * (0.5 + 0.5 * waves)
        return torch.where(style == _FILLED, filled, torch.where(style == _OUTLINED, outlined, ringed))


def _polar(matrices: Tensor, shifts: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Distance and angle of every pixel, seen from the curves that `matrices` and `shifts` place: [n, size, size]."""
    seen = pixels(size, matrices.device) - shifts[:, None, None]
    back = 1.15 * torch.einsum("nij,nhwj->nhwi", torch.linalg.inv(matrices), seen)
    return back.norm(dim=-1), torch.atan2(back[..., 1], back[..., 0])
