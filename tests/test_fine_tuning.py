"""Trained strategies of the plugin `basic`: what trains at which rate, what stays as it is, and how they relate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pieces
import tiny
from tlbench.errors import BenchmarkError
from tlbench.evaluation.freezing import apply_groups, trainable_names
from tlbench.evaluation.heads import LinearHead
from tlbench.evaluation.model import Classifier
from tlbench.evaluation.pool import Pool
from tlbench.evaluation.predict import predict
from tlbench.evaluation.run import Run
from tlbench.spaces import Context, Params, Suggest, resolve
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.fine_tuning import FullFineTuning, ProbeThenFineTuning, Scratch, StartingPointPenalty
from tlbench_basic.lora import Lora
from tlbench_basic.subsets import BiasOnly, NormOnly
from tlbench_basic.unfreezing import GradualUnfreezing, PartialFineTuning, open_groups

CONTEXT = Context(
    modality="image", kind="convolutional", layer_groups=2, pools=tiny.Tiny.pools, classes=3, train_size=90
)
EVERYTHING = [FullFineTuning(), GradualUnfreezing(), ProbeThenFineTuning(), StartingPointPenalty(), Scratch()]
STRATEGIES: list[TrainedStrategy] = [*EVERYTHING, PartialFineTuning(), BiasOnly(), NormOnly(), Lora()]
HEAD = {"head.weight", "head.bias"}
WEIGHTS = {f"backbone.{part}.{layer}.weight" for part in ("stem", "body") for layer in (0, 1)}
BIASES = {f"backbone.{part}.{layer}.bias" for part in ("stem", "body") for layer in (0, 1)}
NORMS = {f"backbone.{part}.1.{name}" for part in ("stem", "body") for name in ("weight", "bias")}
QUIET: dict[str, Any] = {"augmentation": "none", "channels_last": False}

by_name = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)


@pytest.fixture(autouse=True)
def _recipes_for_the_tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Default recipes as the tiny backbone's context makes them."""
    monkeypatch.setattr(pieces, "recipe", recipe)


def recipe(strategy: TrainedStrategy, **changes: Any) -> dict[str, Any]:
    return resolve(strategy.defaults(CONTEXT), changes)


@final
class Watched(TrainedStrategy):
    """A strategy that keeps the model's state from before each epoch, and its own copy of what trains."""

    name = "watched"
    summary = "another strategy, watched"

    def __init__(self, strategy: TrainedStrategy) -> None:
        self.strategy = strategy
        self.states: list[dict[str, Tensor]] = []
        self.trainable: list[set[str]] = []

    def defaults(self, context: Context) -> Params:
        return self.strategy.defaults(context)

    def space(self, trial: Suggest, context: Context) -> Params:
        raise AssertionError

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        return self.strategy.adapt(model, params)

    def begin_epoch(self, model: Any, params: Params, epoch: int, epochs: int) -> Sequence[ParameterGroup] | None:
        groups = self.strategy.begin_epoch(model, params, epoch, epochs)
        self.states.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        if groups is not None:
            apply_groups(model, groups)
        self.trainable.append(trainable_names(model))
        return groups

    def penalty(self, model: Any, params: Params) -> Tensor | None:
        return self.strategy.penalty(model, params)

    def moved(self, epoch: int) -> set[str]:
        """Names of all tensors, buffers included, that `epoch` changed."""
        before, after = self.states[epoch], self.states[epoch + 1]
        return {name for name in before if not torch.equal(before[name], after[name])}


def watch(strategy: TrainedStrategy, *, epochs: int = 3, **changes: Any) -> tuple[Watched, Run]:
    """Train for one epoch more than can be asked about."""
    watched = Watched(strategy)
    _, run = pieces.run(watched, epochs=epochs, **{**QUIET, **changes})
    return watched, run


def logits(run: Run) -> np.ndarray:
    assert run.validation_logits is not None
    return run.validation_logits


def layered(groups: int = 5) -> Classifier:
    """A classifier over linear layers, one per layer group."""
    backbone = nn.Sequential(*(nn.Linear(4, 4) for _ in range(groups)))
    names = [[f"{index}.weight", f"{index}.bias"] for index in range(groups)]
    return Classifier(backbone, Pool("native", "NLC", 0), LinearHead(4, 3), names)


def rates(model: Classifier, groups: Sequence[ParameterGroup]) -> dict[str, float]:
    """The rate's factor by parameter name; fails for a parameter in two groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(names[id(parameter)], group.learning_rate_scale) for group in groups for parameter in group.parameters]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def rates_by_layer(strategy: TrainedStrategy, **changes: Any) -> list[float | None]:
    """The rate's factor of each layer of `layered`, then of the head; None is frozen."""
    model = layered()
    context = Context(modality="image", kind=None, layer_groups=5, pools=("native",), classes=3, train_size=9)
    found = rates(model, strategy.adapt(model, resolve(strategy.defaults(context), changes)))
    for name in ("weight", "bias"):
        layers = [f"backbone.{index}.{name}" for index in range(5)]
        values = [found.get(name) for name in [*layers, f"head.{name}"]]
    return values


# What trains


@by_name
def test_exactly_what_is_documented_trains_and_the_rest_stays_bit_by_bit(strategy: TrainedStrategy) -> None:
    """Parameters and buffers, after three epochs; of what trains, every tensor moves."""
    rate = {"learning_rate": 1e-2}
    changes = {"frozen_blocks": 1} if strategy.name == "partial" else {}
    watched, run = watch(strategy, epochs=4, **rate, **changes, batch_norm="frozen")
    additions = {name for name in watched.states[0] if ".lora_" in name}
    expected = {
        "partial": {name for name in WEIGHTS | BIASES if ".body." in name} | HEAD,
        "bias-only": BIASES | HEAD,
        "norm-only": NORMS | HEAD,
        "lora": additions | HEAD,
    }.get(strategy.name, WEIGHTS | BIASES | HEAD)
    assert len(expected) > len(HEAD)
    assert watched.trainable[-1] == expected
    moved = watched.moved(0) | watched.moved(1) | watched.moved(2)
    assert moved == expected
    assert run.frozen["parameters_changed"] is run.frozen["buffers_changed"] is False


@by_name
def test_a_rate_of_0_changes_nothing(strategy: TrainedStrategy) -> None:
    watched, run = watch(strategy, epochs=2, learning_rate=0.0, batch_norm="frozen")
    assert watched.moved(0) == set()
    of = pieces.samples()
    expected = predict(pieces.model(**QUIET), of.validation, tiny.Tiny().preprocess, pieces.CPU)
    np.testing.assert_allclose(logits(run), expected, rtol=0, atol=1e-6)
    accuracy = float((expected.argmax(1) == of.validation.part.labels).mean())
    assert [point.search_score for point in run.curve] == [accuracy, accuracy]


@by_name
def test_it_learns(strategy: TrainedStrategy) -> None:
    """Three colours: chance is a third. Of five seeds the worst reaches 0.82, with norms alone."""
    changes = {"frozen_blocks": 1} if strategy.name == "partial" else {}
    _, run = pieces.run(strategy, epochs=20, **{**QUIET, **changes, "learning_rate": 1e-2, "batch_size": 16})
    assert max(point.search_score or 0.0 for point in run.curve) > 0.75


@by_name
def test_batch_norm_statistics_are_the_recipes_affair(strategy: TrainedStrategy) -> None:
    """They move only where the recipe says so, and only in layers that train."""
    changes: dict[str, dict[str, Any]] = {
        "partial": {"frozen_blocks": 1},
        "gradual-unfreeze": {"unfreeze_fraction": 0.0},
    }
    watched, _ = watch(strategy, epochs=2, **changes.get(strategy.name, {}), batch_norm="training")
    moved = {name for name in watched.moved(0) if "running_" in name}
    stem, body = ({f"backbone.{part}.1.running_{what}" for what in ("mean", "var")} for part in ("stem", "body"))
    assert moved == ({"partial": body, "lora": set()}.get(strategy.name, stem | body))


@by_name
def test_a_pool_with_a_parameter_trains_with_the_head(strategy: TrainedStrategy) -> None:
    model = pieces.model(**QUIET)
    model.pool = Pool("gem", "NCHW", 0)
    found = rates(model, strategy.adapt(model, recipe(strategy)))
    assert found["pool.exponent"] == found["head.weight"] == found["head.bias"]


# Rates


def test_layer_decay_counts_from_the_top_layer_group() -> None:
    for strategy in (FullFineTuning(), ProbeThenFineTuning()):
        found = rates_by_layer(strategy, layer_decay=0.5, head_learning_rate_scale=3.0)
        assert found == [0.0625, 0.125, 0.25, 0.5, 1.0, 3.0]


def test_layer_decay_none_is_off_and_0_is_not() -> None:
    """The trap: 0 is a rate of 0 below the top layer group."""
    found = [rates_by_layer(FullFineTuning(), layer_decay=decay) for decay in (None, 1.0, 0.0)]
    assert found == [[1.0] * 5 + [10.0], [1.0] * 5 + [10.0], [0.0] * 4 + [1.0, 10.0]]
    watched, _ = watch(FullFineTuning(), epochs=2, layer_decay=0.0)
    assert watched.moved(0) == {name for name in WEIGHTS | BIASES if ".body." in name} | HEAD
    assert watched.trainable[0] == WEIGHTS | BIASES | HEAD


@pytest.mark.parametrize(
    "strategy",
    [FullFineTuning(), PartialFineTuning(), StartingPointPenalty(), GradualUnfreezing()],
    ids=lambda strategy: strategy.name,
)
def test_the_head_learns_at_its_own_multiple(strategy: TrainedStrategy) -> None:
    model = layered()
    params = recipe(strategy, head_learning_rate_scale=3.0)
    found = rates(model, strategy.adapt(model, params))
    assert {found[name] for name in HEAD} == {3.0}
    assert {scale for name, scale in found.items() if name not in HEAD} <= {1.0}


# Partial


def test_no_frozen_layer_is_full_fine_tuning() -> None:
    """The same curve and logits from the same recipe, and the same rates."""
    same: dict[str, Any] = {**QUIET, "learning_rate": 3e-3}
    _, full = pieces.run(FullFineTuning(), **same)
    _, partial = pieces.run(PartialFineTuning(), frozen_blocks=0, **same)
    losses = [[point.train_loss or 0.0 for point in run.curve] for run in (full, partial)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits(partial), logits(full), rtol=0, atol=1e-5)
    assert losses[0][-1] < losses[0][0]
    assert rates_by_layer(PartialFineTuning(), frozen_blocks=0) == rates_by_layer(FullFineTuning())


def test_frozen_layers_are_counted_from_the_input() -> None:
    found = rates_by_layer(PartialFineTuning(), frozen_blocks=3, head_learning_rate_scale=3.0)
    assert found == [None, None, None, 1.0, 1.0, 3.0]
    assert rates_by_layer(PartialFineTuning()) == [*found[:-1], 10.0]  # three fifths of five


def test_all_layers_frozen_is_the_head_alone() -> None:
    assert rates_by_layer(PartialFineTuning(), frozen_blocks=5) == [None] * 5 + [10.0]
    watched, _ = watch(PartialFineTuning(), epochs=2, frozen_blocks=2)
    assert watched.trainable[0] == watched.moved(0) == HEAD
    model = pieces.model()
    assert rates(model, PartialFineTuning().adapt(model, recipe(PartialFineTuning(), frozen_blocks=2))).keys() == HEAD


@pytest.mark.parametrize("frozen", [6, -1, 2.0, True, None, "all"])
def test_frozen_layers_that_are_not_there_are_refused(frozen: Any) -> None:
    with pytest.raises(BenchmarkError, match=r"frozen_blocks = .*: a whole number from 0 to 5 is needed"):
        rates_by_layer(PartialFineTuning(), frozen_blocks=frozen)


# Gradual unfreezing


@pytest.mark.parametrize(
    ("groups", "epochs", "fraction", "expected"),
    [
        (4, 8, 0.5, [0, 1, 2, 3, 4, 4, 4, 4]),
        (2, 8, 0.5, [0, 0, 1, 1, 2, 2, 2, 2]),
        (10, 4, 1.0, [0, 3, 6, 10]),  # more layer groups than epochs
        (10, 4, 0.5, [0, 5, 10, 10]),
        (4, 5, 1.0, [0, 1, 2, 3, 4]),  # one layer group per epoch, as in ULMFiT
        (4, 3, 0.0, [4, 4, 4]),
        (4, 2, 1.0, [0, 4]),
        (4, 1, 1.0, [4]),
        (4, 1, 0.5, [4]),
    ],
)
def test_layer_groups_open_from_the_top_in_even_steps(
    groups: int, epochs: int, fraction: float, expected: list[int]
) -> None:
    assert [open_groups(groups, epoch, epochs, fraction) for epoch in range(epochs)] == expected


def test_everything_is_open_in_time_whatever_the_numbers() -> None:
    for groups in range(1, 14):
        for epochs in range(1, 14):
            for fraction in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
                found = [open_groups(groups, epoch, epochs, fraction) for epoch in range(epochs)]
                assert found == sorted(found)
                assert found[-1] == groups
                assert all(opened == groups for opened in found[round(fraction * epochs) :])
                assert found[0] == (groups if round(fraction * epochs) == 0 or epochs == 1 else 0)


def test_gradual_unfreezing_trains_what_is_open_and_nothing_else() -> None:
    """From the head down, with the discriminative rates of full fine-tuning."""
    strategy, model = GradualUnfreezing(), layered()
    params = recipe(strategy, layer_decay=0.5, head_learning_rate_scale=1.0, unfreeze_fraction=1.0)
    assert rates(model, strategy.adapt(model, params)).keys() == HEAD
    found = [strategy.begin_epoch(model, params, epoch, 6) for epoch in range(6)]
    assert found[0] is None
    for opened, groups in enumerate(found[1:], start=1):
        assert groups is not None
        by_layer = {
            f"backbone.{4 - depth}.{name}": 0.5**depth for depth in range(opened) for name in ("weight", "bias")
        }
        assert rates(model, groups) == {**by_layer, **dict.fromkeys(HEAD, 1.0)}
    assert all(strategy.begin_epoch(model, params, epoch, 20) is None for epoch in (1, 2, 3, 5))
    groups = strategy.begin_epoch(model, params, 0, 1)
    assert groups is not None
    assert len(rates(model, groups)) == 12


def test_gradual_unfreezing_moves_exactly_what_is_open() -> None:
    watched, run = watch(GradualUnfreezing(), epochs=5, unfreeze_fraction=0.8, learning_rate=1e-2)
    body = {name for name in WEIGHTS | BIASES if ".body." in name}
    expected = [HEAD, HEAD, body | HEAD, body | HEAD]
    assert [watched.moved(epoch) for epoch in range(4)] == expected
    assert watched.trainable == [*expected, WEIGHTS | BIASES | HEAD]
    assert len(run.curve) == 5


# L2-SP


def values(module: nn.Module) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in module.parameters()]


def test_the_penalty_is_that_of_the_paper() -> None:
    """Value and gradient, against numpy."""
    strategy, model = StartingPointPenalty(), layered(2)
    params = recipe(strategy, alpha=0.3, beta=0.07)
    strategy.adapt(model, params)
    start = values(model.backbone)
    head = sum(float((value**2).sum()) for value in values(model.head))
    assert strategy.penalty(model, params).item() == pytest.approx(0.07 / 2 * head, rel=1e-5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    way = [after - before for after, before in zip(values(model.backbone), start, strict=True)]
    penalty = strategy.penalty(model, params)
    expected = 0.3 / 2 * sum(float((step**2).sum()) for step in way) + 0.07 / 2 * head
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(penalty)
    for parameter, step in zip(model.backbone.parameters(), way, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), 0.3 * step, atol=1e-6)
    for parameter in model.head.parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), 0.07 * parameter.detach().numpy(), atol=1e-6)


def test_a_huge_penalty_holds_the_weights_at_the_start() -> None:
    """SGD at a rate that the penalty's curvature allows: twenty times nearer than without."""

    def distance(alpha: float) -> float:
        settings = {"optimiser": "sgd", "clip_norm": None, "learning_rate": 1e-2, "alpha": alpha}
        watched, _ = watch(StartingPointPenalty(), epochs=4, **settings)
        first, last = watched.states[0], watched.states[-1]
        return float(torch.cat([(last[name] - first[name]).flatten() for name in WEIGHTS | BIASES]).norm())

    assert distance(50.0) < distance(0.0) / 20


def test_the_start_is_no_part_of_the_model_and_follows_it() -> None:
    strategy, model = StartingPointPenalty(), layered()
    names = list(model.state_dict())
    strategy.adapt(model, params := recipe(strategy))
    assert list(model.state_dict()) == names
    assert len(list(model.parameters())) == len(names)
    assert strategy.penalty(model.to("meta"), params).device.type == "meta"
    assert strategy.deploy(model) is model
    assert not hasattr(strategy.deploy(model), "starting_point")


@pytest.mark.parametrize("changes", [{"alpha": -1.0}, {"beta": "0.1"}, {"alpha": None}])
def test_penalties_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    strategy, model = StartingPointPenalty(), layered()
    strategy.adapt(model, params := recipe(strategy, **changes))
    with pytest.raises(BenchmarkError, match=f"{next(iter(changes))} = .*: a number from 0 to 1e\\+12 is needed"):
        strategy.penalty(model, params)


# LP-FT


def test_lp_ft_is_full_fine_tuning_from_the_probes_head() -> None:
    """The engine sets the head; the rest is the same training with the same rate for all."""
    changes: dict[str, Any] = {"learning_rate": 3e-3, "head_start": "random", "head_learning_rate_scale": 1.0}
    _, one = pieces.run(ProbeThenFineTuning(), **changes)
    _, two = pieces.run(FullFineTuning(), **changes)
    assert np.array_equal(logits(one), logits(two))
    assert rates_by_layer(ProbeThenFineTuning()) == [1.0] * 6


# Biases and norms


class Bare(nn.Module):
    """Modules in a row, as a backbone."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)


def chosen(strategy: TrainedStrategy, backbone: nn.Module) -> set[str]:
    """Names of the backbone's parameters that the strategy trains."""
    model = Classifier(backbone, Pool("native", "NLC", 0), LinearHead(4, 3), [])
    found = rates(model, strategy.adapt(model, recipe(strategy)))
    assert found.keys() >= HEAD
    return {name.removeprefix("backbone.") for name in found.keys() - HEAD}


def test_biases_are_known_by_their_own_names() -> None:
    attention = nn.MultiheadAttention(4, 2)
    table = nn.Module()
    table.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
    table.bias = nn.Embedding(3, 4)
    table.q_bias = nn.Parameter(torch.zeros(4))
    names = {"parts.0.in_proj_bias", "parts.0.out_proj.bias", "parts.1.q_bias", "parts.2.bias"}
    assert chosen(BiasOnly(), Bare(attention, table, nn.LayerNorm(4))) == names


def test_a_backbone_without_biases_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="no biases to train"):
        chosen(BiasOnly(), Bare(nn.Linear(4, 4, bias=False), nn.RMSNorm(4)))


def test_norms_of_torch_timm_and_transformers_are_known() -> None:
    from timm.layers import BatchNormAct2d, GroupNorm1, LayerNorm2d, RmsNorm
    from transformers.models.mobilebert.modeling_mobilebert import NoNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    own = [nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm2d(4, affine=True)]
    theirs = [BatchNormAct2d(4), GroupNorm1(4), LayerNorm2d(4), RmsNorm(4), T5LayerNorm(4), NoNorm(4)]
    shaped = nn.LayerNorm((3, 4, 4))
    for module in (*own, *theirs, shaped):
        backbone = Bare(nn.Conv2d(3, 4, 1), module)
        expected = {f"parts.1.{name}" for name, _ in module.named_parameters()}
        assert expected
        assert chosen(NormOnly(), backbone) == expected, module


def test_what_only_looks_like_a_norm_is_not_taken_for_one() -> None:
    """A convolution in a `ConvNormAct`, the gain of a `NormFreeBlock`, a linear layer with normalised weights."""
    from timm.layers import ConvNormAct
    from timm.models.nfnet import NormFreeBlock

    class NormalisedLinear(nn.Linear):
        pass

    class NormedLinear(nn.Linear):
        pass

    assert chosen(NormOnly(), Bare(ConvNormAct(3, 4))) == {"parts.0.bn.weight", "parts.0.bn.bias"}
    free = Bare(
        NormFreeBlock(4, 4, skipinit=True, act_layer=nn.ReLU),
        NormalisedLinear(4, 4),
        NormedLinear(4, 4),
        nn.LocalResponseNorm(2),
    )
    with pytest.raises(BenchmarkError, match="no normalisation layer with parameters"):
        chosen(NormOnly(), free)


def test_a_norm_that_occurs_twice_trains_once() -> None:
    norm = nn.LayerNorm(4)
    again = nn.LayerNorm(4)
    again.weight = norm.weight
    assert chosen(NormOnly(), Bare(norm, again)) == {"parts.0.weight", "parts.0.bias", "parts.1.bias"}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        (FullFineTuning(), {"layer_decay": -0.1}),
        (FullFineTuning(), {"layer_decay": 1.1}),
        (FullFineTuning(), {"layer_decay": False}),
        (BiasOnly(), {"head_learning_rate_scale": -1.0}),
        (GradualUnfreezing(), {"head_learning_rate_scale": "10"}),
    ],
)
def test_parameters_of_their_own_are_checked(strategy: TrainedStrategy, changes: dict[str, Any]) -> None:
    with pytest.raises(BenchmarkError, match=f"parameter {next(iter(changes))} = .* is needed"):
        strategy.adapt(pieces.model(**QUIET), recipe(strategy, **changes))


def test_the_unfreezing_fraction_is_checked() -> None:
    with pytest.raises(BenchmarkError, match=r"unfreeze_fraction = 2: a number from 0 to 1 is needed"):
        pieces.run(GradualUnfreezing(), unfreeze_fraction=2, **QUIET)
