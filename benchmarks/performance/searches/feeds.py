"""Feeds: batches decoded from the files every time, as scripts do, or from arrays that tlbench prepared once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from searches.setting import DATASET, LONGEST_TEXT, Samples, Setting, minilm_folder
from searches.training import BATCH, Feed, Network
from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.evaluation.data import Prepared, load_data
from tlbench.evaluation.device import keep_freed_memory, open_compute
from tlbench.plugins import discover

_HALF = (0.5, 0.5, 0.5)


class _Images(Dataset[tuple[Tensor, int]]):
    """Files, decoded whenever they are asked for."""

    def __init__(self, samples: Samples, transform: Any) -> None:
        self._samples, self._transform = samples, transform

    def __len__(self) -> int:
        return len(self._samples.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._samples.items[index]) as image:
            return self._transform(image.convert("RGB")), self._samples.labels[index]


class _Texts(Dataset[tuple[str, int]]):
    """Texts and labels."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples.items)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self._samples.items[index], self._samples.labels[index]


@final
class FileFeed:
    """torch's DataLoader over files that are decoded, or texts that are tokenised, in every epoch.

    In the training process: starting workers for every epoch takes longer than what these samples take to decode.
    """

    def __init__(self, setting: Setting, parts: Mapping[str, Samples]) -> None:
        self.parts, self._collate = parts, None
        self._sets: dict[str, Any] = {}
        if setting.is_text:
            self._collate = _tokenise()
        for name, samples in parts.items():
            transform = None if setting.is_text else _transform(setting.size, augmented=name == "train")
            self._sets[name] = _Texts(samples) if setting.is_text else _Images(samples, transform)

    def batches(self, part: str, generator: torch.Generator | None) -> Iterator[tuple[Any, Tensor]]:
        """From the files."""
        shuffle = generator is not None
        yield from DataLoader(self._sets[part], BATCH, shuffle=shuffle, generator=generator, collate_fn=self._collate)

    def prepare(self, network: Network) -> Network:
        """As it is."""
        return network

    def precision(self) -> AbstractContextManager[Any]:
        """float32."""
        return nullcontext()


@final
class ArrayFeed:
    """tlbench's own way: samples decoded and resized once, batches made from the arrays, its layout and precision."""

    def __init__(self, setting: Setting, parts: Mapping[str, Samples]) -> None:
        self.parts, self._setting = parts, setting
        benchmark = setting.benchmark("feed")
        catalog = Catalog(discover(), benchmark)
        backbone: Backbone = catalog.backbone(benchmark.backbones[0]).component
        self._preprocess = backbone.preprocess
        self._compute = open_compute(benchmark.device, 1)
        keep_freed_memory()
        data = load_data(catalog.dataset(DATASET).component, split_seed=0, shots=setting.shots)
        self._prepared = {part.name: Prepared(part, self._preprocess) for part in (data.train, data.validation)}

    def batches(self, part: str, generator: torch.Generator | None) -> Iterator[tuple[Any, Tensor]]:
        """From the arrays."""
        prepared = self._prepared[part]
        order = np.arange(len(prepared.part))
        if generator is not None:
            order = torch.randperm(len(order), generator=generator).numpy()
        params = {"augmentation": "none" if self._setting.is_text else "flip", "mixup": 0.0, "cutmix": 0.0}
        rest = generator or torch.Generator()
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            arrays = prepared.arrays(chosen)
            inputs = self._preprocess.batch(arrays, params, generator is not None, rest, self._compute.device)
            if isinstance(inputs, Tensor):
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, torch.from_numpy(prepared.part.labels[chosen])

    def prepare(self, network: Network) -> Network:
        """Channels last, which suits convolutions."""
        return network if self._setting.is_text else network.to(memory_format=torch.channels_last)

    def precision(self) -> AbstractContextManager[Any]:
        """As tlbench computes on this device."""
        return self._compute.autocast()


@final
class FeatureFeed:
    """What a frozen backbone makes of the samples and of their mirror images, computed once.

    To the head of a network it is the same as being fed with images that are flipped at random, at a fraction of the
    price: for recording, where time is measured apart.
    """

    def __init__(self, network: Network, feeds: Mapping[str, Feed]) -> None:
        """Take the feed of each part; training samples alone are mirrored."""
        self.parts = {name: feed.parts[name] for name, feed in feeds.items()}
        network.eval()
        with torch.no_grad():
            self._known = {name: _features(network.backbone, feed, name) for name, feed in feeds.items()}

    def batches(self, part: str, generator: torch.Generator | None) -> Iterator[tuple[Any, Tensor]]:
        """From the features."""
        plain, mirrored, labels = self._known[part]
        features, order = plain, torch.arange(len(labels))
        if generator is not None:
            order = torch.randperm(len(labels), generator=generator)
            features = torch.where(torch.rand(len(labels), 1, generator=generator) < 0.5, mirrored, plain)
        for chosen in torch.split(order, BATCH):
            yield features[chosen], labels[chosen]

    def prepare(self, network: Network) -> Network:
        """Its head alone."""
        network.backbone = torch.nn.Identity()
        return network

    def precision(self) -> AbstractContextManager[Any]:
        """float32."""
        return nullcontext()


def _features(backbone: torch.nn.Module, feed: Feed, part: str) -> tuple[Tensor, Tensor, Tensor]:
    batches = list(feed.batches(part, None))
    with feed.precision():
        plain = torch.cat([backbone(inputs).float() for inputs, _ in batches])
        mirrored = torch.cat([backbone(inputs.flip(-1)).float() for inputs, _ in batches]) if part == "train" else plain
    return plain, mirrored, torch.cat([labels for _, labels in batches])


def _transform(size: int, augmented: bool) -> Any:
    """Resize, crop and normalise as the networks were trained; flip what trains."""
    steps = [transforms.Resize(int(size / 0.875)), transforms.CenterCrop(size)]
    flips = [transforms.RandomHorizontalFlip()] if augmented else []
    return transforms.Compose([*steps, *flips, transforms.ToTensor(), transforms.Normalize(_HALF, _HALF)])


def _tokenise() -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())

    def collate(samples: Sequence[tuple[str, int]]) -> tuple[Any, Tensor]:
        texts, labels = zip(*samples, strict=True)
        inputs = tokenizer(list(texts), truncation=True, max_length=LONGEST_TEXT, padding=True, return_tensors="pt")
        return dict(inputs), torch.tensor(labels)

    return collate
