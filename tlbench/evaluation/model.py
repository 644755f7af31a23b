"""The model of a trial: a backbone, a pool and a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.seeds import derive_seed
from tlbench.spaces import Params


@final
class Pool(nn.Module):
    """Unpooled features to one vector per sample [n, width]."""

    def __init__(self, name: str, layout: str, prefix_tokens: int) -> None:
        super().__init__()
        self.name, self.layout, self.prefix_tokens = name, layout, prefix_tokens

    def forward(self, backbone: nn.Module, unpooled: Tensor) -> Tensor:
        """Pool as the name says; `native` is the model's own `forward_head`."""
        if self.name == "native":
            pooled: Tensor = backbone.forward_head(unpooled, pre_logits=True)  # type: ignore[operator]
            return pooled
        return torch.cat([self._part(part, unpooled) for part in self.name.split("+")], dim=1)

    def _part(self, part: str, unpooled: Tensor) -> Tensor:
        if part == "cls":
            return unpooled[:, 0]
        spatial = (2, 3) if self.layout == "NCHW" else (1, 2) if self.layout == "NHWC" else (1,)
        body = unpooled[:, self.prefix_tokens :] if self.layout == "NLC" else unpooled
        return body.mean(spatial) if part == "avg" else body.amax(spatial)


@final
class LinearHead(nn.Linear):
    """Dropout, then a linear map to logits; its state is that of a plain `nn.Linear`."""

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__(width, classes)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, width]."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


@final
class Classifier(nn.Module):
    """Backbone, pool and head; `layer_groups` are the backbone's `layers`, names relative to it."""

    def __init__(
        self, backbone: nn.Module, pool: Pool, head: nn.Module, layer_groups: Sequence[Sequence[str]] = ()
    ) -> None:
        super().__init__()
        self.backbone, self.pool, self.head = backbone, pool, head
        self.layer_groups = layer_groups

    def features(self, inputs: Any) -> Tensor:
        """Pooled features [n, width]."""
        pooled: Tensor = self.pool(self.backbone, self.backbone.forward_features(inputs))  # type: ignore[operator]
        return pooled

    def forward(self, inputs: Any) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


@final
@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a backbone looks like from outside, measured on the meta device."""

    layer_groups: int
    parameters: int
    width: int
    """Of the natively pooled features: what a head takes."""


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """Torch's global CPU generator, seeded from `names` inside and as it was before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*names))
        yield


def shape(backbone: Backbone) -> Shape:
    """Layer groups, parameters and feature width, without memory for a weight.

    The width comes from a forward pass: `num_features` is not the head's input for every architecture (VGG: 512 against
    4096, pitfall 8).
    """
    with torch.device("meta"):
        module = backbone.load(pretrained=False).eval()
        pool = Pool("native", backbone.layout, backbone.prefix_tokens)
        model = Classifier(module, pool, nn.Identity())
        width = feature_width(model, backbone, torch.device("meta"))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Shape(layer_groups=len(backbone.layers(module)), parameters=parameters, width=width)


def build(backbone: Backbone, params: Params, classes: int, pretrained: bool, seed: int) -> Classifier:
    """A model on the CPU in float32, its fresh parts drawn from generators of their own."""
    if params["pool"] not in backbone.pools:
        raise BenchmarkError(f"backbone '{backbone.name}' has no pool '{params['pool']}': {', '.join(backbone.pools)}")
    with seeded(seed, "backbone"):
        module = backbone.load(pretrained)
    pool = Pool(params["pool"], backbone.layout, backbone.prefix_tokens)
    layers = backbone.layers(module)
    _check_layers(backbone, module, layers)
    model = Classifier(module, pool, nn.Identity(), layers)
    width = feature_width(model, backbone, torch.device("cpu"))
    with seeded(seed, "head"):
        model.head = LinearHead(width, classes, params["dropout"])
    return model


def feature_width(model: Classifier, backbone: Backbone, device: torch.device) -> int:
    """Width of the pooled features, seen in a forward pass of an example."""
    preprocess = backbone.preprocess
    generator = torch.Generator()
    with torch.device("cpu"):
        inputs = preprocess.batch([preprocess.example()], {}, False, generator, torch.device("cpu"))
    training = model.training
    with torch.no_grad():
        features = model.eval().features(move(inputs, device))
    model.train(training)
    if features.ndim != 2:
        raise PluginError(
            f"backbone '{backbone.name}': pooled features have shape {tuple(features.shape)}, not [n, width]"
        )
    return int(features.shape[1])


def move(inputs: Any, device: torch.device) -> Any:
    """Inputs, a tensor or a mapping of tensors, on another device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def rows(inputs: Any, start: int, stop: int) -> Any:
    """Samples [start, stop) of a batch of inputs, a tensor or a mapping of tensors."""
    if isinstance(inputs, Tensor):
        return inputs[start:stop]
    return {name: tensor[start:stop] for name, tensor in inputs.items()}


def _check_layers(backbone: Backbone, module: nn.Module, layers: Sequence[Sequence[str]]) -> None:
    named = [name for group in layers for name in group]
    if sorted(named) != sorted(name for name, _ in module.named_parameters()):
        raise PluginError(f"backbone '{backbone.name}': its layers do not name every parameter exactly once")
