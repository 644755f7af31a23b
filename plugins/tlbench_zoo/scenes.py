"""Scenes: a shape before a background, both painted with textures and colours, each of them a class of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tlbench_zoo.contours import Contours
from tlbench_zoo.curves import Curves
from tlbench_zoo.fractals import Fractals
from tlbench_zoo.geometry import pixels, uniform

_GRATING, _CHECKER = 0, 1  # 2: noise


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of images and what is known of them."""

    images: Tensor
    """[n, 3, size, size] in [0, 1]."""

    labels: dict[str, Tensor]
    """[n] class indices, by property."""

    cover: Tensor
    """[n, size, size] in [0, 1]: where the shape is."""

    colours: Tensor
    """[n, 6]: mean colour of the shape's surface and of the background."""


@final
@dataclass(frozen=True, eq=False)
class Scenes:
    """What images are made of: banks of shapes, textures and palettes."""

    shapes: tuple[Fractals | Contours | Curves, ...]
    """Banks of shapes, with equally many classes each."""

    kinds: Tensor
    """[textures]: 0 grating, 1 checker, 2 noise."""

    frequencies: Tensor
    """[textures]: half-waves over the image, of gratings and checkers."""

    warps: Tensor
    """[textures]: how far noise bends a grating."""

    palettes: Tensor
    """[palettes, 2, 3]: two colours each."""

    @classmethod
    def drawn(cls, shapes: int, generator: torch.Generator, textures: int = 64, palettes: int = 32) -> Scenes:
        """Draw the banks: a third each of the `shapes` are fractals, contours and curves."""
        device = generator.device
        return cls(
            tuple(kind.drawn(shapes // 3, generator) for kind in (Fractals, Contours, Curves)),
            torch.randint(0, 3, (textures,), generator=generator, device=device),
            uniform((textures,), 1.5, 7.5, generator),
            uniform((textures,), 0, 3, generator),
            uniform((palettes, 2, 3), 0, 1, generator),
        )

    @property
    def classes(self) -> dict[str, int]:
        """How many classes each of an image's five properties has."""
        textures, palettes = len(self.kinds), len(self.palettes)
        return {
            "shape": sum(bank.classes for bank in self.shapes),
            "texture": textures,
            "palette": palettes,
            "background texture": textures,
            "background palette": palettes,
        }

    def sample(self, count: int, size: int, generator: torch.Generator) -> Scene:
        """Render `count` images of `size` pixels along each edge."""
        labels = {
            name: torch.randint(0, classes, (count,), generator=generator, device=generator.device)
            for name, classes in self.classes.items()
        }
        labels["background palette"] = self._contrasting(labels["palette"], generator)
        cover = self._coverage(labels["shape"], size, generator)
        front = self._painted(labels["texture"], labels["palette"], size, generator)
        back = self._painted(labels["background texture"], labels["background palette"], size, generator)
        images = cover[:, None] * front + (1 - cover[:, None]) * back
        colours = torch.cat([front.mean((2, 3)), back.mean((2, 3))], 1)
        return Scene(_photographed(images, generator), labels, cover, colours)

    def _contrasting(self, palettes: Tensor, generator: torch.Generator) -> Tensor:
        """Palettes [n] for backgrounds: of three drawn for each, the farthest from the shape's."""
        drawn = torch.randint(0, len(self.palettes), (len(palettes), 3), generator=generator, device=palettes.device)
        means = self.palettes.mean(1)
        distances = (means[drawn] - means[palettes, None]).norm(dim=-1)
        return drawn.gather(1, distances.argmax(1, keepdim=True))[:, 0]

    def _coverage(self, shapes: Tensor, size: int, generator: torch.Generator) -> Tensor:
        cover, first = torch.empty(len(shapes), size, size, device=shapes.device), 0
        for bank in self.shapes:
            its = (shapes >= first) & (shapes < first + bank.classes)
            cover[its] = bank.coverage(shapes[its] - first, size, generator)
            first += bank.classes
        return cover

    def _painted(self, textures: Tensor, palettes: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Surfaces [n, 3, size, size]: two colours, mixed as a texture says."""
        count, device = len(textures), textures.device
        colours = self.palettes[palettes] + 0.08 * torch.randn((count, 2, 3), generator=generator, device=device)
        contrast = uniform((count, 1, 1), 0.15, 0.5, generator)
        mixed = (0.5 + contrast * self._texture(textures, size, generator)).clamp(0, 1)[:, None]
        return colours[:, 0, :, None, None] * mixed + colours[:, 1, :, None, None] * (1 - mixed)

    def _texture(self, textures: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Values in about [-1, 1], [n, size, size]; direction and phase are an instance's own."""
        count = len(textures)
        angle, phase = (uniform((count, 1, 1), 0, end, generator) for end in (math.pi, 2 * math.pi))
        x, y = pixels(size, textures.device).unbind(-1)
        along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        kind, frequency, warp = (of[textures, None, None] for of in (self.kinds, self.frequencies, self.warps))
        noise = _noise(count, size, generator)
        grating = torch.sin(math.pi * frequency * along + phase + warp * noise)
        checker = grating * torch.sin(math.pi * frequency * across + phase)
        return torch.where(kind == _GRATING, grating, torch.where(kind == _CHECKER, checker, 1.2 * noise))


def _noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise in [-1, 1], [count, size, size]: its amplitude falls with some power of the frequency, one way faster."""
    device = generator.device
    bounds = ((0.3, 2.8), (0, math.pi), (1, 3))
    fall, angle, grain = (uniform((count, 1, 1), low, high, generator) for low, high in bounds)
    x, y = torch.fft.rfftfreq(size, device=device), torch.fft.fftfreq(size, device=device)[:, None]
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    frequency = ((grain * along) ** 2 + across**2 + 1e-4).sqrt()
    white = torch.randn((count, size, size), generator=generator, device=device)
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-fall, s=(size, size))
    noise = noise - noise.mean((1, 2), keepdim=True)
    noise = noise / (noise.std((1, 2), keepdim=True) + 1e-6)
    return noise.clamp(-2.5, 2.5) / 2.5


def _photographed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other exposures, and the grain of a sensor."""
    count, device = len(images), images.device
    gain = uniform((count, 1, 1, 1), 0.8, 1.2, generator)
    offset = 0.1 * torch.randn((count, 1, 1, 1), generator=generator, device=device)
    grain = 0.02 * torch.randn(images.shape, generator=generator, device=device)
    return (gain * images + offset + grain).clamp(0, 1)
