"""The model of a trial: a backbone, a pool and a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.evaluation.heads import UNPOOLED, fresh
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.pool import Pool, attention_mask, squared
from tlbench.seeds import derive_seed
from tlbench.spaces import Params

META = torch.device("meta")

_WIDTHS = Memory(128)
"""By identity and pooling; with the backbone, so that no other gets its identity. A plugin's need not have a hash."""


@final
class Classifier(nn.Module):
    """Backbone, pool and head; `layer_groups` are the backbone's `layers`, names relative to it."""

    def __init__(
        self,
        backbone: nn.Module,
        pool: Pool,
        head: nn.Module,
        layer_groups: Sequence[Sequence[str]] = (),
        example: Any = None,
    ) -> None:
        super().__init__()
        self.backbone, self.pool, self.head = backbone, pool, head
        self.layer_groups, self.example = layer_groups, example

    def features(self, inputs: Any) -> Tensor:
        """Pooled features [n, width]."""
        pooled: Tensor = self.pool(self.backbone, self._unpooled(inputs), attention_mask(inputs))
        return pooled

    def forward(self, inputs: Any) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor
        if isinstance(self.head, UNPOOLED):
            mask = attention_mask(inputs)
            positions = self.pool.positions(self._unpooled(inputs))
            logits = self.head(squared(positions, inputs), self.pool.visible(mask))
        else:
            logits = _exactly(self.head, self.features(inputs))
        return logits

    def _unpooled(self, inputs: Any) -> Tensor:
        unpooled: Tensor = self.backbone.forward_features(inputs)  # type: ignore[operator]
        return unpooled


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
    model = outline(backbone)
    return Shape(
        layer_groups=len(model.layer_groups),
        parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        width=_outlined_widths(backbone, model).pooled,
    )


def outline(backbone: Backbone, pool: str = "native") -> Classifier:
    """A model whose head passes features on, in eval mode on the meta device: shapes without memory for a weight."""
    with META:
        return _headless(backbone, backbone.load(pretrained=False), pool).eval()


def blueprint(backbone: Backbone, params: Params, classes: int) -> Classifier:
    """The classifier that a recipe asks for, as `outline` gives it."""
    model = outline(backbone, params["pool"])
    with META:
        model.head = _head(params, _outlined_widths(backbone, model), classes)
    return model.eval()


def build(backbone: Backbone, params: Params, classes: int, pretrained: bool, seed: int) -> Classifier:
    """A model on the CPU in float32, its fresh parts drawn from generators of their own."""
    check_offers(backbone, params)
    stochastic = {"drop_path": params["drop_path"]} if params["drop_path"] else {}
    with seeded(seed, "backbone"):
        module = backbone.load(pretrained, **stochastic)
    model = _headless(backbone, module, params["pool"])
    _check_layers(backbone, model)
    widths = _widths(backbone, model, torch.device("cpu"))
    with seeded(seed, "head"):
        model.head = _head(params, widths, classes)
    return model


def _headless(backbone: Backbone, module: nn.Module, pool: str) -> Classifier:
    pooling = Pool(pool, backbone.layout, backbone.prefix_tokens)
    return Classifier(module, pooling, nn.Identity(), backbone.layers(module), example(backbone))


def example(backbone: Backbone) -> Any:
    """Inputs of one sample of the usual shape, on the CPU."""
    preprocess, cpu = backbone.preprocess, torch.device("cpu")
    with cpu:
        return preprocess.batch([preprocess.example()], {}, False, torch.Generator(), cpu)


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """What a head can be put on."""

    pooled: int
    axes: int
    """Of positions: 2 of a map, 1 of a sequence, 0 where the features have none."""

    unpooled: int


def _head(params: Params, widths: _Widths, classes: int) -> nn.Module:
    return fresh(params, width=widths.pooled, axes=widths.axes, channels=widths.unpooled, classes=classes)


def _widths(backbone: Backbone, model: Classifier, device: torch.device) -> _Widths:
    """Widths of pooled and unpooled features, seen in a forward pass of the example."""
    training, inputs = model.training, move(model.example, device)
    mask = attention_mask(inputs)
    with torch.no_grad(), device:  # what the model makes in passing lies there too
        unpooled = model.eval().backbone.forward_features(inputs)  # type: ignore[operator]
        pooled = model.pool(model.backbone, unpooled, mask)
    model.train(training)
    if pooled.ndim != 2:
        raise PluginError(
            f"backbone '{backbone.name}': pooled features have shape {tuple(pooled.shape)}, not [n, width]"
        )
    if not isinstance(unpooled, Tensor):
        return _Widths(pooled=int(pooled.shape[1]), axes=0, unpooled=0)
    positions = model.pool.positions(unpooled)
    positions = squared(positions, inputs)
    return _Widths(pooled=int(pooled.shape[1]), axes=positions.ndim - 2, unpooled=int(positions.shape[-1]))


def _outlined_widths(backbone: Backbone, outlined: Classifier) -> _Widths:
    """Widths of an outline, seen once per backbone and pooling: a pass on the meta device takes tenths of a second."""
    _, widths = _WIDTHS.get((id(backbone), outlined.pool.name), lambda: (backbone, _widths(backbone, outlined, META)))
    return widths


def _exactly(head: nn.Module, features: Tensor) -> Tensor:
    """Logits of pooled features in float32 at least, mixed precision or not.

    A probe is fitted and chosen so: in bfloat16 another model would be tested. Beside a backbone it costs no time.
    """
    kind = features.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():  # meta: none
        logits: Tensor = head(features.to(torch.promote_types(features.dtype, torch.float32)))
    return logits


def move(inputs: Any, device: torch.device) -> Any:
    """Inputs, a tensor or a mapping of tensors, on another device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def elements(inputs: Any) -> int:
    """How many numbers a batch of inputs holds, padding included."""
    return sum(tensor.numel() for tensor in ([inputs] if isinstance(inputs, Tensor) else inputs.values()))


def rows(inputs: Any, start: int, stop: int) -> Any:
    """Samples [start, stop) of a batch of inputs, a tensor or a mapping of tensors.

    Where samples differ in length, the padding behind the longest of them is left out.
    """
    if isinstance(inputs, Tensor):
        return inputs[start:stop]
    part = {name: tensor[start:stop] for name, tensor in inputs.items()}
    mask = attention_mask(part)
    if mask is None:
        return part
    length = mask.shape[1]
    longest = int((mask * torch.arange(1, length + 1, device=mask.device)).max())
    return {name: tensor[:, :longest] if tensor.shape[1:2] == (length,) else tensor for name, tensor in part.items()}


def check_offers(backbone: Backbone, params: Params) -> None:
    """Refuse a recipe with what the backbone does not have. Raises `BenchmarkError`."""
    if params["pool"] not in backbone.pools:
        raise BenchmarkError(f"backbone '{backbone.name}' has no pool '{params['pool']}': {', '.join(backbone.pools)}")
    if params["drop_path"] and not backbone.drop_path:
        raise BenchmarkError(f"backbone '{backbone.name}' has no stochastic depth: drop_path = 0 is needed")


def _check_layers(backbone: Backbone, model: Classifier) -> None:
    named = [name for group in model.layer_groups for name in group]
    if sorted(named) != sorted(name for name, _ in model.backbone.named_parameters()):
        raise PluginError(f"backbone '{backbone.name}': its layers do not name every parameter exactly once")
