"""Models: pools against plain arithmetic, widths that are seen and not believed, fresh parts from their own seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pieces
import tiny
from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.errors import BenchmarkError, PluginError
from tlbench.evaluation.model import Classifier, LinearHead, Pool, build, move, rows, shape
from tlbench.plugins import discover
from tlbench.spaces import resolve


def unpooled(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layout", "axes"), [("NCHW", (2, 3)), ("NHWC", (1, 2))])
def test_spatial_pools(layout: str, axes: tuple[int, int]) -> None:
    values = unpooled(2, 3, 4, 5)
    for name, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = Pool(name, layout, 0)(nn.Identity(), values)
        np.testing.assert_allclose(pooled.numpy(), reduce(values.numpy(), axis=axes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_token_pools_leave_the_prefix_out(prefix: int) -> None:
    values = unpooled(2, 7, 4)
    array = values.numpy()
    pooled = {name: Pool(name, "NLC", prefix)(nn.Identity(), values).numpy() for name in ("cls", "avg", "max")}
    np.testing.assert_array_equal(pooled["cls"], array[:, 0])
    np.testing.assert_allclose(pooled["avg"], array[:, prefix:].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled["max"], array[:, prefix:].max(1))
    both = Pool("cls+avg", "NLC", prefix)(nn.Identity(), values).numpy()
    np.testing.assert_array_equal(both, np.concatenate([pooled["cls"], pooled["avg"]], axis=1))


def test_the_native_pool_is_the_models_own() -> None:
    net = tiny.Net()
    values = unpooled(2, 16, 8, 8)
    assert torch.equal(Pool("native", "NCHW", 0)(net, values), net.forward_head(values, pre_logits=True))


def test_the_head_drops_out_in_training_alone_and_is_stored_as_a_plain_linear_map() -> None:
    head, plain = LinearHead(16, 3, dropout=0.5), nn.Linear(16, 3)
    plain.load_state_dict(head.state_dict())
    values = unpooled(4, 16)
    assert torch.equal(head.eval()(values), plain(values))
    assert not torch.equal(head.train()(values), plain(values))


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
