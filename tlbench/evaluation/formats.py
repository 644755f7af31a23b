"""Number formats and layouts: in which of them a network computes fastest on a device, by a short measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from tlbench.evaluation.device import Compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.model import Classifier, move
from tlbench.evaluation.provenance import arithmetic
from tlbench.trial import canonical_json

GAIN = 1.15
"""How many times as fast another way has to be: bfloat16 rounds more coarsely, and clocks are not exact."""

LEAST_S = 0.004
"""What is measured has to take so long in the usual way; of less, conversions decide, and little is to be gained."""

PASSED, TRAINED, ROUNDS = 32, 8, 3
"""Samples of a forward pass and of a training step, and how often each way has its turn."""

SECTION = "formats"

Work = Callable[[Compute], None]


@final
@dataclass(kw_only=True)
class Formats:
    """Choices of one process. What was measured is kept on the disk: where it was lost, another choice may be made."""

    disk: Disk = field(default_factory=Disk)
    _known: dict[str, Compute] = field(default_factory=dict)

    def of_passes(self, compute: Compute, network: Mapping[str, Any], model: Callable[[], Classifier]) -> Compute:
        """For forward passes through a frozen backbone: `model`, on its device, is asked for if it has to be measured.

        `network` is all that decides how the network computes, beside what `compute` and libraries do.
        """
        ways = [replace(compute, dtype=dtype, channels_last=last, others=()) for dtype, last in compute.others]
        return self._chosen(compute, ways, {"work": "passes", **network}, lambda: _passing(model()))

    def of_training(
        self, compute: Compute, network: Mapping[str, Any], model: Classifier, channels_last: bool
    ) -> Compute:
        """For training: of a copy of `model` everything is trained, which every strategy does some part of."""
        dtypes = dict.fromkeys(dtype for dtype, _ in compute.others if dtype != compute.dtype)
        ways = [replace(compute, dtype=dtype, others=()) for dtype in dtypes]
        what = {"work": "training", "recipe": {"channels_last": channels_last}, **network}
        return self._chosen(compute, ways, what, lambda: _training(deepcopy(model).to(compute.device), channels_last))

    def _chosen(
        self, compute: Compute, others: Sequence[Compute], what: Mapping[str, Any], prepare: Callable[[], Work]
    ) -> Compute:
        usual = replace(compute, others=())
        if not others:
            return usual
        key = {**what, **arithmetic(usual), "others": [_named(way) for way in others]}
        name = canonical_json(key)
        if name not in self._known:
            seconds = self._seconds(key, [usual, *others], prepare)
            fastest = min([usual, *others], key=lambda way: seconds[_named(way)])
            usual_s, least_s = (seconds[_named(way)] for way in (usual, fastest))
            self._known[name] = fastest if usual_s >= LEAST_S and usual_s > GAIN * least_s else usual
        return self._known[name]

    def _seconds(
        self, key: Mapping[str, Any], ways: Sequence[Compute], prepare: Callable[[], Work]
    ) -> Mapping[str, float]:
        """By way: as noted, or measured now."""
        entry = self.disk.open(SECTION, key)
        noted: Mapping[str, float] | None = None if entry is None else entry.note()
        if noted is not None:
            return noted
        try:
            seconds = _measured(prepare(), ways)
        except Exception:  # of a plugin's network, which may not compute in every format, or not be copied
            return dict.fromkeys(map(_named, ways), 0.0)
        if entry is not None:
            entry.write_note(seconds)
        return seconds


def _named(way: Compute) -> str:
    return f"{way.dtype_name} channels {'last' if way.channels_last else 'first'}"


def _measured(work: Work, ways: Sequence[Compute]) -> dict[str, float]:
    """The least seconds of some rounds in turn, after one that does not count."""
    rounds = [[_timed(work, way) for way in ways] for _ in range(1 + ROUNDS)]
    least = [min(each) for each in zip(*rounds[1:], strict=True)]
    return dict(zip(map(_named, ways), least, strict=True))


def _timed(work: Work, way: Compute) -> float:
    start = time.perf_counter()
    with way.autocast():
        work(way)
    way.synchronise()
    return time.perf_counter() - start


def _passing(model: Classifier) -> Work:
    inputs, networks = _inputs(model, PASSED), {False: model.eval()}

    def work(way: Compute) -> None:
        if way.channels_last not in networks:
            networks[True] = deepcopy(model).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            networks[way.channels_last].features(way.lay_out(inputs))

    return work


def _training(model: Classifier, channels_last: bool) -> Work:
    model.eval().requires_grad_(True)
    inputs = _inputs(model, TRAINED)
    if channels_last:
        model.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    targets = torch.zeros(TRAINED, dtype=torch.long, device=next(model.parameters()).device)

    def work(_: Compute) -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(functional.cross_entropy(model(inputs).float(), targets))

    return work


def _inputs(model: Classifier, samples: int) -> Any:
    """So many samples of the usual shape, on the model's device."""
    one = move(model.example, next(model.parameters()).device)
    if isinstance(one, Tensor):
        return one.repeat_interleave(samples, dim=0)
    return {name: tensor.repeat_interleave(samples, dim=0) for name, tensor in one.items()}
