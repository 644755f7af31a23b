"""Freezing: what must not change during training stays in eval mode and is checked by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlbench.strategies import ParameterGroup


def trainable_names(model: nn.Module) -> set[str]:
    """Names of the parameters that get gradients."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def apply_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Let exactly the parameters in `groups` train."""
    model.requires_grad_(False)
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(True)


def train_mode(model: nn.Module, batch_norm: str) -> None:
    """Training mode, but `eval()` for every module without a trainable parameter and for batch norm if frozen.

    In training mode a frozen model would still move its batch-norm buffers (pitfall 7).
    """
    model.train()
    for module in model.modules():
        if _is_frozen(module) or (batch_norm == "frozen" and isinstance(module, _BatchNorm)):
            module.eval()


def trains_statistics(model: nn.Module, batch_norm: str) -> bool:
    """Whether batch-norm statistics move in training, so that the micro-batch is part of the recipe."""
    return batch_norm == "training" and any(
        isinstance(module, _BatchNorm) and not _is_frozen(module) for module in model.modules()
    )


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


@final
class FrozenState:
    """Hashes of everything that is frozen when training starts, to compare when it ends."""

    def __init__(self, model: nn.Module, batch_norm: str) -> None:
        self._model, self._batch_norm = model, batch_norm
        self._parameters = dict(self._digests(model.named_parameters()))
        self._buffers = dict(self._digests(self._still_buffers()))

    def changes(self) -> dict[str, bool | int]:
        """Whether a parameter or buffer moved that was frozen all the time, and how many tensors were compared."""
        trainable = trainable_names(self._model)
        still = [(name, tensor) for name, tensor in self._model.named_parameters() if name not in trainable]
        parameters = dict(self._digests(iter(still)))
        buffers = dict(self._digests(self._still_buffers()))
        return {
            "parameters_changed": _differs(parameters, self._parameters),
            "buffers_changed": _differs(buffers, self._buffers),
            "parameters_checked": len(parameters.keys() & self._parameters.keys()),
            "buffers_checked": len(buffers.keys() & self._buffers.keys()),
        }

    def moved(self) -> dict[str, Tensor]:
        """Parameters and buffers that are not what they were, and those that train, whether they moved or not."""
        trainable, before = trainable_names(self._model), {**self._parameters, **self._buffers}
        tensors: dict[str, Tensor] = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        return {
            name: tensor
            for name, tensor in tensors.items()
            if name in trainable or tensor_digest(tensor) != before.get(name)
        }

    def _digests(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
        return ((name, tensor_digest(tensor)) for name, tensor in tensors)

    def _still_buffers(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in self._model.named_modules():
            moving = isinstance(module, _BatchNorm) and self._batch_norm == "training" and not _is_frozen(module)
            if not moving:
                yield from module.named_buffers(prefix=prefix, recurse=False)


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _differs(after: dict[str, str], before: dict[str, str]) -> bool:
    return any(after[name] != before[name] for name in after.keys() & before.keys())
