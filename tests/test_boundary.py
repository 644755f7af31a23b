"""The boundary: training on activations of the frozen part is the training it stands for, wherever it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch

import checkpoints
import pieces
from tlbench.components import IMAGE, Backbone, Split
from tlbench.evaluation.boundary import WORTH, Shelf
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import Classifier, build
from tlbench.evaluation.train import Run, Task, train
from tlbench.spaces import Context, Params, Suggest, resolve
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic import unfreezing
from tlbench_timm.backbone import TimmBackbone
from tlbench_transformers.backbone import TransformersBackbone

SAMPLES = 22
QUIET = {"batch_size": 8, "learning_rate": 3e-3, "dropout": 0.1, "micro_batch": 3}


@pytest.fixture(autouse=True)
def _worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks as small as these hardly pay."""
    monkeypatch.setitem(WORTH, "cpu", 0.0)


def prepared(backbone: Backbone, seed: int, samples: int = SAMPLES) -> Prepared:
    generator = np.random.default_rng(seed)
    raw: Any
    if backbone.modality == IMAGE:
        raw = generator.integers(0, 255, (samples, 40, 40, 3)).astype(np.uint8)
    else:
        raw = [" ".join(generator.choice(checkpoints.WORDS, 3 + index % 9)) for index in range(samples)]
    ids = [f"{seed}/{index}" for index in range(samples)]
    part = as_part(Split(ids, [index % 3 for index in range(samples)], ("a", "b", "c"), raw), f"part {seed}")
    return Prepared(part, backbone.preprocess)


def shelf(most_bytes: int | None = None) -> Shelf:
    return Shelf(memory=Memory(8, most_bytes), key=("data",))


def run(
    backbone: Backbone,
    strategy: TrainedStrategy,
    on: Shelf | None,
    *,
    epochs: int = 3,
    change: Callable[[Classifier], None] = lambda _: None,
    **changes: Any,
) -> tuple[Classifier, Run]:
    context = Context(
        modality=backbone.modality, kind="transformer", layer_groups=4, pools=("native",), classes=3, train_size=SAMPLES
    )
    params = resolve(strategy.defaults(context), {**QUIET, "augmentation": "none", **changes})
    model = build(backbone, params, 3, False, 0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if not parameter.any():
                parameter.fill_(0.1)
    change(model)
    task = Task(
        strategy=strategy,
        params=params,
        preprocess=backbone.preprocess,
        train=prepared(backbone, 1),
        validation=prepared(backbone, 2),
        chooses=np.ones(SAMPLES, bool),
        metric="nll",
        classes=3,
        epochs=epochs,
        seed=0,
        compute=pieces.CPU,
        report=lambda epoch, score: False,
        shelf=on,
    )
    return model, train(model, task)


@final
class Chosen(TrainedStrategy):
    """What is named trains, and the head."""

    name = "chosen"
    summary = "parameters by name"

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def defaults(self, context: Context) -> Params:
        return {}

    def space(self, trial: Suggest, context: Context) -> Params:
        return {}

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        named = model.backbone.named_parameters()
        chosen = [parameter for name, parameter in named if any(part in name for part in self.parts)]
        return [ParameterGroup([*chosen, *model.head.parameters()])]


VIT, RESNET = "test_vit.r160_in1k", "test_resnet.r160_in1k"


def timm(name: str) -> Backbone:
    return TimmBackbone(name).derive(name="small", weights=None, options={}, preprocess={"size": 64})


def check_same(backbone: Backbone, strategy: TrainedStrategy, name: str | None, **changes: Any) -> None:
    """Losses, scores, logits and the trained weights are those of training on the samples themselves."""
    whole, expected = run(backbone, strategy, None, **changes)
    cut, got = run(backbone, strategy, shelf(), **changes)
    assert got.feed_counts["boundary"] == name
    for one, other in zip(expected.curve, got.curve, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert other.search_score == pytest.approx(one.search_score, rel=1e-4)
    assert expected.validation_logits is not None
    assert got.validation_logits is not None
    np.testing.assert_allclose(got.validation_logits, expected.validation_logits, rtol=1e-3, atol=1e-4)
    for key, tensor in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)
    assert got.frozen == expected.frozen
    assert got.frozen["parameters_changed"] is False
    assert (got.steps, got.micro_batch, got.samples_seen) == (expected.steps, expected.micro_batch, SAMPLES * 3)


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (Chosen("blocks.5.", "fc_norm", "backbone.norm"), "backbone.blocks.5"),
        (Chosen("blocks.5.mlp.fc2"), "backbone.blocks.5"),
        (Chosen(), "head"),
    ],
)
def test_a_transformer(strategy: TrainedStrategy, name: str) -> None:
    check_same(timm(VIT), strategy, name)


@pytest.mark.parametrize("pool", ["native", "cls", "avg"])
def test_every_pool(pool: str) -> None:
    check_same(timm(VIT), unfreezing.PartialFineTuning(), "backbone.blocks.4", pool=pool, frozen_blocks=5)


@pytest.mark.parametrize(("head", "first"), [("mlp", ".hidden"), ("conv", ".convolution"), ("attention", ".norm")])
@pytest.mark.parametrize("name", [VIT, RESNET])
def test_every_head(name: str, head: str, first: str) -> None:
    check_same(timm(name), Chosen(), f"head{first}", head=head, dropout=0.0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch_norm", ["frozen", "training"])
def test_a_stage_of_a_convolutional_network(channels_last: bool, batch_norm: str) -> None:
    """Batch-norm statistics may train: those that do are behind the cut."""
    options = {"channels_last": channels_last, "batch_norm": batch_norm, "micro_batch": None}
    check_same(timm(RESNET), Chosen("layer4"), "backbone.layer4.0", **options)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "llama", "modernbert"])
def test_texts_of_different_length(model_type: str, tmp_path: Path) -> None:
    """LLaMA's layers and ModernBERT's also take rotary embeddings, which are made once before them all.

    In BERT's layers all goes through the attention, the shortcut around it included.
    """
    backbone = TransformersBackbone("here", folder=checkpoints.make(model_type, tmp_path / "model"))
    layer = (
        "backbone.model."
        + {
            "bert": "encoder.layer.2.attention",
            "distilbert": "transformer.layer.2",
            "roberta": "encoder.layer.2.attention",
            "llama": "layers.2",
            "modernbert": "layers.2",
        }[model_type]
    )
    part = layer.removeprefix("backbone.model.").removesuffix(".attention")
    check_same(backbone, Chosen(f"{part}."), layer)
