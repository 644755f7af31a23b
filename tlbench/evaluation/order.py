"""The order of training: which samples make up each batch of each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import final

import numpy as np
import torch

from tlbench.seeds import derive_seed


@final
class Order:
    """Batches of positions in the training data, drawn from a generator of their own."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self._samples, self._seed = samples, derive_seed(seed, "order")
        starts = list(range(0, samples, batch_size))
        if len(starts) > 1 and samples - starts[-1] == 1:
            del starts[-1]  # batch statistics of one sample do not exist: it joins the batch before
        self._bounds = list(pairwise([*starts, samples]))

    @property
    def batches(self) -> int:
        """How many an epoch has."""
        return len(self._bounds)

    def epochs(self) -> Iterator[list[np.ndarray]]:
        """The batches of epoch after epoch, without end; from the first on the same whenever it is called."""
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            order = torch.randperm(self._samples, generator=generator).numpy()
            yield [order[start:stop] for start, stop in self._bounds]
