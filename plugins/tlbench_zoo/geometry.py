"""Geometry: pixel coordinates, and how an instance of a shape lies in its image. All of it batched."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TURN = math.pi / 7


def pixels(size: int, device: torch.device) -> Tensor:
    """Coordinates (x, y) of every pixel's middle in [-1, 1]: [size, size, 2]."""
    middle = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Values drawn evenly from [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def rotation(angles: Tensor) -> Tensor:
    """Rotation matrices [..., 2, 2] for `angles` [...] in radians."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)


def placements(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random affine maps: matrices [count, 2, 2] (turns of 26 degrees at most, scale, shear) and shifts [count, 2]."""
    size = uniform((count,), 0.6, 1.1, generator)
    stretch, shear = uniform((count,), -0.2, 0.2, generator).exp(), uniform((count,), -0.25, 0.25, generator)
    upper = torch.stack([stretch, shear], -1), torch.stack([torch.zeros_like(shear), 1 / stretch], -1)
    turned = rotation(uniform((count,), -_TURN, _TURN, generator))
    return size[:, None, None] * (turned @ torch.stack(upper, -2)), uniform((count, 2), -0.2, 0.2, generator)
