"""Adapters: what of an adapted model its pretrained weights do not hold, kept alone and put back onto them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from torch import Tensor, nn

from tlbench.evaluation.freezing import tensor_digest
from tlbench.evaluation.model import Classifier
from tlbench.strategies import TrainedStrategy

WORTH = 0.5
"""Largest part of a model, in bytes, that is kept as an adapter: one that is nearly all of it saves little and needs
the pretrained weights besides."""

_BACKBONE = "backbone."


@final
@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The tensors of an adapted model, not yet merged, that are not those of its pretrained backbone."""

    tensors: Mapping[str, Tensor]
    """By their names in the adapted model."""

    left_out: str
    """sha256 over names and contents of all the others."""


@final
class Shipment:
    """A model of a trained strategy on its way from training to where it is used."""

    def __init__(self, strategy: TrainedStrategy, model: Classifier) -> None:
        """Take a model as it was built, before the strategy adapts it."""
        self._strategy, self._model = strategy, model
        merges = type(strategy).deploy is not TrainedStrategy.deploy
        backbone = model.backbone.state_dict().values()
        self._pretrained = {_content(tensor) for tensor in backbone} if merges and strategy.pretrained else None

    @cached_property
    def adapter(self) -> Adapter | None:
        """What differs from the pretrained weights; None where nothing is merged, or most of the model differs.

        Looked up before the strategy merges it away.
        """
        if self._pretrained is None:
            return None
        state = self._model.state_dict()
        backbone = {name: tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
        left = {name: tensor for name, tensor in backbone.items() if _content(tensor) in self._pretrained}
        kept = {name: tensor for name, tensor in state.items() if name not in left}
        if _bytes(kept.values()) > WORTH * _bytes(state.values()):
            return None
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}
        return Adapter(tensors=tensors, left_out=_digest(left))

    @cached_property
    def model(self) -> nn.Module:
        """The model to ship, in eval mode; made once: merging may not repeat."""
        _ = self.adapter
        return self._strategy.deploy(self._model).eval()


def restore(model: nn.Module, adapter: Adapter) -> None:
    """Put an adapter into a model that the strategy has adapted anew, on the same pretrained weights.

    Raises `ValueError`, or torch's `RuntimeError`, where the model is not the one that it was taken from.
    """
    found = model.load_state_dict(adapter.tensors, strict=False)
    if found.unexpected_keys:
        raise ValueError(f"its architecture has no '{found.unexpected_keys[0]}'")
    rest = {name: tensor for name, tensor in model.state_dict().items() if name not in adapter.tensors}
    if _digest(rest) != adapter.left_out:
        raise ValueError("its pretrained tensors have other names or values")


def _content(tensor: Tensor) -> tuple[Any, ...]:
    return str(tensor.dtype), tuple(tensor.shape), tensor_digest(tensor)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    lines = sorted(f"{name} {_content(tensor)}\n" for name, tensor in tensors.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
