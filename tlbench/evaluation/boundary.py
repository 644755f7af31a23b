"""The boundary: what flows from the frozen part of a model into the trained one, computed once per sample."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.components import Preprocess
from tlbench.evaluation.activations import Activations, kept
from tlbench.evaluation.complexity import Flops
from tlbench.evaluation.cut import Cut, earlier_cuts
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import tensor_digest
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.predict import BLOCK, by_size
from tlbench.evaluation.proof import skipping, without_leaks

WORTH = {"cpu": 1000.0, "cuda": 5000.0}
"""FLOPs on the way to a cut for each byte that is kept, from which on keeping pays, by kind of device.

A core that reads a byte back in the time of some 30 FLOPs, and a GPU that is sent one in the time of some 2,000, leave
a margin: what hardly saves time is not worth the memory. Counted and not timed, since equal trials must give equal
measurements, and with a cache the last bits differ. The number of epochs does not matter: already in the first,
computing the activations takes what it would take anyway, and later trials find them.
"""

_KIND = "boundary"
_Way = Callable[[Any, np.ndarray], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Boundaries:
    """Where the boundaries of earlier trials lie."""

    memory: Memory
    key: tuple[Hashable, ...]
    """All that activations depend on besides a model's frozen tensors: architecture, data, device."""

    def key_of(self, cut: Cut, channels_last: bool) -> tuple[Hashable, ...]:
        """The key of a cut's boundary: all that decides it. Cuts inside the backbone have the same behind any pool."""
        tensors = sorted((name, tensor_digest(tensor)) for name, tensor in cut.frozen_tensors)
        digest = hashlib.sha256(repr(tensors).encode()).hexdigest()
        return (*self.key, _KIND, cut.name, digest, channels_last, cut.pool, cut.activation)

    def names(self) -> set[str]:
        """Modules at which there are boundaries of the same data, from whatever weights."""
        start, keys = (*self.key, _KIND), [key for key in self.memory if isinstance(key, tuple)]
        return {str(key[len(start)]) for key in keys if key[: len(start)] == start}


@final
class Flow:
    """What flows into a cut from the samples of one part of the data."""

    def __init__(self, prepared: Prepared, cut: Cut) -> None:
        samples = len(prepared.part.ids)
        self.activations = Activations(samples, by_position=not cut.activation.even)
        self.sizes = np.zeros(samples, np.int64)
        """In elements, of the model's inputs or of what is kept, whichever is less: how many samples go on at once."""

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
    inputs: Any
    """Of a few samples; images of another shape are not kept."""

    train: Prepared
    validation: Prepared
    preprocess: Preprocess
    compute: Compute
    channels_last: bool

    def boundary(self, boundaries: Boundaries) -> tuple[Boundary, bool] | None:
        """The boundary, and whether it was there; None where keeping it does not pay or would take too much."""
        key = boundaries.key_of(self.cut, self.channels_last)
        cached = key in boundaries.memory
        try:
            return boundaries.memory.get(key, lambda: self._computed(boundaries)), cached
        except _NotKeptError:
            return None

    def _computed(self, boundaries: Boundaries) -> Boundary:
        began, flops = time.monotonic(), Flops()
        self.cut.model.eval()
        start = self._start(boundaries)
        parts = (self.train, self.validation)
        train, validation = flows = [Flow(part, self.cut) for part in parts]
        total = sum(len(flow.sizes) for flow in flows)
        for part, flow in zip(parts, flows, strict=True):
            way = self._way(start, validation=flow is validation)
            for first in range(0, len(flow.sizes), BLOCK):
                block = np.arange(first, min(first + BLOCK, len(flow.sizes)))
                self._keep(part, flow, block, flops, way)
                if start is None and flow is train and not first:
                    self._check_worth(flow, flops)
                if flow is train and not first:
                    self._make_room(boundaries.memory, round(flow.activations.nbytes * total / len(block)))
        seconds, earlier = time.monotonic() - began, None if start is None else start[1]
        return Boundary(
            train=train,
            validation=validation,
            seconds=seconds + (0.0 if earlier is None else earlier.seconds),
            flops=((flops.total or 0) + ((earlier and earlier.flops) or 0)) or None,
        )

    def _check_worth(self, first: Flow, flops: Flops) -> None:
        if (flops.total or 0) < WORTH[self.compute.device.type] * first.activations.nbytes:
            raise _NotKeptError

    def _make_room(self, memory: Memory, needed: int) -> None:
        if memory.most_bytes is not None and needed > memory.most_bytes:
            raise _NotKeptError
        memory.make_room(needed)

    def _start(self, boundaries: Boundaries) -> tuple[Cut, Boundary] | None:
        """An earlier boundary that lies before this one and leads to the same bits, the last of several."""
        names = boundaries.names()
        if not names:
            return None
        by_position = not self.cut.activation.even
        with torch.no_grad(), self.compute.autocast(), suppress(Exception):  # as in the proof of a cut
            expected = kept(self.cut.reach(self.inputs), self.inputs, by_position=by_position)
            for cut in earlier_cuts(self.cut, self.inputs, names):
                earlier = boundaries.memory.find(boundaries.key_of(cut, self.channels_last))
                if earlier is None:
                    continue
                activation = kept(cut.reach(self.inputs), self.inputs, by_position=not cut.activation.even)
                cut = without_leaks(cut, skipping(self.inputs), activation)
                got = self.cut.reach(skipping(self.inputs), partial(cut.logits, activation=activation))
                if torch.equal(expected, kept(got, self.inputs, by_position=by_position)):
                    return cut, earlier
        return None

    def _way(self, start: tuple[Cut, Boundary] | None, validation: bool) -> _Way:
        """From inputs and the indices of their samples into the cut."""
        if start is None:
            return lambda inputs, _: self.cut.reach(inputs)
        cut, boundary = start
        flow = boundary.validation if validation else boundary.train

        def way(inputs: Any, indices: np.ndarray) -> Tensor:
            activation = flow.activations.batch(indices.tolist(), inputs, self.compute.device)
            return self.cut.reach(skipping(inputs), partial(cut.logits, activation=activation))

        return way

    def _keep(self, part: Prepared, flow: Flow, block: np.ndarray, flops: Flops, way: _Way) -> None:
        """Let the samples of a block flow into the cut."""
        arrays, generator = part.arrays(block), torch.Generator()
        sizes = [self.preprocess.elements(array) for array in arrays]

        def reach(chosen: np.ndarray) -> tuple[Any, Tensor]:
            picked = [arrays[index] for index in chosen]
            inputs = self.preprocess.batch(picked, {}, False, generator, self.compute.device)
            if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            if isinstance(inputs, Tensor) and inputs.shape[1:] != self.inputs.shape[1:]:
                raise _NotKeptError
            with torch.no_grad(), self.compute.autocast(), flops.over(inputs):
                return inputs, way(inputs, block[chosen])

        for chosen, (inputs, activation) in by_size(sizes, self.compute, reach):
            flow.activations.keep(block[chosen].tolist(), activation, inputs)
        flow.sizes[block] = np.minimum(sizes, flow.activations.elements(block.tolist()))


class _NotKeptError(Exception):
    """Activations do not pay, take too much memory, or are of samples unlike each other."""
