"""Features of a frozen backbone: computed in one pass for several views, kept by sample, found again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tlbench.components import Preprocess
from tlbench.errors import TrialFailure
from tlbench.evaluation.complexity import Complexity
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.disk import Entry
from tlbench.evaluation.freezing import FrozenState
from tlbench.evaluation.model import Classifier, elements
from tlbench.evaluation.predict import feature_blocks
from tlbench.evaluation.records import Cost

PARTS = ("train", "validation")
"""What features are computed of."""


@final
@dataclass(frozen=True, kw_only=True)
class Network:
    """What is known of a backbone without building it again."""

    parameters: int
    frozen: Mapping[str, Any]
    """Whether a pass changed anything, as `FrozenState.changes` tells it."""

    complexity: Complexity | None
    """Of the way to a view's features; None where it could not be told."""


@final
@dataclass(frozen=True, kw_only=True)
class Extracted:
    """One view of a part's samples."""

    values: Tensor
    """float32 [n, width] on the CPU."""

    seconds: float
    """What their computation took, whenever that was."""

    samples: float
    """How many of the usual shape would take as much: of texts, counted in tokens with their padding."""


@final
@dataclass(frozen=True, kw_only=True)
class Features:
    """Pooled features of a frozen backbone: train and validation by view, and what they cost."""

    train: Mapping[str, Tensor]
    validation: Mapping[str, Tensor]
    """Nothing where training data alone was looked at."""

    seconds: float
    """What one pass took; of views from several passes, the longest."""

    samples: float
    """How many of the usual shape would take as much: of texts, counted in tokens with their padding."""

    cached: bool
    """Whether nothing had to be computed now: what is found still carries its cost, so that it does not look free."""

    complexity: Mapping[str, Complexity | None]
    """Of one of them, by view."""

    parameters: int
    """Of the backbone."""

    frozen: Mapping[str, Any]

    @property
    def cost(self) -> dict[str, Any]:
        """As a row tells it."""
        known = [each.macs for each in self.complexity.values() if each is not None]
        flops = round(2 * max(known) * self.samples) if known else None
        return {"features_s": self.seconds, "features_flops": flops, "features_cached": self.cached}


@final
@dataclass(frozen=True, kw_only=True)
class View:
    """One view of the samples of some parts, as it is kept in memory."""

    parts: Mapping[str, Extracted]
    network: Network

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(part.values.nbytes for part in self.parts.values())


def joined(views: Mapping[str, View], cached: bool) -> Features:
    """Several views as one; `cached`: whether nothing had to be computed."""
    network = next(iter(views.values())).network
    return Features(
        train={name: view.parts["train"].values for name, view in views.items()},
        validation={
            name: view.parts["validation"].values for name, view in views.items() if "validation" in view.parts
        },
        seconds=max(sum(part.seconds for part in view.parts.values()) for view in views.values()),
        samples=max(sum(part.samples for part in view.parts.values()) for view in views.values()),
        cached=cached,
        complexity={name: view.network.complexity for name, view in views.items()},
        parameters=network.parameters,
        frozen=network.frozen,
    )


@final
@dataclass(kw_only=True)
class Extraction:
    """Features of one network, of whatever parts and views are asked for; what is on their shelves is not computed.

    A sample's features do not depend on those it is computed with, but for the last bits: batches of another size, such
    as the last one of a subset, may be computed by other kernels (MobileNetV2: up to 8e-7 of the largest feature; the
    vision transformers and residual networks tried: not at all), and texts with more padding.
    """

    build: Callable[[], Classifier]
    """The network, frozen and on its device."""

    preprocess: Preprocess
    compute: Compute
    complexity: Callable[[str, Classifier], Complexity | None]
    """Of the way to a view's features."""

    facts: Mapping[str, Any]
    """Everything that features depend on beside samples, view and what a shelf knows."""

    computed: bool = field(default=False, init=False)
    """Whether a pass had to be made."""

    _model: Classifier | None = field(default=None, init=False)
    _state: FrozenState | None = field(default=None, init=False)

    def views(self, prepared: Mapping[str, Prepared], views: Sequence[str]) -> dict[str, View]:
        """Every view of every part, by the part's name, and what was seen of the network."""
        found = {part: self.extract(samples, views) for part, samples in prepared.items()}
        networks = self._networks(next(iter(prepared.values())), views)
        return {
            view: View(parts={part: values[view] for part, values in found.items()}, network=networks[view])
            for view in views
        }

    def extract(self, prepared: Prepared, views: Sequence[str]) -> dict[str, Extracted]:
        """Every view of every sample, in the part's order, all that is missing in one pass."""
        rows = prepared.part.rows
        columns = {view: _Column(rows, self._entry(prepared, view)) for view in views}
        lacking = {view: column for view, column in columns.items() if len(column.missing)}
        if lacking:
            missing = np.unique(np.concatenate([column.missing for column in lacking.values()]))
            self._pass(prepared, missing, lacking)
        return {view: column.whole() for view, column in columns.items()}

    def _pass(self, prepared: Prepared, missing: np.ndarray, columns: Mapping[str, _Column]) -> None:
        """Compute what is missing, block by block, each kept as soon as it is there and seen to be finite."""
        start, model, passed = time.monotonic(), self._built(), list[int]()
        usual = elements(model.example)
        blocks = feature_blocks(
            model, list(columns), prepared, missing, self.preprocess, self.compute,
            lambda inputs: passed.append(elements(inputs)),
        )  # fmt: skip
        for positions, outputs in blocks:
            self._check(dict(zip(columns, outputs, strict=True)))
            now = time.monotonic()
            cost = Cost(seconds=(now - start) / len(positions), amount=sum(passed) / usual / len(positions))
            for column, values in zip(columns.values(), outputs, strict=True):
                column.add(positions, values, cost)
            start = now
            passed.clear()

    def _check(self, outputs: Mapping[str, Tensor]) -> None:
        """Refuse features that nothing can be fitted on. Raises `TrialFailure`."""
        for view, values in outputs.items():
            bad = int((~values.isfinite().all(dim=1)).sum())
            if bad:
                of = f"features '{view}' of {bad} of {len(values)} samples"
                raise TrialFailure("diverged", f"{of} are not finite, computed in {self.compute.dtype_name}")

    def _networks(self, prepared: Prepared, views: Sequence[str]) -> dict[str, Network]:
        """What the passes so far have shown of the network, or earlier ones have noted on the shelf, by view."""
        entries = {view: self._entry(prepared, view) for view in views}
        noted = {view: network for view, entry in entries.items() if (network := _noted(entry)) is not None}
        if not self.computed and len(noted) == len(entries):
            return noted
        model = self._built()
        assert self._state is not None
        changes, parameters = self._state.changes(), sum(one.numel() for one in model.backbone.parameters())
        seen = {
            view: Network(parameters=parameters, frozen=changes, complexity=self.complexity(view, model))
            for view in views
        }
        for view, entry in entries.items():
            if entry is not None:
                entry.write_note(asdict(seen[view]))
        return seen

    def _built(self) -> Classifier:
        if self._model is None:
            self.computed, self._model = True, self.build()
            self._state = FrozenState(self._model.backbone, "frozen")
        return self._model

    def _entry(self, prepared: Prepared, view: str) -> Entry | None:
        shelf = prepared.shelf
        return None if shelf is None else shelf.open("features", {**self.facts, "view": view})


@final
class _Column:
    """One view of a part's samples on its way to being whole."""

    def __init__(self, rows: Sequence[bytes], entry: Entry | None) -> None:
        self._rows, self._entry = rows, entry
        self._arrays: list[np.ndarray | None] = [None] * len(rows) if entry is None else entry.get(rows)
        there = [index for index, array in enumerate(self._arrays) if array is not None]
        self._costs = [Cost()] * len(rows)
        if entry is not None:
            for index, cost in zip(there, entry.costs([rows[index] for index in there]), strict=True):
                self._costs[index] = cost
        self.missing = np.setdiff1d(np.arange(len(rows)), there)

    def add(self, positions: np.ndarray, values: Tensor, cost: Cost) -> None:
        """Take the values [n, width] of samples at `positions`; what was there stays."""
        arrays = list(values.numpy())
        if self._entry is not None:
            self._entry.put([self._rows[index] for index in positions], arrays, [cost] * len(arrays))
        for index, array in zip(positions, arrays, strict=True):
            if self._arrays[index] is None:
                self._arrays[index], self._costs[index] = array, cost

    def whole(self) -> Extracted:
        return Extracted(
            values=torch.from_numpy(np.stack([array for array in self._arrays if array is not None])),
            seconds=sum(cost.seconds for cost in self._costs),
            samples=sum(cost.amount for cost in self._costs),
        )


def _noted(entry: Entry | None) -> Network | None:
    """What an earlier pass noted; None where it did not come to its end."""
    note = None if entry is None else entry.note()
    if note is None:
        return None
    complexity = note["complexity"]
    return Network(**{**note, "complexity": complexity and _complexity(complexity)})


def _complexity(noted: Mapping[str, Any]) -> Complexity:
    return Complexity(**{**noted, "unsupported": tuple(noted["unsupported"])})
