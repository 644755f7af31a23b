"""Pixels: a checkpoint's image processor as image preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlbench.errors import BenchmarkError, WeightsError
from tlbench.evaluation.hub import one_line
from tlbench.evaluation.images import ImagePreprocess
from tlbench_transformers.checkpoint import PROCESSOR_FILE, read_json

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def image_preprocess(folder: Path, what: str) -> ImagePreprocess:
    """Read what the weights were trained with. Raises `WeightsError` where the checkpoint does not say."""
    processor: Mapping[str, Any] = read_json(folder / PROCESSOR_FILE)
    if not processor:
        raise WeightsError(f"{what}: {folder} has no {PROCESSOR_FILE}: which size and normalisation is not known")
    try:
        size, crop, mode = _framing(processor)
        normalised = processor.get("do_normalize", True)
        return ImagePreprocess(
            size=size,
            mean=tuple(processor["image_mean"]) if normalised else (0.0, 0.0, 0.0),
            std=tuple(processor["image_std"]) if normalised else (1.0, 1.0, 1.0),
            interpolation=_RESAMPLING[processor.get("resample", 2)],
            crop=crop,
            crop_mode=mode,
        )
    except (KeyError, TypeError, ValueError, BenchmarkError) as error:
        raise WeightsError(f"{what}: its {PROCESSOR_FILE} cannot be followed: {one_line(error)}") from error


def _framing(processor: Mapping[str, Any]) -> tuple[tuple[int, int], float, str]:
    """Size of the input, fraction that the crop keeps, and the mode of `ImagePreprocess`."""
    resized = processor.get("size", processor.get("crop_size"))
    shortest = resized.get("shortest_edge") if isinstance(resized, Mapping) else None
    height, width = _edges(resized)
    if processor.get("do_center_crop") and "crop_size" in processor:
        cropped = _edges(processor["crop_size"])
        return cropped, cropped[0] / height, "squash" if shortest is None and isinstance(resized, Mapping) else "center"
    if "crop_pct" in processor and shortest is not None and shortest < 384:  # as ConvNeXt's processor does
        return (height, width), float(processor["crop_pct"]), "center"
    return (height, width), 1.0, "squash" if shortest is None else "center"


def _edges(size: Any) -> tuple[int, int]:
    """Height and width, of the several ways in which they are written."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return (int(edge), int(edge)) if edge is not None else (int(size["height"]), int(size["width"]))
    return int(size[0]), int(size[1])
