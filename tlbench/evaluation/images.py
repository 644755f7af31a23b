"""Image preprocessing: from RGB pixels to a model's input, and the augmentations of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tlbench.components import Preprocess
from tlbench.errors import BenchmarkError
from tlbench.samples import pixels
from tlbench.spaces import Params

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Raised when the same fields no longer give the same pixels."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")

ELONGATED = 32
"""Times as long as the crop, relative to the other edge, from which on an image is cut before it is resized."""

_BILINEAR = v2.InterpolationMode.BILINEAR
_OVERRIDES = ("size", "mean", "std", "interpolation", "crop", "crop_mode")


@final
@dataclass(frozen=True, kw_only=True)
class ImagePreprocess(Preprocess):
    """Resize by PIL with antialiasing and crop, as timm's evaluation transform does, then normalise.

    The prepared array is uint8 RGB [height, width, 3]; a batch is float32 [n, 3, height, width].
    Raises `BenchmarkError` for a value that cannot be used.
    """

    size: tuple[int, int]
    """Height and width of the model's input."""

    mean: tuple[float, float, float]
    """Per channel, of pixels scaled to [0, 1]."""

    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    """One of `INTERPOLATIONS`."""

    crop: float = 0.875
    """Fraction of the resized image that the crop keeps along each edge; above 1 the crop is padded."""

    crop_mode: str = "center"
    """`center`: resize the shortest edge, crop. `squash`: resize both edges, crop. `border`: resize the longest edge,
    pad with the mean colour, crop."""

    def __post_init__(self) -> None:
        """Refuse values that no pipeline can use."""
        edges = isinstance(self.size, tuple) and len(self.size) == 2 and all(map(_edge, self.size))
        _check("size", self.size, edges, "pixels from 1 to 8192, one number or [height, width]")
        _check("mean", self.mean, _triple(self.mean, 0), "three numbers in [0, 1], of pixels scaled to [0, 1]")
        _check("std", self.std, _triple(self.std, 1e-6), "three numbers in (0, 1], of pixels scaled to [0, 1]")
        _check("crop", self.crop, _number(self.crop) and 0.1 <= self.crop <= 2, "a number from 0.1 to 2")
        modes = f"one of {', '.join(INTERPOLATIONS)}"
        _check("interpolation", self.interpolation, self.interpolation in INTERPOLATIONS, modes)
        _check("crop_mode", self.crop_mode, self.crop_mode in CROP_MODES, f"one of {', '.join(CROP_MODES)}")

    def overridden(self, declared: Mapping[str, Any]) -> ImagePreprocess:
        """Put the values of a benchmark file in place: ``{ size = 128, interpolation = "bilinear" }``."""
        unknown = [name for name in declared if name not in _OVERRIDES]
        if unknown:
            raise BenchmarkError(f"preprocess has no '{unknown[0]}': it has {', '.join(_OVERRIDES)}")
        values: dict[str, Any] = {name: _frozen(item) for name, item in declared.items()}
        if "size" in values and not isinstance(values["size"], tuple):
            values["size"] = (values["size"], values["size"])
        return replace(self, **values)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The nine facts of the contract, the decoder and the resizer, and the version of this module."""
        return {
            "kind": "image",
            "version": VERSION,
            "size": list(self.size),
            "interpolation": self.interpolation,
            "antialias": True,
            "crop": float(self.crop),
            "crop_mode": self.crop_mode,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "channels": "RGB",
            "input_range": [0.0, 1.0],
            "decode": "pil",
            "resize": "pil",
        }

    @property
    def in_words(self) -> Sequence[str]:
        """Decode, resize, crop, normalise."""
        height, width = self.size
        mean, std = list(self.mean), list(self.std)
        return (
            pixels.IN_WORDS,
            f"Resize {_FRAMES_IN_WORDS[self.crop_mode].format(*_scaled(self))} (Pillow's {self.interpolation} filter, "
            "which is antialiased).",
            f"Crop the central {height} x {width} pixels (height x width); where the image is smaller, pad it with "
            "black.",
            f"Divide by 255, subtract the mean {mean} and divide by {std}, for red, green and blue.",
            f"Put channels first: float32 [batch, 3, {height}, {width}].",
        )

    def prepare(self, sample: Any) -> np.ndarray:
        """Resize and crop one uint8 RGB array [H, W, 3] to [height, width, 3]."""
        image = Image.fromarray(np.ascontiguousarray(sample))
        return np.array(_FRAMING[self.crop_mode](image, self))

    def batch(
        self,
        arrays: Sequence[np.ndarray],
        params: Params,
        training: bool,
        generator: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Normalised float32 [n, 3, height, width] on `device`, augmented per sample when `training`."""
        images = torch.from_numpy(np.stack(arrays)).to(device).permute(0, 3, 1, 2).contiguous()
        if training:
            images = _augment(images, params["augmentation"], self.interpolation, generator)
        scaled = images.to(torch.float32).div_(255)
        normalised: Tensor = functional.normalize(scaled, list(self.mean), list(self.std), inplace=True)
        return normalised

    def example(self) -> np.ndarray:
        """Return a black image."""
        return np.zeros((*self.size, 3), np.uint8)

    def mix(
        self, inputs: Any, labels: Tensor, classes: int, params: Params, generator: torch.Generator
    ) -> tuple[Any, Tensor]:
        """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019), one of the two per batch where both are on."""
        kinds: tuple[tuple[type, float], ...] = ((v2.MixUp, params["mixup"]), (v2.CutMix, params["cutmix"]))
        wanted = [partial(kind, alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha > 0]
        if not wanted:
            return inputs, labels
        chosen = int(torch.randint(len(wanted), (), generator=generator))
        with _drawing_from(generator):
            mixed, targets = wanted[chosen]()(inputs, labels)
        return mixed, targets


def _center(image: Image.Image, contract: ImagePreprocess) -> Image.Image:
    height, width = _scaled(contract)
    image = _middle(image, contract)
    if height == width:  # torchvision's shortest edge rounds differently from the general case: timm has both
        return _crop(_resize(image, [height], contract), contract.size)
    ratio = min(image.height / height, image.width / width)
    return _crop(_resize(image, _keep_ratio(image, ratio), contract), contract.size)


def _middle(image: Image.Image, contract: ImagePreprocess) -> Image.Image:
    """The middle of an image so elongated that the crop would drop nearly all of it.

    Resized whole by its shortest edge, a line of 1 x 100,000 pixels would take 20 GB.
    """
    longest = math.ceil(ELONGATED * min(image.size) * max(contract.size) / min(contract.size) / min(1, contract.crop))
    if max(image.size) <= longest:
        return image
    left, top = (max(0, edge - longest) // 2 for edge in image.size)
    return image.crop((left, top, left + min(image.width, longest), top + min(image.height, longest)))


def _squash(image: Image.Image, contract: ImagePreprocess) -> Image.Image:
    return _crop(_resize(image, list(_scaled(contract)), contract), contract.size)


def _border(image: Image.Image, contract: ImagePreprocess) -> Image.Image:
    height, width = _scaled(contract)
    ratio = max(image.height / height, image.width / width)
    resized = _resize(image, _keep_ratio(image, ratio), contract)
    missing = [max(0, edge - there) for edge, there in zip(contract.size, (resized.height, resized.width), strict=True)]
    top, left = (edge // 2 for edge in missing)
    padding = [left, top, missing[1] - left, missing[0] - top]
    padded = functional.pad(resized, padding, fill=[round(255 * value) for value in contract.mean])
    return _crop(padded, contract.size)


_FRAMING: dict[str, Callable[[Image.Image, ImagePreprocess], Image.Image]] = {
    "center": _center,
    "squash": _squash,
    "border": _border,
}

_FRAMES_IN_WORDS = {
    "center": "to the smallest size that covers {0} x {1} pixels (height x width) and has the image's aspect ratio",
    "squash": "to {0} x {1} pixels (height x width), whatever the aspect ratio",
    "border": "to the largest size within {0} x {1} pixels (height x width) that has the image's aspect ratio, then "
    "pad it to the size of the crop with the mean colour",
}


def _scaled(contract: ImagePreprocess) -> tuple[int, int]:
    height, width = (math.floor(edge / contract.crop) for edge in contract.size)
    return height, width


def _keep_ratio(image: Image.Image, ratio: float) -> list[int]:
    return [max(1, round(edge / ratio)) for edge in (image.height, image.width)]


def _resize(image: Image.Image, size: list[int], contract: ImagePreprocess) -> Image.Image:
    mode = v2.InterpolationMode(contract.interpolation)
    resized: Image.Image = functional.resize(image, size, mode, antialias=True)
    return resized


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    cropped: Image.Image = functional.center_crop(image, list(size))
    return cropped


def _augment(images: Tensor, name: str, interpolation: str, generator: torch.Generator) -> Tensor:
    """Augment uint8 images [n, 3, h, w] by a name of `tlbench.spaces.AUGMENTATIONS`."""
    if name == "none":
        return images
    if name != "affine":
        flipped = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    if name == "flip":
        return images
    transform = _transform(name, images, interpolation)
    with _drawing_from(generator):
        return torch.stack([transform(image) for image in images])


def _transform(name: str, images: Tensor, interpolation: str) -> Callable[[Tensor], Tensor]:
    """Build an augmentation, or the part of it that follows the flip."""
    if name == "crop":  # tensors know neither Lanczos nor an antialiased nearest neighbour
        mode = interpolation if interpolation == "bicubic" else "bilinear"
        crop: Callable[[Tensor], Tensor] = v2.RandomResizedCrop(
            tuple(images.shape[-2:]), interpolation=v2.InterpolationMode(mode), antialias=True
        )
        return crop
    policies: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "trivial": v2.TrivialAugmentWide,
        "rand": partial(v2.RandAugment, num_ops=2, magnitude=9),
        "affine": partial(v2.RandomAffine, 12, (0.08, 0.08), (0.85, 1.15), interpolation=_BILINEAR),  # degrees first
    }
    return policies[name]()


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let torchvision, which draws from torch's global CPU generator alone, draw what `generator` decides.

    `torch.manual_seed` would seed the accelerators' generators as well, which `fork_rng` without devices leaves moved.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check(name: str, value: Any, passed: bool, needed: str) -> None:
    if not passed:
        shown = list(value) if isinstance(value, tuple) else value
        raise BenchmarkError(f"preprocess {name} = {shown!r}: needed is {needed}")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _edge(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 8192


def _triple(values: Any, low: float) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(_number(item) and low <= item <= 1 for item in values)
