"""A plugin for the engine's own tests: a tiny convolutional backbone, coloured blobs, strategies that misbehave."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Backbone, Dataset, Facts, Preprocess, Split, Splits
from tlbench.evaluation.images import ImagePreprocess
from tlbench.hookspecs import hookimpl
from tlbench.spaces import Context, Params, Suggest
from tlbench.strategies import FrozenStrategy, ParameterGroup, Strategy, TrainedStrategy

SIZE = 8


class Net(nn.Module):
    """Two convolutions with batch norm; 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        assert pre_logits
        return x.mean((2, 3))


@final
class Tiny(Backbone):
    name = "net"
    summary = "two convolutions"
    modality = "image"
    pools = ("native", "avg", "max", "avg+max")

    @property
    def facts(self) -> Facts:
        return Facts(architecture="net", kind="convolutional")

    @property
    def preprocess(self) -> Preprocess:
        return ImagePreprocess(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=1.0)

    def weights(self) -> str:
        return "sha256:" + "0" * 64

    def load(self, pretrained: bool) -> nn.Module:
        net = Net()
        if pretrained:
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return net

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        names = [name for name, _ in module.named_parameters()]
        return [[name for name in names if name.startswith(part)] for part in ("stem", "body")]


class _Blobs:
    def __init__(self, labels: Sequence[int], seed: int) -> None:
        self.labels, self.seed = labels, seed

    def __getitem__(self, index: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, index])
        image = generator.integers(0, 120, (SIZE, SIZE, 3))
        image[..., self.labels[index]] += generator.integers(20, 120)
        return image.astype(np.uint8)


@final
class Blobs(Dataset):
    name = "blobs"
    summary = "three colours"
    modality = "image"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"blobs").hexdigest()

    def load(self, seed: int) -> Splits:
        return Splits(train=self._split("train", 30, 1), validation=self._split("validation", 20, 2))

    def load_test(self, seed: int) -> Split:
        return self._split("test", 20, 3)

    def _split(self, name: str, per_class: int, seed: int) -> Split:
        labels = [index % 3 for index in range(3 * per_class)]
        ids = [f"{name}/{index}" for index in range(len(labels))]
        return Split(ids, labels, ("red", "green", "blue"), _Blobs(labels, seed))


class _Everything(TrainedStrategy):
    def defaults(self, context: Context) -> Params:
        return {"learning_rate": 3e-3, "batch_size": 16}

    def space(self, trial: Suggest, context: Context) -> Params:
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
            "label_smoothing": trial.suggest_categorical("label_smoothing", (0.0, 0.1)),
        }

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        return [ParameterGroup(list(model.parameters()))]


@final
class Full(_Everything):
    name = "full"
    summary = "everything trains"


@final
class Head(_Everything):
    name = "head"
    summary = "the head trains by gradient steps, the backbone is frozen"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        return [ParameterGroup(list(model.head.parameters()))]


@final
class Thaw(_Everything):
    name = "thaw"
    summary = "the head first, everything from the second epoch on"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        return [ParameterGroup(list(model.head.parameters()))]

    def begin_epoch(self, model: Any, params: Params, epoch: int, epochs: int) -> Sequence[ParameterGroup] | None:
        return [ParameterGroup(list(model.parameters()))] if epoch == 1 else None


@final
class Means(FrozenStrategy):
    name = "means"
    summary = "nearest class mean"

    def defaults(self, context: Context) -> Params:
        return {"temperature": 1.0}

    def space(self, trial: Suggest, context: Context) -> Params:
        return {"temperature": trial.suggest_float("temperature", 0.1, 10.0, log=True)}

    def fit(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        configurations: Sequence[Params],
        generator: torch.Generator,
    ) -> Iterable[nn.Module]:
        if os.environ.get("TINY_MEANS_DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        for params in configurations:
            values = features[params["pool"]]
            means = torch.stack([values[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
            head = nn.Linear(values.shape[1], len(means))
            with torch.no_grad():
                head.weight.copy_(means / params["temperature"])
                head.bias.copy_(-means.square().sum(1) / 2 / params["temperature"])
            yield head


@final
class Fails(_Everything):
    name = "fails"
    summary = "raises in adapt"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        raise ValueError("no such layer")


@final
class Diverges(_Everything):
    name = "diverges"
    summary = "a loss that is not a number"

    def penalty(self, model: Any, params: Params) -> Tensor:
        return next(model.parameters()).sum() * float("nan")


@final
class Slow(_Everything):
    name = "slow"
    summary = "takes its time"

    def begin_epoch(self, model: Any, params: Params, epoch: int, epochs: int) -> Sequence[ParameterGroup] | None:
        time.sleep(float(os.environ.get("TINY_SLEEP_S", "0.05")))
        return None


@final
class Dies(_Everything):
    name = "dies"
    summary = "kills its process, as the kernel does when memory runs out"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        if marker := os.environ.get("TINY_DIES_ONCE"):
            if Path(marker).exists():
                return super().adapt(model, params)
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@hookimpl
def register_backbones() -> list[Backbone]:
    return [Tiny()]


@hookimpl
def register_datasets() -> list[Dataset]:
    return [Blobs()]


@hookimpl
def register_strategies() -> list[Strategy]:
    return [Full(), Head(), Thaw(), Means(), Fails(), Diverges(), Slow(), Dies()]
