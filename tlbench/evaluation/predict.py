"""Prediction: logits and features of whole splits, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.components import Preprocess
from tlbench.errors import TrialFailure
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute, is_out_of_memory
from tlbench.evaluation.model import Classifier, Pool


def predict(model: nn.Module, samples: Prepared, preprocess: Preprocess, compute: Compute) -> np.ndarray:
    """Logits float32 [n, classes] of every sample once, in the split's order. Leaves the model in eval mode."""
    model.eval()
    return _over(samples, preprocess, compute, lambda inputs: [model(inputs)])[0].numpy()


def features(
    model: Classifier, views: Sequence[str], samples: Prepared, preprocess: Preprocess, compute: Compute
) -> dict[str, Tensor]:
    """Pooled features by view, float32 [n, width] on the CPU, of every sample once. Leaves the model in eval mode."""
    model.eval()
    pools = [Pool(view, model.pool.layout, model.pool.prefix_tokens) for view in views]

    def forward(inputs: Any) -> list[Tensor]:
        unpooled = model.backbone.forward_features(inputs)  # type: ignore[operator]
        return [pool(model.backbone, unpooled) for pool in pools]

    return dict(zip(views, _over(samples, preprocess, compute, forward), strict=True))


def _over(
    samples: Prepared, preprocess: Preprocess, compute: Compute, forward: Callable[[Any], list[Tensor]]
) -> list[Tensor]:
    size = compute.samples_that_fit(preprocess.example().size)
    total, generator, parts = len(samples.part.ids), torch.Generator(), []
    start = 0
    with torch.inference_mode():
        while start < total:
            arrays = samples.arrays(np.arange(start, min(total, start + size)))
            try:
                inputs = preprocess.batch(arrays, {}, False, generator, compute.device)
                with compute.autocast():
                    outputs = forward(inputs)
            except (RuntimeError, MemoryError) as error:
                size = _half(size, error)
                continue
            parts.append([output.float().cpu() for output in outputs])
            start += len(arrays)
    return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def _half(size: int, error: BaseException) -> int:
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise TrialFailure("oom", f"no memory to predict a single sample: {error}") from error
    return size // 2
