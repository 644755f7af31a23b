"""Fractals: attractors of iterated function systems, one system a class, rendered by the chaos game.

After FractalDB (Kataoka et al. 2020), with systems drawn as Anderson and Farrell (2022) do: through the singular values
of their maps, whose sum decides whether an attractor is dust, a filled patch or something in between worth looking at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tlbench_zoo.geometry import placements, rotation, uniform

_MAPS = 6
_CHAINS, _STEPS, _BURN_IN = 192, 40, 12
"""Points that wander side by side, how many of their steps are drawn, and how many are not yet on the attractor."""


@final
@dataclass(frozen=True, eq=False)
class Fractals:
    """A bank of iterated function systems with up to six maps each."""

    maps: Tensor
    """[classes, 6, 6]: of each map x -> A x + b, the matrix row by row and the shift."""

    chances: Tensor
    """[classes, 6]: how often each map is taken; 0 for those a system does not have."""

    middle: Tensor
    """[classes, 2]: the attractor's middle."""

    extent: Tensor
    """[classes, 2]: half its width and height."""

    @classmethod
    def drawn(cls, classes: int, generator: torch.Generator) -> Fractals:
        """Draw `classes` systems."""
        matrices, chances = _systems(classes, generator)
        shifts = uniform((classes, _MAPS, 2), -1, 1, generator)
        maps = torch.cat([matrices.flatten(2), shifts], -1)
        points = _wander(maps, chances, generator)
        low, high = points.quantile(0.02, 1), points.quantile(0.98, 1)
        return cls(maps, chances, (low + high) / 2, ((high - low) / 2).clamp(min=1e-3))

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.maps)

    def coverage(self, classes: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Render an instance of every class in `classes` [n]: coverage in [0, 1], [n, size, size].

        Instances differ in the maps' matrices, by a twentieth or so, and in how they lie in the image.
        """
        maps = self.maps[classes].clone()
        noise = torch.randn(maps.shape, generator=generator, device=maps.device).clamp(-2, 2)
        maps[..., :4] *= 1 + 0.05 * noise[..., :4]
        points = _wander(maps, self.chances[classes], generator)
        points = 0.9 * (points - self.middle[classes, None]) / self.extent[classes, None]
        matrices, shifts = placements(len(classes), generator)
        return _splat(points @ matrices.mT + shifts[:, None], size)


def _systems(classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Matrices [classes, 6, 2, 2] and the chances [classes, 6] of their maps.

    With N maps of singular values s1 >= s2, the sum over s1 + 2 s2 lies in [(5 + N) / 2, (6 + N) / 2] (Anderson and
    Farrell 2022, section 3.2); every value, drawn evenly, is raised to the one power that brings the sum there.
    """
    device = generator.device
    counts = torch.randint(2, _MAPS + 1, (classes, 1), generator=generator, device=device)
    there = torch.arange(_MAPS, device=device) < counts
    values = uniform((classes, _MAPS, 2), 0, 1, generator).sort(-1, descending=True).values
    wanted = (5 + counts[:, 0]) / 2 + uniform((classes,), 0, 0.5, generator)
    values = (values ** _power(values, there, wanted)[:, None, None]).clamp(max=0.98)
    turns = uniform((classes, _MAPS, 2), 0, 2 * math.pi, generator)
    signs = torch.randint(0, 2, (classes, _MAPS, 2), generator=generator, device=device) * 2.0 - 1
    matrices = rotation(turns[..., 0]) @ torch.diag_embed(values) @ rotation(turns[..., 1]) @ torch.diag_embed(signs)
    chances = values.prod(-1).clamp(min=0.02) * there
    return matrices, chances / chances.sum(1, keepdim=True)


def _power(values: Tensor, there: Tensor, wanted: Tensor) -> Tensor:
    """The power [classes] that brings the weighted sum of `values` to `wanted`: by bisection, the sum falls with it."""
    low, high = torch.full_like(wanted, 0.02), torch.full_like(wanted, 50.0)
    weights = torch.tensor([1.0, 2.0], device=values.device)
    for _ in range(40):
        middle = (low * high).sqrt()
        total = ((values ** middle[:, None, None] * weights).sum(-1) * there).sum(1)
        low, high = torch.where(total > wanted, middle, low), torch.where(total > wanted, high, middle)
    return low


def _wander(maps: Tensor, chances: Tensor, generator: torch.Generator) -> Tensor:
    """Points on the attractors of `maps` [n, 6, 6]: [n, points, 2]."""
    count, moves = len(maps), _BURN_IN + _STEPS
    taken = torch.multinomial(chances, moves * _CHAINS, replacement=True, generator=generator).view(count, moves, -1)
    points, drawn = torch.zeros(count, _CHAINS, 2, device=maps.device), []
    for move in range(moves):
        chosen = maps.gather(1, taken[:, move, :, None].expand(-1, -1, 6))
        x, y = points.unbind(-1)
        across = chosen[..., 0] * x + chosen[..., 1] * y + chosen[..., 4]
        down = chosen[..., 2] * x + chosen[..., 3] * y + chosen[..., 5]
        points = torch.stack([across, down], -1)
        if move >= _BURN_IN:
            drawn.append(points)
    return torch.cat(drawn, 1)


def _splat(points: Tensor, size: int) -> Tensor:
    """How densely `points` [n, points, 2] cover each pixel, next to each image's densest ones: [n, size, size]."""
    cells = ((points + 1) / 2 * size).floor().long()
    inside = ((cells >= 0) & (cells < size)).all(-1)
    cells = cells.clamp(0, size - 1)
    hits = torch.zeros(len(points), size * size, device=points.device)
    hits.scatter_add_(1, cells[..., 1] * size + cells[..., 0], inside.float())
    dense = hits.quantile(0.98, 1, keepdim=True).clamp(min=1)
    return ((hits / dense).clamp(max=1) ** 0.6).view(-1, size, size)
