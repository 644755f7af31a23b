"""Training as people write it: one network, AdamW on a cosine, an epoch at a time. What feeds it is told it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from searches.setting import Samples, Setting, minilm_folder

BATCH = 32
HEAD_SCALE = 10.0
"""The fresh head learns at so many times the rate of the pretrained layers, as in tlbench's defaults; the rest of the
recipe is theirs, too, so that no method wins by it."""

WARM_UP, SMOOTHING, NORM = 0.1, 0.1, 1.0
Strategy = Literal["head", "full"]
STRATEGIES: tuple[Strategy, ...] = ("head", "full")


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is searched."""

    backbone: str
    strategy: Strategy
    learning_rate: float
    weight_decay: float = 1e-2


class Feed(Protocol):
    """Where batches come from."""

    @property
    def parts(self) -> Mapping[str, Samples]:
        """The samples of each part."""

    def batches(self, part: str, generator: torch.Generator | None) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and labels of every sample of a part; shuffled and augmented where there is a generator."""

    def prepare(self, network: Network) -> Network:
        """The network as this feed's inputs want it."""

    def precision(self) -> AbstractContextManager[Any]:
        """The number format of forward passes."""


class Network(nn.Module):
    """A pretrained backbone and a linear head."""

    backbone: nn.Module
    head: nn.Linear

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, classes)

    def forward(self, inputs: Any) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor = self.head(self.backbone(inputs))
        return logits


class MeanOfTokens(nn.Module):
    """A text encoder whose tokens are averaged, padding left out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features [n, width]."""
        mask = inputs["attention_mask"].unsqueeze(-1)
        tokens = self.encoder(**inputs).last_hidden_state
        features: Tensor = (tokens * mask).sum(1) / mask.sum(1)
        return features


def build(setting: Setting, backbone: str, classes: int, seed: int) -> Network:
    """A pretrained backbone and a fresh head."""
    torch.manual_seed(seed)
    if setting.is_text:
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(minilm_folder())
        return Network(MeanOfTokens(encoder), encoder.config.hidden_size, classes)
    coral = import_module("tlbench_coral")
    module = next(one for one in coral.register_backbones() if one.name == backbone).load(pretrained=True)
    return Network(module, module.num_features, classes)


class Training:
    """A network on its way through `epochs` epochs."""

    def __init__(self, setting: Setting, recipe: Recipe, feed: Feed, classes: int, seed: int) -> None:
        self.recipe, self.feed, self.epochs, self.epoch = recipe, feed, setting.epochs, 0
        self.network = feed.prepare(build(setting, recipe.backbone, classes, seed))
        self.network.backbone.requires_grad_(recipe.strategy == "full")
        groups = [(list(self.network.head.parameters()), HEAD_SCALE)]
        if recipe.strategy == "full":
            groups.append((list(self.network.backbone.parameters()), 1.0))
        self.rates = [recipe.learning_rate * scale for _, scale in groups]
        self.optimiser = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for (parameters, _), rate in zip(groups, self.rates, strict=True)],
            weight_decay=recipe.weight_decay,
        )
        self.generator = torch.Generator().manual_seed(seed)

    def run_epoch(self) -> float:
        """Train for an epoch; the validation accuracy after it."""
        self._train_mode()
        batches = self.feed.batches("train", self.generator)
        steps = self._steps
        for step, (inputs, labels) in enumerate(batches):
            self._set_rate(self.epoch * steps + step, self.epochs * steps)
            with self.feed.precision():
                loss = functional.cross_entropy(self.network(inputs).float(), labels, label_smoothing=SMOOTHING)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.network.parameters(), NORM)
            self.optimiser.step()
        self.epoch += 1
        return accuracy(self.network, self.feed, "validation")

    def save(self, path: Path) -> None:
        """Everything that scoring needs."""
        torch.save({"recipe": asdict(self.recipe), "state": self.network.state_dict()}, path)

    @property
    def _steps(self) -> int:
        return math.ceil(len(self.feed.parts["train"].labels) / BATCH)

    def _train_mode(self) -> None:
        """Batch-norm statistics stay as they are: these weights have them folded in and break without."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        if self.recipe.strategy == "head":
            self.network.backbone.eval()

    def _set_rate(self, step: int, steps: int) -> None:
        rising = round(steps * WARM_UP)
        if step < rising:
            factor = (step + 1) / (rising + 1)
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor


def accuracy(network: nn.Module, feed: Feed, part: str) -> float:
    """The share of a part that a network gets right."""
    network.eval()
    right = count = 0
    with torch.inference_mode(), feed.precision():
        for inputs, labels in feed.batches(part, None):
            right += int((network(inputs).argmax(1) == labels).sum())
            count += len(labels)
    return right / count
