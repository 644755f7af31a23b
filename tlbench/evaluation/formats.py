"""Number formats and layouts: in which of them a network computes fastest on a device, by a short measurement."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from tlbench.evaluation.device import Compute, are_images
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.model import Classifier, elements, move
from tlbench.evaluation.provenance import arithmetic
from tlbench.trial import canonical_json

GAIN = 1.15
"""How many times as fast another way has to be: bfloat16 rounds more coarsely, and clocks are not exact."""

LEAST_S, MOST_S = 0.004, 0.1
"""What is measured has to take so long in the usual way: of less, conversions decide, and little is to be gained. No
round is begun after so long."""

PASSED, TRAINED, ROUNDS = 32, 8, 3
"""Most samples of a forward pass and of a training step, and how often each way has its turn at most."""

MEMORY_SHARE = 0.25
"""Part of the machine's memory that a training step may take for weights and gradients to be measured."""

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
        return self._chosen(compute, ways, {"work": "passes", **network}, lambda: passing(model(), compute))

    def of_training(
        self, compute: Compute, network: Mapping[str, Any], model: Classifier, channels_last: bool
    ) -> Compute:
        """For training: of a copy of `model` everything is trained, which every strategy does some part of."""
        dtypes = dict.fromkeys(dtype for dtype, _ in compute.others if dtype != compute.dtype)
        ways = [replace(compute, dtype=dtype, others=()) for dtype in dtypes]
        what = {"work": "training", "recipe": {"channels_last": channels_last}, **network}
        return self._chosen(compute, ways, what, lambda: training(model, compute, channels_last))

    def _chosen(
        self, compute: Compute, others: Sequence[Compute], what: Mapping[str, Any], prepare: Callable[[], Work | None]
    ) -> Compute:
        """The usual way, or the first of the others that is clearly faster than those before it."""
        usual = replace(compute, others=())
        if not others:
            return usual
        key = {**what, **arithmetic(usual), "others": [_named(way) for way in others]}
        name = canonical_json(key)
        if name not in self._known:
            seconds = self._seconds(key, [usual, *others], prepare)
            chosen = usual
            for way in others if seconds.get(_named(usual), 0.0) >= LEAST_S else ():
                if GAIN * seconds.get(_named(way), math.inf) < seconds[_named(chosen)]:
                    chosen = way
            self._known[name] = chosen
        return self._known[name]

    def _seconds(
        self, key: Mapping[str, Any], ways: Sequence[Compute], prepare: Callable[[], Work | None]
    ) -> Mapping[str, float]:
        """By way, without those that fail: as noted, or measured now."""
        entry = self.disk.open(SECTION, key)
        noted: Mapping[str, float] | None = None if entry is None else entry.note()
        if noted is not None:
            return noted
        work = prepare()
        seconds = {} if work is None else measured(work, ways)
        if entry is not None and entry.note() is None:  # another worker may have been sooner: all compute alike
            entry.write_note(seconds)
        noted = None if entry is None else entry.note()
        return seconds if noted is None else noted


def measured(work: Work, ways: Sequence[Compute]) -> dict[str, float]:
    """By way: the least seconds of some rounds in turn, after one that does not count."""
    start, rounds = time.perf_counter(), list[list[float]]()
    while len(rounds) < 2 or (len(rounds) <= ROUNDS and time.perf_counter() - start < MOST_S):
        rounds.append([_timed(work, way) for way in ways])
    least = zip(map(_named, ways), (min(each) for each in zip(*rounds[1:], strict=True)), strict=True)
    return {name: seconds for name, seconds in least if seconds < math.inf}


def passing(model: Classifier, compute: Compute) -> Work:
    """A pass of some samples through the backbone, which is put in eval mode."""
    count = min(PASSED, compute.samples_that_fit(elements(model.example)))
    inputs, networks = _inputs(model, count), {False: model.eval()}

    def work(way: Compute) -> None:
        if way.channels_last not in networks:
            networks[True] = deepcopy(model).to(memory_format=torch.channels_last) if are_images(inputs) else model
        with torch.inference_mode():
            networks[way.channels_last].features(way.lay_out(inputs))

    return work


def training(model: Classifier, compute: Compute, channels_last: bool) -> Work | None:
    """Gradients of all parameters of a copy over a few samples; None where there is no copy, or no memory for it."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 3 * weights > MEMORY_SHARE * memory:  # the copy, its gradients, and both in bfloat16
        return None
    try:
        copy = deepcopy(model).to(compute.device).eval().requires_grad_(True)
    except Exception:  # of a plugin's module
        return None
    inputs = _inputs(copy, min(TRAINED, compute.samples_that_fit(elements(model.example))))
    if channels_last and are_images(inputs):
        copy.to(memory_format=torch.channels_last)
        inputs = replace(compute, channels_last=True).lay_out(inputs)

    def work(_: Compute) -> None:
        copy.zero_grad(set_to_none=True)
        logits = copy(inputs).float()
        torch.autograd.backward(functional.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long)))

    return work


def _named(way: Compute) -> str:
    return f"{way.dtype_name} channels {'last' if way.channels_last else 'first'}"


def _timed(work: Work, way: Compute) -> float:
    """Seconds; for ever where a plugin's network cannot compute in this way."""
    start = time.perf_counter()
    try:
        with way.autocast():
            work(way)
        way.synchronise()
    except Exception:
        return math.inf
    return time.perf_counter() - start


def _inputs(model: Classifier, samples: int) -> Any:
    """So many samples of the usual shape, on the model's device."""
    one = move(model.example, next(model.parameters()).device)
    if isinstance(one, Tensor):
        return one.repeat_interleave(samples, dim=0)
    return {name: tensor.repeat_interleave(samples, dim=0) for name, tensor in one.items()}
