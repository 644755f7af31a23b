"""Activations: what flows into a module, kept sample by sample and put together to batches again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from tlbench.evaluation.pool import attention_mask


@final
class Activations:
    """One tensor per sample, on the CPU: [...] where all are alike, [length, ...] without padding where lengths differ.

    Maps whose channels lie last in memory are kept so: [height, width, channels].
    """

    def __init__(self, samples: int, *, by_position: bool) -> None:
        self.by_position = by_position
        self._channels_last = False
        self._values: list[Tensor | None] = [None] * samples

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(value.nbytes for value in self._values if value is not None)

    def elements(self, indices: Iterable[int]) -> list[int]:
        """Of each sample's tensor."""
        return [value.numel() for index in indices if (value := self._values[index]) is not None]

    def keep(self, indices: Iterable[int], activation: Tensor, inputs: Any) -> None:
        """Keep a batch's activation [n, ...] or [n, positions, ...]; `inputs` tell what is padding."""
        values: Sequence[Tensor]
        flowed = activation.detach()
        if self.by_position:
            visible = _visible(inputs).cpu()
            values = flowed.cpu()[visible].split_with_sizes(visible.sum(1).tolist())
        else:
            self._channels_last = _has_channels_last(flowed)
            # A clone: it may be a view of something larger.
            values = (flowed.movedim(1, -1) if self._channels_last else flowed).contiguous().cpu().clone().unbind()
        for index, value in zip(indices, values, strict=True):
            self._values[index] = value

    def batch(self, indices: Sequence[int], inputs: Any, device: torch.device) -> Tensor:
        """The activation of a batch of samples; where `inputs` have padding there are zeros."""
        values = [value for index in indices if (value := self._values[index]) is not None]
        if not self.by_position:
            stacked = torch.stack(values).to(device)
            return stacked.movedim(-1, 1) if self._channels_last else stacked
        flat, visible = torch.cat(values).to(device), _visible(inputs)
        padded = flat.new_zeros(*visible.shape, *flat.shape[1:])
        padded[visible] = flat
        return padded


def kept(activation: Tensor, inputs: Any, *, by_position: bool) -> Tensor:
    """An activation as it comes back after it was kept: zeros where the inputs have padding."""
    samples = len(activation)
    activations = Activations(samples, by_position=by_position)
    activations.keep(range(samples), activation, inputs)
    return activations.batch(range(samples), inputs, activation.device)


def _visible(inputs: Any) -> Tensor:
    mask = attention_mask(inputs)
    assert mask is not None
    return mask.bool()


def _has_channels_last(activation: Tensor) -> bool:
    if activation.ndim != 4 or activation.is_contiguous():
        return False
    return activation.is_contiguous(memory_format=torch.channels_last)
