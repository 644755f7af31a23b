"""Runs on files of a user's: a folder of images, a table of texts, and backbones small enough to adapt in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import checkpoints
from tlbench.benchmark import load_benchmark
from tlbench.executors import local
from tlbench.measurement import Measurement
from tlbench.store import Store

CLASSES = ("blue", "green", "red")

_TOML = """
backbones = ["{backbone}"]
strategies = [{strategies}]
datasets = ["mine/data"]
seeds = [0]
[search]
trials = 1
epochs = 2
[device]
kind = "cpu"
threads = 1
[[dataset]]
name = "mine/data"
base = "data/{kind}"
path = "{data}"
"""

_CHECKPOINT = """
[[backbone]]
name = "mine/encoder"
base = "transformers/checkpoint"
weights = "{checkpoint}"
"""


def draw(path: Path, label: int, seed: int) -> Path:
    """A noisy image with more of one colour, in one of the ways in which files of a user's differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([label, seed])
    pixels = generator.integers(0, 120, (int(generator.integers(20, 60)), int(generator.integers(20, 60)), 4))
    pixels[..., 2 - label] += 110
    pixels[..., 3] = generator.integers(100, 256)
    image = Image.fromarray(pixels.astype(np.uint8))
    if seed % 4 == 0:
        image.save(path.with_suffix(".png"))  # transparent
        return path.with_suffix(".png")
    exif = Image.Exif()
    exif[0x0112] = 6 if seed % 4 == 1 else 1  # turned on its side, or not
    image.convert("RGB").save(path, quality=90, exif=exif)
    return path


def photos(root: Path, per_class: int = 12) -> Path:
    """A folder of images per class."""
    for label, name in enumerate(CLASSES):
        for seed in range(per_class):
            draw(root / name / f"{seed}.jpg", label, seed)
    return root


def reviews(file: Path, per_class: int = 15) -> Path:
    """A table of texts of one to twelve words, good or bad."""
    generator = np.random.default_rng(5)
    lines = ["review,stars"]
    for number in range(2 * per_class):
        words = generator.choice(checkpoints.WORDS, generator.integers(1, 12)).tolist()
        lines.append(f'"{" ".join([*words, ("bad", "good")[number % 2]])}, {number}",{number % 2}')
    file.write_text("\n".join(lines) + "\n")
    return file


def run_images(folder: Path, *strategies: str, backbone: str = "zoo/resnet_mini") -> Store:
    """A run on a folder of images, `folder/photos`; its results."""
    text = _toml(backbone, strategies, "images", photos(folder / "photos"))
    return _run(folder, text)


def run_texts(folder: Path, *strategies: str, backbone: str = "mine/encoder") -> Store:
    """A run on a table, `folder/reviews.csv`, with the checkpoint `folder/checkpoint`; its results."""
    with torch.random.fork_rng():
        checkpoints.make("bert", folder / "checkpoint")
    text = _toml(backbone, strategies, "texts", reviews(folder / "reviews.csv"))
    return _run(folder, text + _CHECKPOINT.format(checkpoint=folder / "checkpoint"))


def finals(store: Store) -> dict[str, Measurement]:
    """The final of each strategy."""
    found = {item.trial.strategy.name: item for item in store.measurements() if item.trial.stage == "final"}
    assert {item.status for item in found.values()} == {"complete"}, [item.failure for item in found.values()]
    return found


def stored(store: Store, measurement: Measurement, split: str = "test") -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, predicted labels and float32 logits of one split, as they were stored."""
    rows = store.predictions(measurement.key)
    assert rows is not None
    chosen = np.array(rows.split) == split
    ids = [name for name, use in zip(rows.sample_id, chosen, strict=True) if use]
    return ids, rows.predicted[chosen], rows.logits[chosen].astype(np.float32)


def tolerance(logits: np.ndarray) -> float:
    """What float16 may change of a probability: eleven bits of a logit, of which a difference counts."""
    return 1e-5 + float(np.abs(logits).max()) * 2**-11


def _toml(backbone: str, strategies: tuple[str, ...], kind: str, data: Path) -> str:
    names = ", ".join(f'"{name}"' for name in strategies)
    return _TOML.format(backbone=backbone, strategies=names, kind=kind, data=data)


def _run(folder: Path, text: str) -> Store:
    file = folder / "raw.toml"
    file.write_text(text)
    local.run(load_benchmark(file), folder / "run")
    return Store(folder / "run")
