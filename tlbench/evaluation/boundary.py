"""The boundary: what flows from the frozen part of a model into the trained one, computed once per sample."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.components import Preprocess
from tlbench.evaluation.activations import Activations
from tlbench.evaluation.complexity import Flops
from tlbench.evaluation.cut import Cut
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import tensor_digest
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.predict import BLOCK, by_size

WORTH = {"cpu": 1000.0, "cuda": 5000.0}
"""FLOPs on the way to a cut for each byte that is kept, from which on keeping pays, by kind of device.

A core that reads a byte back in the time of some 30 FLOPs, and a GPU that is sent one in the time of some 2,000, leave
a margin: what hardly saves time is not worth the memory. Counted and not timed, since equal trials must give equal
measurements, and with a cache the last bits differ. The number of epochs does not matter: already in the first,
computing the activations takes what it would take anyway, and later trials find them.
"""


@final
@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Where the boundaries of earlier trials lie."""

    memory: Memory
    key: tuple[Hashable, ...]
    """All that activations depend on besides a model's frozen tensors: architecture, data, device."""


@final
class Flow:
    """What flows into a cut from the samples of one part of the data."""

    def __init__(self, prepared: Prepared, cut: Cut) -> None:
        samples = len(prepared.part.ids)
        self.activations = Activations(samples, by_position=not cut.activation.even)
        self.sizes = np.zeros(samples, np.int64)
        """Of the model's inputs, in elements."""

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self.activations.nbytes + self.sizes.nbytes


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Boundary:
    """The flows into a cut from training and validation samples, and what computing them took."""

    train: Flow
    validation: Flow
    seconds: float
    flops: int | None

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self.train.nbytes + self.validation.nbytes


@final
@dataclass(kw_only=True)
class Filling:
    """One pass of all samples up to a cut."""

    cut: Cut
    example: Any
    """Inputs of one sample; images of another shape are not kept."""

    train: Prepared
    validation: Prepared
    preprocess: Preprocess
    compute: Compute
    channels_last: bool

    def boundary(self, shelf: Shelf) -> tuple[Boundary, bool] | None:
        """The boundary, and whether it lay on the shelf; None where keeping it does not pay or would take too much."""
        tensors = [(name, tensor_digest(tensor)) for name, tensor in self.cut.frozen_tensors]
        contents = hashlib.sha256(repr(sorted(tensors)).encode()).hexdigest()
        key = (*shelf.key, "boundary", self.cut.name, contents, self.channels_last)
        cached = key in shelf.memory
        try:
            return shelf.memory.get(key, lambda: self._computed(shelf.memory)), cached
        except _NotKeptError:
            return None

    def _computed(self, memory: Memory) -> Boundary:
        start, flops = time.monotonic(), Flops()
        self.cut.model.eval()
        parts = (self.train, self.validation)
        train, validation = flows = [Flow(part, self.cut) for part in parts]
        total = sum(len(flow.sizes) for flow in flows)
        for part, flow in zip(parts, flows, strict=True):
            for first in range(0, len(flow.sizes), BLOCK):
                block = np.arange(first, min(first + BLOCK, len(flow.sizes)))
                self._keep(part, flow, block, flops)
                if flow is train and not first:
                    self._make_room(memory, flow.activations.nbytes, flops, total / len(block))
        return Boundary(train=train, validation=validation, seconds=time.monotonic() - start, flops=flops.total)

    def _make_room(self, memory: Memory, nbytes: int, flops: Flops, times: float) -> None:
        """For all blocks, which are so many times what the first took."""
        needed = round(nbytes * times)
        too_much = memory.most_bytes is not None and needed > memory.most_bytes
        if too_much or (flops.total or 0) < WORTH[self.compute.device.type] * nbytes:
            raise _NotKeptError
        memory.make_room(needed)

    def _keep(self, part: Prepared, flow: Flow, block: np.ndarray, flops: Flops) -> None:
        """Let the samples of a block flow into the cut."""
        arrays, generator = part.arrays(block), torch.Generator()
        flow.sizes[block] = sizes = [self.preprocess.elements(array) for array in arrays]

        def reach(chosen: np.ndarray) -> tuple[Any, Tensor]:
            picked = [arrays[index] for index in chosen]
            inputs = self.preprocess.batch(picked, {}, False, generator, self.compute.device)
            if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            if isinstance(inputs, Tensor) and inputs.shape[1:] != self.example.shape[1:]:
                raise _NotKeptError
            with torch.no_grad(), self.compute.autocast(), flops.over(inputs):
                return inputs, self.cut.reach(inputs)

        for chosen, (inputs, activation) in by_size(sizes, self.compute, reach):
            flow.activations.keep(block[chosen].tolist(), activation, inputs)


class _NotKeptError(Exception):
    """Activations do not pay, take too much memory, or are of samples unlike each other."""
