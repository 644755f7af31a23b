"""On a GPU: the same training loop, in every number format, with results that agree with the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pieces
import tiny
from tlbench.evaluation.device import Compute
from tlbench.evaluation.predict import predict

pytestmark = pytest.mark.gpu


def gpu(dtype: torch.dtype) -> Compute:
    return Compute(device=torch.device("cuda"), dtype=dtype, threads=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_learns_with_every_augmentation(dtype: torch.dtype) -> None:
    changes = {"augmentation": "rand", "mixup": 0.2, "cutmix": 1.0, "channels_last": True, "batch_norm": "training"}
    _, run = pieces.run(tiny.Full(), epochs=4, compute=gpu(dtype), **changes)
    assert all(np.isfinite(point.train_loss) for point in run.curve)
    _, run = pieces.run(tiny.Full(), epochs=20, compute=gpu(dtype), batch_norm="training")
    assert max(point.search_score for point in run.curve) > 0.8


def test_frozen_means_frozen() -> None:
    _, run = pieces.run(tiny.Head(), compute=gpu(torch.float32))
    assert run.frozen["parameters_changed"] is False
    assert run.frozen["buffers_changed"] is False
    assert run.frozen["parameters_checked"] == 8


def test_logits_agree_with_the_cpu() -> None:
    model, of, preprocess = pieces.model().eval(), pieces.samples(), tiny.Tiny().preprocess
    expected = predict(model, of.validation, preprocess, pieces.CPU)
    got = predict(model.to("cuda"), of.validation, preprocess, gpu(torch.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)  # convolutions may compute in TF32
