"""LoRA: where the additions go, that they start at nothing, and that they merge into the plain backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

import pieces
import tiny
from checkpoints import VISION
from tlbench.errors import BenchmarkError
from tlbench.evaluation.freezing import apply_groups, train_mode
from tlbench.evaluation.heads import LinearHead, masked_mean
from tlbench.evaluation.model import Classifier
from tlbench.evaluation.pool import Pool
from tlbench.spaces import Context, resolve
from tlbench_basic.lora import _ATTENTION, Lora
from tlbench_transformers.architecture import Architecture
from tlbench_transformers.curated import curated
from tlbench_transformers.module import ImageModel

CONTEXT = Context(modality="image", kind=None, layer_groups=2, pools=("native",), classes=3, train_size=90)
LENGTHS = (7, 4)


class Text(nn.Module):
    """A bare model of transformers with timm's two methods."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features: Tensor = self.model(**inputs).last_hidden_state
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = True, attention_mask: Tensor | None = None) -> Tensor:
        return masked_mean(x, attention_mask)


class Plain(nn.Module):
    """Modules in a row with timm's two methods; inputs [n, 3, 8, 8] or, after `first`, whatever that makes of them."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*modules)

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.parts(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim == 4 else x.mean(1)


class Both(nn.Module):
    """A linear layer of each kind, and one that is never called."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.query, self.key, self.idle = nn.Linear(8, 8), Conv1D(6, 8), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        keys: Tensor = self.key(self.query(x))
        return keys


def classifier(backbone: nn.Module, inputs: Any, classes: int = 3) -> Classifier:
    """A classifier for `inputs`, of which the first sample is the example."""
    example = inputs[:1] if isinstance(inputs, Tensor) else {name: values[:1] for name, values in inputs.items()}
    model = Classifier(backbone, Pool("native", "NLC", 0), nn.Identity(), [], example)
    with torch.no_grad():
        width = model.eval().features(example).shape[1]
    with torch.device(next(backbone.parameters()).device):
        model.head = LinearHead(width, classes)
    return model


def images(size: int, number: int = 2) -> Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


def texts() -> dict[str, Tensor]:
    """Two of different lengths."""
    ids = torch.randint(1, 50, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[position < length for position in range(max(LENGTHS))] for length in LENGTHS]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, num_classes=0, **options)
    return model


def vit() -> Classifier:
    options = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}
    return classifier(timm_model("vit_tiny_patch16_224", **options), images(32))


def beit() -> Classifier:
    options = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}
    return classifier(timm_model("beit_base_patch16_224", **options), images(32))


def resnet() -> Classifier:
    from timm.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(8, 16, 16, 24), zero_init_last=False)
    return classifier(net, images(32))


def mobilenet() -> Classifier:
    """Depthwise convolutions, squeeze-and-excitation, TensorFlow's padding."""
    return classifier(timm_model("tf_mobilenetv3_small_075"), images(32))


def bert() -> Classifier:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return classifier(Text(BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False)), texts())


def gpt2() -> Classifier:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return classifier(Text(GPT2Model(config)), texts())


def cvt() -> Classifier:
    """Its queries, keys and values are a convolution's each before they are projected."""
    net = Architecture.of_type("cvt", VISION["cvt"]).fresh()
    return classifier(ImageModel(net, Pool("avg", "NCHW", 0)), images(32))


def both() -> Classifier:
    return classifier(Plain(Both()), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)))


MODELS: list[Callable[[], Classifier]] = [vit, beit, resnet, mobilenet, bert, gpt2, cvt, both]
EVERYTHING = ("attention", "all")


def recipe(**changes: Any) -> dict[str, Any]:
    return resolve(Lora().defaults(CONTEXT), changes)


def adapted(model: Classifier, **changes: Any) -> list[str]:
    """Put the additions in and let them train: names of the backbone's modules that have one."""
    torch.manual_seed(0)
    apply_groups(model, Lora().adapt(model, recipe(**changes)))
    return [name for name, module in model.backbone.named_modules() if isinstance(module, LoraLayer)]


def inputs_of(model: Classifier) -> Any:
    return texts() if isinstance(model.example, dict) else torch.cat([model.example, -model.example])


def logits(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(inputs)
    return found


def train(model: Classifier, steps: int = 4) -> None:
    """A few steps that move every addition.

    At three times this rate the logits of the residual network reach 52, where 1e-5 is less than float32's rounding.
    """
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    inputs = inputs_of(model)
    for _ in range(steps):
        train_mode(model, "frozen")
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(inputs), torch.tensor([0, 2])))
        optimiser.step()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("targets", EVERYTHING)
@pytest.mark.parametrize("build", MODELS)
def test_additions_start_at_nothing_train_and_merge(build: Callable[[], Classifier], targets: str) -> None:
    """At the start not a bit changes; trained, the merged model gives the same logits and is built as before."""
    model = build()
    inputs, plain = inputs_of(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [(name, type(module)) for name, module in model.named_modules()]
    model.requires_grad_(False)  # attention may be computed another way where there are gradients
    before = logits(model, inputs)
    names = adapted(model, targets=targets)
    assert names
    assert torch.equal(logits(model, inputs), before)
    train(model)
    still = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in plain.items():
        assert torch.equal(still[name], tensor) is not name.startswith("head."), name
    for name in names:
        module: Any = model.backbone.get_submodule(name)
        assert module.lora_B["default"].weight.abs().max() > 0, f"{name} got no gradient"
    trained = logits(model, inputs)
    assert (trained - before).abs().max() > 1e-2
    deployed = Lora().deploy(model)
    assert (logits(deployed, inputs) - trained).abs().max() <= 1e-5
    assert list(deployed.state_dict()) == list(plain)
    assert [(name, type(module)) for name, module in deployed.named_modules()] == modules
    merged = {name: tensor.clone() for name, tensor in deployed.state_dict().items()}
    changed = {name.rpartition(".")[0] for name in merged if not torch.equal(merged[name], plain[name])}
    assert changed == {f"backbone.{name}" for name in names} | {"head"}
    again = Lora().deploy(deployed)
    assert all(torch.equal(tensor, merged[name]) for name, tensor in again.state_dict().items())
    fresh = build()
    fresh.load_state_dict(merged)
    assert torch.equal(logits(fresh.requires_grad_(False), inputs), logits(deployed, inputs))


def test_the_number_of_parameters_is_the_published_one() -> None:
    """ViT-B/16, rank 8 beside the fused projection of 768 to 3 * 768, in 12 blocks: 12 * 8 * (768 + 2304)."""
    with torch.device("meta"):
        model = classifier(timm_model("vit_base_patch16_224"), torch.zeros(1, 3, 224, 224))
        additions, fresh = Lora().adapt(model, recipe(targets="attention", rank=8))
    assert sum(parameter.numel() for parameter in additions.parameters) == 294_912
    assert {id(parameter) for parameter in fresh.parameters} == {id(parameter) for parameter in model.head.parameters()}


def test_attention_means_queries_keys_and_values() -> None:
    assert adapted(vit(), targets="attention") == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    expected = [
        f"model.encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "key", "value")
    ]
    assert adapted(bert(), targets="attention") == expected
    projections = [f"attention.attention.projection_{name}" for name in ("query", "key", "value")]
    assert [name.partition(".layers.0.")[2] for name in adapted(cvt(), targets="attention")][:3] == projections
    assert adapted(gpt2(), targets="attention") == ["model.h.0.attn.c_attn", "model.h.1.attn.c_attn"]


@pytest.mark.parametrize("family", sorted({str(entry.facts.architecture) for entry in curated().values()}))
def test_attention_is_found_in_every_listed_transformer(family: str) -> None:
    """Queries, keys and values of every layer, or what makes all three."""
    outline = Architecture.of_type(family, VISION.get(family, {"pad_token_id": 0})).outline
    names = [name.rpartition(".")[2] for name, _ in outline.named_modules()]
    found = Counter(name for name in names if _ATTENTION.fullmatch(name))
    assert len(found) in (1, 3)
    assert len(set(found.values())) == 1


def test_attention_means_everything_where_there_is_none() -> None:
    found = adapted(resnet(), targets="attention")
    assert found == adapted(resnet(), targets="all")
    assert len(found) == 13  # the stem, two per block, four projections
    assert all("conv" in name or "downsample" in name for name in found)


def test_a_weight_that_is_read_and_not_called_takes_no_addition() -> None:
    """timm's BEiT computes ``F.linear(x, self.qkv.weight, bias)``: an addition to `qkv` would train in vain."""
    found = adapted(beit(), targets="attention")
    assert found == adapted(beit(), targets="all")
    assert [name for name in found if "qkv" in name] == []
    assert {"blocks.0.attn.proj", "blocks.1.mlp.fc2"} <= set(found)


def test_what_a_forward_pass_never_calls_takes_no_addition() -> None:
    assert adapted(both(), targets="all") == ["parts.0.query", "parts.0.key"]


def test_convolutions_that_peft_would_get_wrong_take_no_addition() -> None:
    """Groups, dilation, other padding than zeros, weights or padding made on the way, weights that two share."""
    from timm.layers import Conv2dSame, StdConv2d

    tied, other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    tied.weight = other.weight
    same = nn.Conv2d(8, 8, 1)
    net = Plain(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 0
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.Conv2d(8, 8, 3, dilation=2, padding=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
        Conv2dSame(8, 8, 3, stride=2),
        StdConv2d(8, 8, 1),
        tied,
        other,
        same,
        same,
        nn.Conv2d(8, 8, 3, padding="same"),  # 11
    )
    net.forward_features(images(8))
    assert adapted(classifier(net, images(8)), targets="all") == ["parts.0", "parts.11"]


def test_layers_that_torch_passes_by_take_no_addition() -> None:
    """In eval mode `TransformerEncoderLayer` reads its layers' weights and calls none of them."""
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    net = Plain(nn.Linear(6, 8), nn.TransformerEncoder(encoder, 2))
    assert adapted(classifier(net, torch.randn(2, 5, 6)), targets="all") == ["parts.0"]


@pytest.mark.parametrize("targets", EVERYTHING)
def test_a_backbone_where_nothing_takes_an_addition_is_refused(targets: str) -> None:
    net = Plain(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3))
    model = classifier(net, images(8))
    with pytest.raises(BenchmarkError, match="lora: no linear layer and no ungrouped convolution"):
        Lora().adapt(model, recipe(targets=targets))


def test_names_are_matched_whole() -> None:
    """`0` is a name, and the ending of another."""
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU())
    net = Plain(nn.Conv2d(3, 8, 1), inner)
    net.parts[1].register_module("parts", nn.Sequential(nn.Conv2d(8, 8, 1, groups=2)))
    assert adapted(classifier(net, images(8)), targets="all") == ["parts.0"]


def test_rank_and_alpha_set_size_and_scale() -> None:
    model = vit()
    adapted(model, targets="attention", rank=4, alpha_ratio=2, lora_dropout=0.1)
    layer: Any = model.backbone.get_submodule("blocks.0.attn.qkv")
    assert layer.lora_A["default"].weight.shape == (4, 48)
    assert layer.scaling == {"default": 2.0}
    assert layer.lora_dropout["default"].p == 0.1


def test_looking_at_a_forward_pass_leaves_no_trace() -> None:
    model = resnet()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    adapted(model.train())
    assert model.training
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(not module._forward_hooks for module in model.modules())
    assert not hasattr(model.backbone, "peft_config")


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 0},
        {"rank": 8.0},
        {"alpha_ratio": 0},
        {"lora_dropout": 1.0},
        {"lora_dropout": None},
        {"targets": "query"},
        {"head_learning_rate_scale": -1},
    ],
)
def test_parameters_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(BenchmarkError, match=f"parameter {next(iter(changes))} = .* is needed"):
        Lora().adapt(vit(), recipe(**changes))


def test_a_trained_and_merged_model_is_the_one_that_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the engine's training loop; the validation logits are those of the model that is shipped."""
    from tlbench.evaluation.predict import predict

    monkeypatch.setattr(pieces, "recipe", lambda strategy, **changes: recipe(**changes))
    model, run = pieces.run(Lora(), epochs=3, learning_rate=1e-2, augmentation="none")
    assert run.frozen["parameters_changed"] is run.frozen["buffers_changed"] is False
    deployed = Lora().deploy(model)
    found = predict(deployed, pieces.samples().validation, tiny.Tiny().preprocess, pieces.CPU)
    assert run.validation_logits is not None
    np.testing.assert_allclose(found, run.validation_logits, rtol=0, atol=1e-5)
    assert list(deployed.state_dict()) == list(pieces.model().state_dict())


def test_equal_trials_give_equal_results_whatever_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The additions come from the trial's seed, not from the state that torch's global generator happens to be in."""
    monkeypatch.setattr(pieces, "recipe", lambda strategy, **changes: recipe(**changes))

    def trained(seed: int, before: int) -> np.ndarray:
        torch.manual_seed(before)
        _, run = pieces.run(Lora(), epochs=2, seed=seed, learning_rate=1e-2, augmentation="none")
        assert run.validation_logits is not None
        return run.validation_logits

    assert not np.array_equal(trained(0, before=1), trained(1, before=1))
    assert np.array_equal(trained(0, before=1), trained(0, before=2))
