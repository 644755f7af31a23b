"""The proof of a cut: that a model run from there on gives the same logits and gradients as the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlbench.evaluation.activations import Activations, kept
from tlbench.evaluation.calls import Call, extent
from tlbench.evaluation.cut import Cut, cuts
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import train_mode
from tlbench.evaluation.model import rows

SAME = 1e-5
"""Largest difference of logits, relative to the largest logit: both compute the same with the same numbers."""

SAME_GRADIENTS = 1e-4

ALIKE = {torch.float32: 1e-4}
"""Largest difference, relative to the largest number, where other kernels may be chosen and sums be taken in another
order: sample by sample or in a batch, with gradients or without."""

_ALIKE_ROUNDED = 3e-2
"""The same in number formats of 8 to 11 significant bits."""


def find_cut(model: nn.Module, inputs: Any, batch_norm: str, compute: Compute) -> Cut | None:
    """The cut with least behind it that holds for `inputs`, different samples as in training; None where none does.

    Parameters must be set to train or not. Leaves the model in eval mode, its buffers and all generators as they were.
    """
    devices = [] if compute.device.type == "cpu" else [compute.device]
    with torch.random.fork_rng(devices=devices), _unmoved(model), compute.autocast():
        # What is cast without gradients must not be used again with them.
        torch.set_autocast_cache_enabled(False)
        try:
            model.eval()
            expected = _outcome(model, model(inputs))
            for cut in cuts(model, inputs):
                held = _held(cut, inputs, expected, batch_norm, compute)
                if held is not None:
                    return held
        except Exception:  # models do what they like: the whole one is used as ever
            return None
        finally:
            model.eval()
    return None


def skipping(inputs: Any) -> Any:
    """What stands for inputs when the way to the cut is skipped: images take no memory, texts are as they are."""
    if not isinstance(inputs, Tensor):
        return inputs
    nothing = float("nan") if inputs.is_floating_point() else 0
    return torch.full((), nothing, dtype=inputs.dtype, device=inputs.device).expand(inputs.shape)


def _held(cut: Cut, inputs: Any, expected: Sequence[Tensor | None], batch_norm: str, compute: Compute) -> Cut | None:
    """The cut, perhaps with fewer modules skipped, if it holds."""
    try:
        activation = _activation(cut, inputs, compute)
        if activation is None:
            return None
        blanks = skipping(inputs)
        cut = without_leaks(cut, blanks, activation)
        agrees = cut.saves and _agrees(cut, blanks, activation, expected, compute)
        if agrees and _trains(cut, inputs, activation, batch_norm):
            return cut
    except Exception:  # such as a shape that is no affine function, or a write into what takes no memory
        return None
    finally:
        cut.model.eval()
    return None


def _activation(cut: Cut, inputs: Any, compute: Compute) -> Tensor | None:
    """What flows into the cut, if it does not depend on which samples go together."""
    samples, by_position = extent(inputs)[0], not cut.activation.even
    alone = Activations(samples, by_position=by_position)
    with torch.no_grad():
        together = kept(cut.reach(inputs), inputs, by_position=by_position)
        for index in range(samples):
            single = rows(inputs, index, index + 1)
            alone.keep([index], cut.reach(single), single)
    got = alone.batch(range(samples), inputs, compute.device)
    return together if _close(together, got, ALIKE.get(compute.dtype, _ALIKE_ROUNDED)) else None


def without_leaks(cut: Cut, blanks: Any, activation: Tensor) -> Cut:
    """Without skipping what the rest of the model reads past the cut, as it does rotary position embeddings."""
    with torch.no_grad():
        if _finite(cut.logits(blanks, activation)):
            return cut

        def leaks(call: Call) -> bool:
            return not _finite(cut.logits(blanks, activation, lambda each: float("nan") if each is call else 0.0))

        return cut.without({call.module for call, _ in cut.skipped if leaks(call)})


def _agrees(cut: Cut, blanks: Any, activation: Tensor, expected: Sequence[Tensor | None], compute: Compute) -> bool:
    """Whether logits and gradients are those of the whole model, with gradients and, as for validation, without."""
    logits, *gradients = _outcome(cut.model, cut.logits(blanks, activation))
    with torch.inference_mode():
        inferred = cut.logits(blanks, activation)
    assert expected[0] is not None
    assert logits is not None
    alike = _close(expected[0], inferred, ALIKE.get(compute.dtype, _ALIKE_ROUNDED))
    if not alike or not _close(expected[0], logits, SAME):
        return False
    if [each is None for each in gradients] != [each is None for each in expected[1:]]:
        return False
    one, other = (
        torch.cat([each.flatten() for each in side if each is not None]) for side in (expected[1:], gradients)
    )
    return _close(one, other, SAME_GRADIENTS)


def _trains(cut: Cut, inputs: Any, activation: Tensor, batch_norm: str) -> bool:
    """Whether training changes nothing before the cut: no dropout, no batch statistics; and the cut is reached."""
    train_mode(cut.model, batch_norm)
    with torch.no_grad():
        reached = kept(cut.reach(inputs), inputs, by_position=not cut.activation.even)
    return _close(activation, reached, SAME) and _finite(cut.logits(skipping(inputs), activation))


def _outcome(model: nn.Module, logits: Tensor) -> list[Tensor | None]:
    """Logits, and the gradients of a sum of them in which each has its own weight, by parameter that trains."""
    weights = torch.arange(1.0, logits.numel() + 1, device=logits.device).sin().view_as(logits)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((logits.float() * weights).sum(), trained, allow_unused=True)
    return [logits.detach(), *gradients]


def _close(expected: Tensor, got: Tensor, tolerance: float) -> bool:
    """Whether no number differs by more than a share of the largest; never where one is not finite."""
    if expected.shape != got.shape:
        return False
    difference, largest = (expected.float() - got.float()).abs().max(), expected.float().abs().max()
    return bool(difference <= tolerance * largest)


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


@contextmanager
def _unmoved(model: nn.Module) -> Iterator[None]:
    """Put buffers back, such as batch statistics, that forward passes in training mode move."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
