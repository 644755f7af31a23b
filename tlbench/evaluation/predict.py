"""Prediction: logits and features of whole splits, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

Block = tuple[np.ndarray, list[Tensor]]
"""Positions of some samples, and their outputs in that order."""


def predict(model: nn.Module, samples: Prepared, preprocess: Preprocess, compute: Compute) -> np.ndarray:
    """Logits float32 [n, classes] of every sample once, in the split's order. Leaves the model in eval mode."""
    model.eval()
    everything = np.arange(len(samples.part))
    blocks = _blocks(samples, everything, preprocess, compute, lambda inputs: [model(inputs)])
    return np.concatenate([outputs[0].numpy() for _, outputs in blocks])


def predict_arrays(
    model: nn.Module, arrays: Sequence[np.ndarray], preprocess: Preprocess, compute: Compute
) -> np.ndarray:
    """Logits float32 [n, classes] of prepared samples, at least one, in their order. Leaves the model in eval mode."""
    model.eval()
    with torch.inference_mode():
        return _over_block(arrays, preprocess, compute, lambda inputs: [model(inputs)])[0].numpy()


def feature_blocks(
    model: Classifier,
    views: Sequence[str],
    samples: Prepared,
    positions: np.ndarray,
    preprocess: Preprocess,
    compute: Compute,
    seen: Callable[[Any], None] = lambda _: None,
) -> Iterator[Block]:
    """Pooled features, float32 [n, width] on the CPU for each of `views`, of the samples at `positions`.

    Leaves the model in eval mode. `seen` is told the inputs of every forward pass.
    """
    model.eval()
    pools = [Pool(view, model.pool.layout, model.pool.prefix_tokens).to(compute.device) for view in views]

    def forward(inputs: Any) -> list[Tensor]:
        unpooled = model.backbone.forward_features(inputs)  # type: ignore[operator]
        mask = attention_mask(inputs)
        seen(inputs)
        return [pool(model.backbone, unpooled, mask) for pool in pools]

    yield from _blocks(samples, positions, preprocess, compute, forward)


def _blocks(
    samples: Prepared,
    positions: np.ndarray,
    preprocess: Preprocess,
    compute: Compute,
    forward: Callable[[Any], list[Tensor]],
) -> Iterator[Block]:
    """Outputs block by block; while one is computed the next is read or decoded."""
    most = compute.samples_that_fit(preprocess.elements(preprocess.example()))
    size = -(-BLOCK // most) * most
    blocks = [positions[start : start + size] for start in range(0, len(positions), size)]
    with ThreadPoolExecutor(1) as reader:
        reading = [reader.submit(samples.arrays, block) for block in blocks[:1]]
        for number, block in enumerate(blocks):
            arrays = reading.pop().result()
            reading = [reader.submit(samples.arrays, following) for following in blocks[number + 1 : number + 2]]
            with torch.inference_mode():
                outputs = _over_block(arrays, preprocess, compute, forward)
            yield block, outputs


def _over_block(
    arrays: Sequence[np.ndarray], preprocess: Preprocess, compute: Compute, forward: Callable[[Any], list[Tensor]]
) -> list[Tensor]:
    """Outputs in the order of `arrays`."""
    generator = torch.Generator()

    def work(chosen: np.ndarray) -> list[Tensor]:
        batch = preprocess.batch([arrays[index] for index in chosen], {}, False, generator, compute.device)
        inputs = compute.lay_out(batch)
        with compute.autocast():
            return [output.float() for output in forward(inputs)]

    order, parts = zip(*by_size([preprocess.elements(array) for array in arrays], compute, work), strict=True)
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    # To the CPU once per block: a copy waits for the device, which would have nothing to do meanwhile.
    return [torch.cat(columns).cpu()[back] for columns in zip(*parts, strict=True)]


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
