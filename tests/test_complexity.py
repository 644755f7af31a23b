"""Complexity: published figures of 46 architectures, formulas, and what must not change a count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import miniatures
import pieces
import tiny
from published import PUBLISHED
from tlbench.catalog import Catalog
from tlbench.evaluation.complexity import Complexities, Complexity, Flops, complexity, in_full, of_backbone, of_features
from tlbench.evaluation.model import META, blueprint, build, move
from tlbench.plugins import discover
from tlbench.spaces import resolve

MINIATURES = {backbone.name: backbone for backbone in miniatures.register_backbones()}

PRINTED = 0.005001
"""Half of the last digit of a published figure."""


def on_meta(model: Callable[[], nn.Module], *size: int) -> Complexity:
    with META:
        return complexity(model(), torch.zeros(size))


@contextmanager
def unfused() -> Iterator[None]:
    """timm's attention as products of matrices."""
    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(True)


# Published figures (pitfall 16)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_figures_are_those_published(name: str) -> None:
    """timm's MACs count element-wise operations as well, up to 5 % of a small network; its activations are the same."""
    published = PUBLISHED[name]
    architecture = {"xception": "legacy_xception"}.get(name, name)
    found = on_meta(lambda: timm.create_model(architecture), 1, 3, published.size, published.size)
    assert found.parameters == published.parameters
    assert 2 * found.macs == pytest.approx(published.flops, rel=1e-3)
    assert 0.95 * (published.giga_macs - PRINTED) <= found.macs / 1e9 <= 1.005 * (published.giga_macs + PRINTED)
    assert found.activations / 1e6 == pytest.approx(published.mega_activations, abs=PRINTED)
    assert found.unsupported == ()


# Formulas


def test_a_stem_of_a_residual_network() -> None:
    found = on_meta(lambda: nn.Conv2d(3, 64, 7, 2, 3, bias=False), 1, 3, 224, 224)
    assert (found.macs, found.activations, found.parameters) == (118_013_952, 64 * 112 * 112, 64 * 3 * 49)


def test_a_linear_layer_counts_the_same_whatever_stands_before_its_last_axis() -> None:
    for size in ((6, 5), (2, 3, 5), (1, 1, 6, 5)):
        found = on_meta(lambda: nn.Linear(5, 7), *size)
        assert (found.macs, found.activations, found.parameters) == (6 * 5 * 7, 6 * 7, 5 * 7 + 7)


@pytest.mark.parametrize(("name", "tokens", "width", "macs"), [
    ("vit_base_patch16_224", 197, 768, 715_327_488),
    ("vit_small_patch14_dinov2", 1370, 384, 17_297_510_400),
])  # fmt: skip
def test_attention_is_two_products_of_tokens_with_tokens(name: str, tokens: int, width: int, macs: int) -> None:
    """Scores and values: what is left of a transformer's count without its linear layers and its convolution."""
    size = PUBLISHED[name].size
    with META:
        model: Any = timm.create_model(name, num_classes=0)
    whole = complexity(model, torch.zeros(1, 3, size, size, device=META))
    for block in model.blocks:
        block.attn.forward = lambda x, attn_mask=None, of=block.attn, **_: of.proj(of.qkv(x)[..., :width])
    without = complexity(model, torch.zeros(1, 3, size, size, device=META))
    assert whole.macs - without.macs == macs == 2 * 12 * tokens * tokens * width
    heads = width // 64
    assert whole.activations - without.activations == 12 * (heads * tokens * tokens + tokens * width)


def test_lora_trains_294_912_parameters_of_vit_base_and_costs_nothing_once_merged() -> None:
    strategy = Catalog(discover()).strategy("basic/lora").component
    backbone = Catalog(discover()).backbone("timm/vit_base_patch16_224").component
    own = {"rank": 8, "alpha_ratio": 1, "lora_dropout": 0.0, "targets": "attention", "head_learning_rate_scale": 1.0}
    params = resolve(own)
    plain = of_backbone(backbone, params, 10)
    model = blueprint(backbone, params, 10)
    model.example = move(model.example, META)
    with META:
        groups = strategy.adapt(model, params)
        adapted = complexity(model, model.example)
        merged = complexity(strategy.deploy(model), model.example)
    assert sum(parameter.numel() for parameter in groups[0].parameters) == 294_912
    assert adapted.macs - plain.macs == 197 * 294_912
    assert merged == plain
    assert plain.parameters == 85_798_656 + 7_690


# What must not change a count


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_the_device_and_fused_attention_make_no_difference(name: str) -> None:
    inputs = torch.zeros(1, 3, 160, 160)
    fused = complexity(timm.create_model(name), inputs)
    assert on_meta(lambda: timm.create_model(name), 1, 3, 160, 160) == fused
    with unfused():
        assert complexity(timm.create_model(name), inputs) == fused
        assert on_meta(lambda: timm.create_model(name), 1, 3, 160, 160) == fused


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "swin_tiny_patch4_window7_224", "mixer_b16_224"])
def test_counts_grow_with_the_batch_and_are_torchs_own(name: str) -> None:
    size = 224 if "224" in name else 160
    with META:
        model = timm.create_model(name).eval()
    one, three = (complexity(model, torch.zeros(n, 3, size, size, device=META)) for n in (1, 3))
    assert (three.macs, three.activations, three.parameters) == (3 * one.macs, 3 * one.activations, one.parameters)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 3, size, size, device=META))
    assert counter.get_total_flops() == 2 * three.macs


@pytest.mark.parametrize("trainable", [True, False])
def test_torchs_own_attention_layers_take_no_way_around_the_count(trainable: bool) -> None:
    """In eval mode they call a kernel of their own, which has no formula."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).requires_grad_(trainable)
    found = complexity(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.zeros(1, 5, 16))
    assert found.macs == 2 * (5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32)
    assert found.unsupported == ()
    assert torch.backends.mha.get_fastpath_enabled()


class _Odd(nn.Module):
    """Computes what a function says."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@torch.library.custom_op("coral::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize(("function", "names"), [
    (lambda x: torch.mv(x, x[0]), ("aten.mv",)),
    (lambda x: torch.cdist(x, x).sum() + torch.fft.rfft(x).abs().sum(), ("aten._cdist_forward", "aten._fft_r2c")),
    (twice, ("coral.twice",)),
    (lambda x: functional.interpolate(x[None], scale_factor=2.0, mode="linear"), ()),
    (lambda x: functional.layer_norm(functional.gelu(x) + x.softmax(0), (4,)).cumsum(0).topk(2), ()),
])  # fmt: skip
def test_products_without_a_formula_are_named_and_other_operations_are_not(
    function: Callable[[Tensor], Any], names: tuple[str, ...]
) -> None:
    found = complexity(_Odd(function), torch.ones(4, 4))
    assert (found.unsupported, found.macs, found.activations) == (names, 0, 0)


def test_a_count_that_leaves_a_fused_layer_out_is_none_and_the_parts_of_that_layer_are_counted() -> None:
    fused = complexity(nn.LSTM(8, 16), torch.ones(5, 1, 8))
    assert fused.unsupported == ("aten.mkldnn_rnn_layer",)
    with pytest.raises(ValueError, match="mkldnn_rnn_layer"):
        in_full(fused)
    with torch.device("meta"):
        parts = complexity(nn.LSTM(8, 16), torch.ones(5, 1, 8))
    assert in_full(parts) is parts
    assert parts.macs == 5 * 4 * 16 * (8 + 16)


# Of a backbone, as it is deployed


@pytest.mark.parametrize("name", MINIATURES)
@pytest.mark.parametrize("head", ["linear", "mlp", "conv", "attention"])
def test_a_blueprint_counts_what_the_built_model_does(name: str, head: str) -> None:
    backbone = MINIATURES[name]
    params = resolve({"pool": "max", "head": head, "head_width": 12})
    built = build(backbone, params, 5, True, 0)
    found = of_backbone(backbone, params, 5)
    assert found == complexity(built, built.example)
    assert min(found.macs, found.activations) > 0
    assert found.unsupported == ()


@pytest.mark.parametrize("name", MINIATURES)
def test_a_linear_head_adds_its_product(name: str) -> None:
    body = of_features(MINIATURES[name], "native")
    whole = of_backbone(MINIATURES[name], resolve(), 5)
    width = (whole.parameters - body.parameters) // 5 - 1
    assert whole == body + Complexity(macs=width * 5, activations=5, parameters=width * 5 + 5)


def test_what_is_found_once_is_remembered_and_what_cannot_be_told_is_none() -> None:
    calls: list[str] = []

    def make() -> Complexity:
        calls.append("made")
        return of_features(tiny.Tiny(), "native")

    def refuse() -> Complexity:
        raise NotImplementedError("not on the meta device")

    known = Complexities()
    assert known.find("tiny", make) is known.find("tiny", make)
    assert calls == ["made"]
    assert known.find("other", refuse) is None
    assert known.find("other", refuse, make) == known.find("tiny", make)


def test_what_a_model_tells_in_place_of_an_operation_that_failed_is_no_count() -> None:
    """Networks of transformers that look at values tell their shape on the meta device."""

    def look(x: Tensor) -> Tensor:
        try:
            return x @ x if x.any() else x
        except RuntimeError:
            return torch.empty_like(x)

    assert complexity(_Odd(look), torch.ones(4, 4)).macs == 64
    with pytest.raises(RuntimeError, match="not all of the forward pass was counted"):
        complexity(_Odd(look), torch.ones(4, 4, device=META))


# FLOPs of training


def step(model: nn.Module, inputs: Tensor) -> None:
    torch.autograd.backward(model(inputs).square().sum())


def test_a_training_step_takes_three_forward_passes_but_for_the_gradient_of_its_input() -> None:
    model, inputs, flops = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), torch.ones(5, 8), Flops()
    assert flops.total is None
    with flops.over(inputs):
        step(model, inputs)
    first, second = 2 * 5 * 8 * 6, 2 * 5 * 6 * 4
    assert flops.total == 2 * first + 3 * second
    with flops.over(torch.ones(10, 8)):  # not looked at: twice the rows take twice as much
        pass
    assert flops.total == 3 * (2 * first + 3 * second)
    flops.restart()
    model[0].requires_grad_(False)
    with flops.over(inputs):
        step(model, inputs)
    assert flops.total == 3 * (2 * first + 3 * second) + first + 2 * second


def test_training_flops_follow_what_trains() -> None:
    """The head alone: a forward pass, and the head's gradient. Everything: all but the gradient of the image."""
    body, head = 2 * (27 * 8 + 72 * 16) * 64, 2 * 16 * 3
    stem = 2 * 27 * 8 * 64
    epoch = {"head": 90 * (body + 2 * head), "all": 90 * (3 * body - stem + 3 * head)}
    assert pieces.run(tiny.Head(), epochs=2)[1].flops == 2 * epoch["head"]
    assert pieces.run(tiny.Full(), epochs=2)[1].flops == 2 * epoch["all"]
    assert pieces.run(tiny.Thaw(), epochs=3)[1].flops == epoch["head"] + 2 * epoch["all"]


@pytest.mark.parametrize("micro_batch", [4, None])
def test_training_flops_are_those_of_torchs_counter(micro_batch: int | None) -> None:
    with FlopCounterMode(display=False) as counter:
        _, run = pieces.run(tiny.Full(), epochs=2, batch_size=20, micro_batch=micro_batch)
    forward = of_backbone(tiny.Tiny(), resolve(), 3).macs * 2
    validation = 2 * 60 * forward
    setting_up = forward - 2 * 16 * 3  # one look at the width of the features
    assert counter.get_total_flops() == run.flops + validation + setting_up


def test_an_error_inside_is_passed_on_and_the_next_batch_is_counted() -> None:
    flops, model, inputs = Flops(), nn.Linear(3, 2), torch.ones(4, 3)
    with pytest.raises(MemoryError), flops.over(inputs):
        raise MemoryError
    assert flops.total is None
    with flops.over(inputs):
        step(model, inputs)
    assert flops.total == 2 * 2 * 4 * 3 * 2


VARIED = {"dropout": 0.3, "label_smoothing": 0.1, "mixup": 0.2, "augmentation": "rand", "batch_norm": "training"}


@pytest.mark.parametrize("changes", [{}, VARIED, {"micro_batch": 3}, {"channels_last": True}])
def test_counting_changes_no_bit_of_what_is_trained(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = pieces.run(tiny.Thaw(), **changes)[0].state_dict()

    @contextmanager
    def uncounted(self: Flops, inputs: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(Flops, "over", uncounted)
    plain, run = pieces.run(tiny.Thaw(), **changes)
    assert run.flops is None
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, counted[name]), name
