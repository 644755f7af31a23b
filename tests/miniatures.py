"""A plugin of miniatures: one small network of each kind that transfer learning knows, and data for both modalities.

Their `pretrained` weights are drawn by a fixed seed: what is tested is that every strategy handles every kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import timm
import torch
from timm.models import group_parameters
from timm.models.vgg import VGG
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from tlbench.components import IMAGE, TEXT, Backbone, Dataset, Facts, Preprocess, Split, Splits
from tlbench.evaluation.images import ImagePreprocess
from tlbench.evaluation.texts import TextPreprocess
from tlbench.hookspecs import hookimpl
from tlbench.strategies import Strategy
from tlbench_transformers.layers import layers as text_layers
from tlbench_transformers.module import TextModel

PIXELS = 32
CLASSES = ("red", "green", "blue")
TOKENS = 260
TEXTS = TextPreprocess(
    encode=lambda text, most: [256, *text.encode()[: most - 2], 257], padding=0, max_length=32, tokenizer="bytes"
)
IMAGES = ImagePreprocess(size=(PIXELS, PIXELS), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=1.0)


class _Branches(nn.Module):
    """An Inception block: convolutions of several sizes side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 8, size, padding=size // 2), nn.BatchNorm2d(8), nn.ReLU())
            for size in (1, 3, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Inception(nn.Module):
    """Two Inception blocks (Szegedy et al. 2015) after a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList([_Branches(8), _Branches(24)])

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        return x.mean((2, 3))


def _bert() -> nn.Module:
    config = BertConfig(
        vocab_size=TOKENS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    return TextModel(BertModel(config, add_pooling_layer=False), "cls")


def _gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=TOKENS, n_positions=40, n_embd=16, n_layer=2, n_head=2)
    return TextModel(GPT2Model(config), "last")


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=0),
    "vgg": lambda: VGG(cfg=(8, "M", 16, "M"), num_classes=0, mlp_ratio=0.01),
    "inception": Inception,
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=0),
    "vit": lambda: timm.create_model("test_vit", num_classes=0, img_size=PIXELS),
    "bert": _bert,
    "gpt2": _gpt2,
}


@final
class Miniature(Backbone):
    summary = "small, random"

    def __init__(self, name: str) -> None:
        self.name = name
        self.modality = TEXT if name in ("bert", "gpt2") else IMAGE
        tokens = self.modality == TEXT or name == "vit"
        self.layout, self.prefix_tokens = ("NLC", int(name == "vit")) if tokens else ("NCHW", 0)
        self.pools = ("native", "avg", "max")

    @property
    def facts(self) -> Facts:
        return Facts(kind="transformer" if self.layout == "NLC" else "convolutional")

    @property
    def preprocess(self) -> Preprocess:
        return TEXTS if self.modality == TEXT else IMAGES

    def weights(self) -> str:
        return "random:7"

    def load(self, pretrained: bool) -> nn.Module:
        if not pretrained:
            return BUILDERS[self.name]()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(7)
            return BUILDERS[self.name]()

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        if isinstance(module, TextModel):
            return text_layers(module.model, "model.")
        if isinstance(module, Inception):
            names = [name for name, _ in module.named_parameters()]
            return [[name for name in names if name.startswith(part)] for part in ("stem", "blocks.0", "blocks.1")]
        matcher: Any = module.group_matcher
        return [list(names) for names in group_parameters(module, matcher(coarse=False)).values()]


class _Samples:
    """Coloured noise, or lines in which one word is frequent."""

    def __init__(self, modality: str, labels: Sequence[int], seed: int) -> None:
        self.modality, self.labels, self.seed = modality, labels, seed

    def __getitem__(self, index: int) -> Any:
        generator, label = np.random.default_rng([self.seed, index]), self.labels[index]
        if self.modality == TEXT:
            words = generator.choice([*CLASSES, CLASSES[label], CLASSES[label]], generator.integers(1, 6))
            return " ".join(words)
        image = generator.integers(0, 100, (8, 8, 3))
        image[..., label] += 100
        return image.astype(np.uint8)


@final
class Colours(Dataset):
    summary = "three classes that are easy to tell apart"

    def __init__(self, modality: str) -> None:
        self.name, self.modality = f"{modality}s", modality

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.modality.encode()).hexdigest()

    def load(self, seed: int) -> Splits:
        return Splits(self._split("train", 16, 1), self._split("validation", 6, 2))

    def load_test(self, seed: int) -> Split:
        return self._split("test", 6, 3)

    def _split(self, name: str, per_class: int, seed: int) -> Split:
        labels = [index % 3 for index in range(3 * per_class)]
        ids = [f"{name}/{index}" for index in range(len(labels))]
        return Split(ids, labels, CLASSES, _Samples(self.modality, labels, seed))


@hookimpl
def register_backbones() -> list[Backbone]:
    return [Miniature(name) for name in BUILDERS]


@hookimpl
def register_datasets() -> list[Dataset]:
    return [Colours(modality) for modality in (IMAGE, TEXT)]


@hookimpl
def register_strategies() -> list[Strategy]:
    return []
