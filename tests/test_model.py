"""Models: pools against plain arithmetic, widths that are seen and not believed, fresh parts from their own seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pieces
import tiny
from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.evaluation.heads import ConvHead, LinearHead, MlpHead
from tlbench.evaluation.model import Classifier, build, move, rows, shape
from tlbench.plugins import discover
from tlbench.spaces import resolve


def unpooled(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "width", "num_features"),
    [("vgg11", 4096, 512), ("mobilenetv3_large_100", 1280, 960), ("mobilenetv3_small_100", 1024, 576)],
)
def test_the_width_is_what_a_forward_pass_gives(name: str, width: int, num_features: int) -> None:
    """Pitfall 8: `num_features` is not the head's input for these."""
    backbone = Catalog(discover()).backbone(f"timm/{name}").component
    with torch.device("meta"):
        module = backbone.load(pretrained=False)
    assert module.num_features == num_features
    seen = shape(backbone)
    assert seen.width == width
    assert seen.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert seen.layer_groups == len(backbone.layers(module))


def test_the_head_has_the_width_of_the_pool() -> None:
    assert sum(parameter.numel() for parameter in pieces.model().head.parameters()) == 16 * 3 + 3
    assert sum(parameter.numel() for parameter in pieces.model(pool="avg+max").head.parameters()) == 32 * 3 + 3
    assert shape(tiny.Tiny()).width == 16


def test_fresh_parts_come_from_their_own_seeds() -> None:
    """Pitfall 18: what the backbone draws does not move the head, and building moves no generator of the caller."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    scratch: Any = pieces.model(pretrained=False)
    again: Any = pieces.model(pretrained=False)
    pretrained: Any = pieces.model()
    other: Any = pieces.model(pretrained=False, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in scratch.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert torch.equal(scratch.head.weight, pretrained.head.weight)
    assert not torch.equal(scratch.backbone.stem[0].weight, pretrained.backbone.stem[0].weight)
    assert not torch.equal(scratch.backbone.stem[0].weight, other.backbone.stem[0].weight)
    assert not torch.equal(scratch.head.weight, other.head.weight)


def test_looking_at_the_width_moves_no_statistics() -> None:
    model: Any = pieces.model()
    assert model.training
    assert int(model.backbone.stem[1].num_batches_tracked) == 0


@pytest.mark.parametrize(("head", "kind"), [("linear", LinearHead), ("mlp", MlpHead), ("conv", ConvHead)])
def test_a_recipe_may_ask_for_any_head(head: str, kind: type[nn.Module]) -> None:
    model = pieces.model(head=head, head_width=5)
    assert isinstance(model.head, kind)
    assert model(unpooled(2, 3, 8, 8)).shape == (2, 3)


def test_a_head_that_pools_sees_the_features_before_any_pool() -> None:
    """Attention over positions: the order of pixels does not matter, what they hold does."""
    model: Any = pieces.model(head="attention").eval()
    inputs = unpooled(2, 3, 8, 8)
    features = model.backbone.forward_features(inputs)
    mixed = features.flatten(2)[..., torch.randperm(64)].reshape(features.shape)
    model.backbone.forward_features = lambda _: mixed
    shuffled = model(inputs)
    del model.backbone.forward_features
    torch.testing.assert_close(model(inputs), shuffled, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(inputs), model(2 * inputs))


@pytest.mark.parametrize(("size", "axes"), [((64, 64), 2), ((128, 32), 1)])
def test_patches_of_a_rectangle_are_no_square_though_they_be_as_many(size: tuple[int, int], axes: int) -> None:
    """16 patches either way: 4 x 4 are a map; 8 x 2, read as one, would get other neighbours."""
    vit = Catalog(discover()).backbone("timm/test_vit").component
    backbone = vit.derive(name="mine/vit", weights=None, options={}, preprocess={"size": list(size)})
    model: Any = build(backbone, resolve({"head": "conv", "head_width": 5}), 3, False, 0)
    inputs = unpooled(2, 3, *size)
    assert model.backbone.forward_features(inputs).shape[1] == 16 + backbone.prefix_tokens
    assert model.head.axes == axes
    assert model(inputs).shape == (2, 3)


def test_stochastic_depth_is_for_backbones_that_have_it() -> None:
    with pytest.raises(BenchmarkError, match="'net' has no stochastic depth"):
        pieces.model(drop_path=0.1)
    backbone = Catalog(discover()).backbone("timm/resnet18").component
    assert backbone.drop_path
    dropping = build(backbone, resolve({"drop_path": 0.2}), 3, False, 0)
    plain = build(backbone, resolve(), 3, False, 0)
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    rates = [float(part.drop_prob) for part in dropping.modules() if type(part).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2)
    assert not Catalog(discover()).backbone("timm/vgg11").component.drop_path


def test_a_pool_that_the_backbone_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(BenchmarkError, match=r"no pool 'cls': native, avg, max, avg\+max"):
        pieces.model(pool="cls")


class _Odd(Backbone):
    """Breaks one promise of the contract."""

    name, summary, modality = "odd", "odd", "image"
    preprocess = tiny.Tiny().preprocess

    def __init__(self, groups: Sequence[Sequence[str]] | None, head: Any = None) -> None:
        self.groups, self.head = groups, head

    def weights(self) -> str:
        return "random"

    def load(self, pretrained: bool) -> nn.Module:
        net = tiny.Net()
        if self.head is not None:
            net.forward_head = self.head  # type: ignore[method-assign]
        return net

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        return [[name for name, _ in module.named_parameters()]] if self.groups is None else self.groups


@pytest.mark.parametrize("groups", [[], [["stem.0.weight"]], [["stem.0.weight", "no.such"]]])
def test_layers_name_every_parameter_once(groups: list[list[str]]) -> None:
    with pytest.raises(PluginError, match=r"'odd'.*every parameter exactly once"):
        build(_Odd(groups), resolve(), 3, False, 0)
    twice = [[name for name, _ in tiny.Net().named_parameters()]] * 2
    with pytest.raises(PluginError, match="exactly once"):
        build(_Odd(twice), resolve(), 3, False, 0)


def test_features_that_are_not_one_vector_per_sample_are_refused() -> None:
    with pytest.raises(PluginError, match=r"'odd': pooled features have shape \(1, 16, 8, 8\)"):
        build(_Odd(None, lambda values, pre_logits: values), resolve(), 3, False, 0)


def test_a_classifier_is_its_parts() -> None:
    model: Any = pieces.model().eval()
    assert isinstance(model, Classifier)
    backbone: Any = model.backbone
    inputs = unpooled(2, 3, 8, 8)
    expected = model.head(backbone.forward_features(inputs).mean((2, 3)))
    torch.testing.assert_close(model(inputs), expected)
    torch.testing.assert_close(model.head(model.features(inputs)), expected)


def test_inputs_may_be_tensors_by_name() -> None:
    inputs = {"ids": torch.arange(6).reshape(3, 2), "mask": torch.ones(3, 2)}
    assert {name: tensor.tolist() for name, tensor in rows(inputs, 1, 2).items()} == {"ids": [[2, 3]], "mask": [[1, 1]]}
    assert move(inputs, torch.device("meta"))["ids"].device.type == "meta"
    assert torch.equal(rows(inputs["ids"], 0, 2), inputs["ids"][:2])
