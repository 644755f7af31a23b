"""The cut: found where the trained part begins, moved or refused where anything else flows past it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pieces
from tlbench.evaluation.freezing import train_mode
from tlbench.evaluation.heads import LinearHead
from tlbench.evaluation.model import Classifier
from tlbench.evaluation.pool import Pool
from tlbench.evaluation.proof import find_cut, skipping

WIDTH = 6


class Net(nn.Module):
    """A way through linear layers `a`, `b` and `c`, as the test says."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.token = nn.Parameter(torch.ones(WIDTH))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.way(self, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        assert pre_logits
        return x


def classifier(net: nn.Module, *trained: str) -> Classifier:
    torch.manual_seed(1)
    model = Classifier(net, Pool("native", "NCHW", 0), LinearHead(WIDTH, 3))
    for name, parameter in model.named_parameters():
        chosen = name.startswith(("head.", *(f"backbone.{part}" for part in trained)))
        parameter.requires_grad_(chosen)
    return model


def inputs() -> Tensor:
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2))


def found(net: nn.Module, *trained: str, batch_norm: str = "frozen") -> str | None:
    """The name of the cut, which has been shown to give the same logits; None where there is none."""
    model = classifier(net, *trained)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    cut = find_cut(model, inputs(), batch_norm, pieces.CPU)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training
    if cut is None:
        return None
    with torch.no_grad():
        activation = cut.reach(inputs())
        for _ in range(2):
            torch.testing.assert_close(cut.logits(skipping(inputs()), activation.clone()), model(inputs()))
    return cut.name


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, None, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y, None, 2 * y


@dataclass
class Output:
    hidden: Tensor


class Wrapped(nn.Linear):
    def forward(self, x: Tensor) -> Output:  # type: ignore[override]
        return Output(super().forward(x))


class Forgetful(nn.Module):
    """Gives something else every time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(WIDTH, WIDTH), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * self.inner(x)


class Named(nn.Module):
    """Takes its tensor by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, scale: float, *, hidden: Tensor) -> Tensor:
        return scale * self.inner(hidden)


def straight(net: Any, x: Tensor) -> Tensor:
    return net.c(net.b(net.a(x)))


def by_way_of(name: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: net.c(net.b(getattr(net, name)(net.a(x))))


@pytest.mark.parametrize(
    ("net", "trained", "name"),
    [
        (Net(straight), ["a"], None),
        (Net(straight), ["b"], "backbone.b"),
        (Net(straight), ["b.bias"], "backbone.b"),
        (Net(straight), ["c"], "backbone.c"),
        (Net(straight), [], "head"),
        (Net(by_way_of("block"), block=Shortcut()), ["block.norm"], "backbone.block"),
        (Net(by_way_of("block"), block=Shortcut()), ["block.inner"], "backbone.block"),
        (
            Net(by_way_of("block"), block=nn.Sequential(nn.Identity(), Shortcut())),
            ["block.1.inner"],
            "backbone.block.1",
        ),
        (Net(lambda net, x: net.b(net.pair(net.a(x))[0]), pair=Pair(WIDTH, WIDTH)), ["b"], "backbone.b"),
        (Net(lambda net, x: net.b(net.a(net.a(x)))), ["b"], "backbone.b"),
        (Net(lambda net, x: net.b(net.b(net.a(x)))), ["b"], "backbone.b"),
        (Net(lambda net, x: net.act(net.b(net.act(net.a(x)))), act=nn.Tanh()), ["b"], "backbone.b"),
        (
            Net(by_way_of("block"), block=nn.Sequential(nn.ReLU(inplace=True), Shortcut())),
            ["block"],
            "backbone.block.1",
        ),
        (Net(lambda net, x: net.named(2.0, hidden=net.a(x)), named=Named()), ["named"], "backbone.named.inner"),
        (Net(lambda net, x: net.b(net.a(x) + net.token)), ["b"], "backbone.b"),
    ],
)
def test_found(net: nn.Module, trained: list[str], name: str | None) -> None:
    assert found(net, *trained) == name


def past(gate: float) -> Callable[[Any, Tensor], Tensor]:
    def way(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x)
        return net.c(hidden) + gate * hidden

    return way


@pytest.mark.parametrize(
    ("net", "trained"),
    [
        pytest.param(Net(past(1.0)), ["c"], id="shortcut around everything"),
        pytest.param(Net(past(1e-20)), ["c"], id="shortcut too weak for logits to show"),
        pytest.param(Net(past(0.0)), ["c"], id="shortcut closed as yet"),
        pytest.param(Net(lambda net, x: net.c(net.a(x)) + x), ["c"], id="inputs"),
        pytest.param(Net(lambda net, x: net.b(net.a(x) + net.token)), ["token", "b"], id="trained without a module"),
        pytest.param(Net(by_way_of("forgetful"), forgetful=Forgetful()), ["b"], id="own state"),
        pytest.param(Net(lambda net, x: net.b(net.a(x) - net.a(x).mean(0))), ["b"], id="other samples matter"),
        pytest.param(Net(by_way_of("drop"), drop=nn.Dropout(0.5)), ["b"], id="dropout before the cut"),
        pytest.param(
            Net(lambda net, x: net.b(functional.dropout(net.a(x), 0.5, net.training))), ["b"], id="functional dropout"
        ),
        pytest.param(Net(lambda net, x: net.c(net.a(x)) if net.training else x), ["c"], id="not called"),
        pytest.param(Net(lambda net, x: net.b(net.a(x).mul_(2))), ["b"], id="written to"),
        pytest.param(Net(lambda net, x: net.b(net.a(x).flatten())[None]), ["b"], id="no axis of samples"),
        pytest.param(
            Net(lambda net, x: net.b(net.wrapped(net.a(x)).hidden), wrapped=Wrapped(WIDTH, WIDTH)),
            ["b"],
            id="half of what is before returns nothing that can be filled",
        ),
    ],
)
def test_refused(net: nn.Module, trained: list[str]) -> None:
    assert found(net, *trained) is None


@pytest.mark.parametrize(("batch_norm", "name"), [("frozen", "backbone.b"), ("training", None)])
def test_batch_statistics_before_the_cut_must_not_train(batch_norm: str, name: str | None) -> None:
    """A batch norm without parameters is not part of what a strategy freezes."""
    net = Net(by_way_of("norm"), norm=nn.BatchNorm1d(WIDTH, affine=False))
    assert found(net, "b", batch_norm=batch_norm) == name


def test_what_has_two_users_is_computed_and_the_rest_skipped() -> None:
    """As rotary position embeddings are, which every layer takes."""

    def way(net: Any, x: Tensor) -> Tensor:
        turn = net.position(net.token)
        return net.c(net.b(net.a(x)) * turn) * turn

    model = classifier(Net(way, position=nn.Linear(WIDTH, WIDTH)), "c")
    cut = find_cut(model, inputs(), "frozen", pieces.CPU)
    assert cut is not None
    assert {call.name for call, _ in cut.skipped} == {"backbone.a", "backbone.b"}


def test_gradients_and_dropout_behind_the_cut_are_those_of_the_whole() -> None:
    model = classifier(Net(lambda net, x: functional.dropout(net.b(net.a(x)), 0.5, net.b.training)), "b")
    cut = find_cut(model, inputs(), "frozen", pieces.CPU)
    assert cut is not None
    activation = cut.reach(inputs()).detach()
    train_mode(model, "frozen")
    gradients = []
    for logits in (lambda: model(inputs()), lambda: cut.logits(skipping(inputs()), activation)):
        torch.manual_seed(3)
        model.zero_grad()
        logits().square().sum().backward()
        gradients.append(model.backbone.b.weight.grad.clone())  # type: ignore[union-attr]
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_the_frozen_part_is_known_by_its_tensors() -> None:
    model = classifier(Net(straight), "c")
    cut = find_cut(model, inputs(), "frozen", pieces.CPU)
    assert cut is not None
    names = {name for name, _ in cut.frozen_tensors}
    assert names == {"backbone.token", *(f"backbone.{layer}.{of}" for layer in "ab" for of in ("weight", "bias"))}
