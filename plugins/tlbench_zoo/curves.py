"""Curves: signs of one to three strokes, each a Bezier curve; one set of strokes a class.

Bezier curves are one of the formulas that Kataoka et al. (2020) compare; here they are put together into signs, as
handwriting does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tlbench_zoo.geometry import pixels, placements, uniform

_STROKES = 3
_POINTS = 16
"""Points at which a stroke is drawn: neighbours overlap, since strokes are a tenth of the image wide."""


@final
@dataclass(frozen=True, eq=False)
class Curves:
    """A bank of signs."""

    controls: Tensor
    """[classes, 3, 4, 2]: control points of every stroke in [-0.85, 0.85]; one that is not there repeats the first."""

    @classmethod
    def drawn(cls, classes: int, generator: torch.Generator) -> Curves:
        """Draw `classes` signs."""
        controls = uniform((classes, _STROKES, 4, 2), -0.85, 0.85, generator)
        joined = uniform((classes, _STROKES - 1), 0, 1, generator) < 0.5  # half of the strokes begin where one ended
        controls[:, 1:, 0] = torch.where(joined[..., None], controls[:, :-1, -1], controls[:, 1:, 0])
        counts = torch.randint(1, _STROKES + 1, (classes, 1), generator=generator, device=generator.device)
        there = torch.arange(_STROKES, device=generator.device) < counts
        return cls(torch.where(there[..., None, None], controls, controls[:, :1]))

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.controls)

    def coverage(self, classes: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Render an instance of every class in `classes` [n]: coverage in [0, 1], [n, size, size].

        Instances differ in their control points, by an eighth or so, in the width of a stroke and in how they lie.
        """
        count, device = len(classes), classes.device
        chosen = self.controls[classes]
        chosen = chosen + 0.1 * torch.randn(chosen.shape, generator=generator, device=device)
        matrices, shifts = placements(count, generator)
        drawn = _bezier(chosen).flatten(1, 2) @ matrices.mT + shifts[:, None]
        width = uniform((count, 1), 0.06, 0.16, generator)
        nearest = torch.cdist(pixels(size, device).view(1, -1, 2).expand(count, -1, -1), drawn).amin(-1)
        return torch.sigmoid((width - nearest) * size / 2 * 2).view(count, size, size)


def _bezier(controls: Tensor) -> Tensor:
    """Points of cubic curves: [..., 4, 2] to [..., points, 2]."""
    at = torch.linspace(0, 1, _POINTS, device=controls.device)
    weights = torch.stack([(1 - at) ** 3, 3 * at * (1 - at) ** 2, 3 * at**2 * (1 - at), at**3], -1)
    return weights @ controls
