"""Prediction: logits and features of whole splits, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Preprocess
from tlbench.errors import TrialFailure
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute, is_out_of_memory
from tlbench.evaluation.model import Classifier
from tlbench.evaluation.pool import Pool, attention_mask

Result = TypeVar("Result")

BLOCK = 256
"""Fewest samples that are held at once, to be sorted by size."""


def predict(model: nn.Module, samples: Prepared, preprocess: Preprocess, compute: Compute) -> np.ndarray:
    """Logits float32 [n, classes] of every sample once, in the split's order. Leaves the model in eval mode."""
    model.eval()
    return _over(samples, preprocess, compute, lambda inputs: [model(inputs)])[0].numpy()


def predict_arrays(
    model: nn.Module, arrays: Sequence[np.ndarray], preprocess: Preprocess, compute: Compute
) -> np.ndarray:
    """Logits float32 [n, classes] of prepared samples, at least one, in their order. Leaves the model in eval mode."""
    model.eval()
    with torch.inference_mode():
        return _over_block(arrays, preprocess, compute, lambda inputs: [model(inputs)])[0].numpy()


def features(
    model: Classifier,
    views: Sequence[str],
    samples: Prepared,
    preprocess: Preprocess,
    compute: Compute,
    seen: Callable[[Any], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Pooled features by view, float32 [n, width] on the CPU, of every sample once. Leaves the model in eval mode.

    `seen` is told the inputs of every forward pass.
    """
    model.eval()
    pools = [Pool(view, model.pool.layout, model.pool.prefix_tokens).to(compute.device) for view in views]

    def forward(inputs: Any) -> list[Tensor]:
        unpooled = model.backbone.forward_features(inputs)  # type: ignore[operator]
        mask = attention_mask(inputs)
        seen(inputs)
        return [pool(model.backbone, unpooled, mask) for pool in pools]

    return dict(zip(views, _over(samples, preprocess, compute, forward), strict=True))


def _over(
    samples: Prepared, preprocess: Preprocess, compute: Compute, forward: Callable[[Any], list[Tensor]]
) -> list[Tensor]:
    total, most = len(samples.part.ids), compute.samples_that_fit(preprocess.elements(preprocess.example()))
    size = max(BLOCK, most)
    parts = []
    with torch.inference_mode():
        for start in range(0, total, size):
            arrays = samples.arrays(np.arange(start, min(total, start + size)))
            parts.append(_over_block(arrays, preprocess, compute, forward))
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _over_block(
    arrays: Sequence[np.ndarray], preprocess: Preprocess, compute: Compute, forward: Callable[[Any], list[Tensor]]
) -> list[Tensor]:
    """Outputs in the order of `arrays`."""
    generator = torch.Generator()

    def work(chosen: np.ndarray) -> list[Tensor]:
        inputs = preprocess.batch([arrays[index] for index in chosen], {}, False, generator, compute.device)
        with compute.autocast():
            return [output.float().cpu() for output in forward(inputs)]

    order, parts = zip(*by_size([preprocess.elements(array) for array in arrays], compute, work), strict=True)
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    return [torch.cat(columns)[back] for columns in zip(*parts, strict=True)]


def by_size(
    elements: Sequence[int], compute: Compute, work: Callable[[np.ndarray], Result]
) -> Iterator[tuple[np.ndarray, Result]]:
    """Positions of samples, and what `work` makes of them: from the largest to the smallest, as many as fit at once.

    Those that go together then need little padding, and memory runs out first if ever. `elements`: of their inputs.
    """
    order, most, start = np.argsort(-np.asarray(elements), kind="stable"), len(elements), 0
    while start < len(order):
        chosen = order[start : start + min(most, compute.samples_that_fit(int(elements[order[start]])))]
        try:
            result = work(chosen)
        except (RuntimeError, MemoryError) as error:
            most = _half(len(chosen), error)
            continue
        yield chosen, result
        start += len(chosen)


def _half(size: int, error: BaseException) -> int:
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise TrialFailure("oom", f"no memory to predict a single sample: {error}") from error
    return size // 2
