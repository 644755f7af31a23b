"""The optimiser: what decays, how the rate moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tlbench.evaluation.optimiser import Schedule, build_optimiser, clip, set_rate
from tlbench.spaces import resolve
from tlbench.strategies import ParameterGroup


def optimiser(**changes: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.LayerNorm(2))
    return model, build_optimiser([ParameterGroup(list(model.parameters()))], resolve(changes))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_are_not_decayed(name: str) -> None:
    model, built = optimiser(optimiser=name, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
    names = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name for name, value in names.items() if value == 0.1} == {"0.weight", "2.weight"}
    assert len(names) == 8


def test_scales_multiply_the_rate() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [ParameterGroup(list(one.parameters()), 0.0), ParameterGroup(list(two.parameters()), 0.5)]
    built = build_optimiser(groups, resolve({"learning_rate": 1e-2}))
    set_rate(built, 1.0)
    assert {group["lr"] for group in built.param_groups} == {0.0, 5e-3}


def test_the_rate_rises_linearly_and_falls_like_torchs_cosine() -> None:
    steps, warmup = 40, 0.25
    cosine = Schedule(kind="cosine", warmup=warmup, peak_rate=1.0, steps_per_epoch=10, epochs=4)
    factors = [cosine.factor(step) for step in range(steps)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=30)
    for step in range(10, steps):
        assert factors[step] == pytest.approx(reference.param_groups[0]["lr"], abs=1e-6)
        reference.step()
        schedule.step()


def wsd(epochs: int, warmup: float = 0.05, steps_per_epoch: int = 10, peak_rate: float = 3e-4) -> Schedule:
    return Schedule(kind="wsd", warmup=warmup, peak_rate=peak_rate, steps_per_epoch=steps_per_epoch, epochs=epochs)


def test_wsd_rises_stays_and_falls_like_one_minus_a_square_root() -> None:
    factors = [wsd(3).factor(step) for step in range(30)]
    assert wsd(3).decay_begins == 20
    assert factors[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert set(factors[5:21]) == {1.0}
    assert factors[20:] == pytest.approx([1 - (step / 10) ** 0.5 for step in range(10)])


def test_below_a_certain_rate_wsd_warms_up_in_proportion_to_it() -> None:
    def rising(peak_rate: float, warmup: float = 0.1) -> int:
        schedule = wsd(9, warmup, steps_per_epoch=30, peak_rate=peak_rate)
        return next(step for step in range(schedule.steps) if schedule.factor(step) == 1.0)

    assert [rising(rate) for rate in (3e-3, 3e-4, 1e-4, 2e-5, 1e-6)] == [30, 30, 10, 2, 0]
    assert rising(1e-4, warmup=0.3) == 30
    low, high = (
        Schedule(kind="cosine", warmup=0.2, peak_rate=rate, steps_per_epoch=30, epochs=9) for rate in (1e-4, 1.0)
    )
    assert [low.factor(step) for step in range(270)] == [high.factor(step) for step in range(270)]


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.1, 1.0])
def test_until_it_falls_wsd_does_not_depend_on_the_epochs(warmup: float, steps_per_epoch: int) -> None:
    longest = wsd(27, warmup, steps_per_epoch)
    begins = []
    for epochs in (1, 2, 3, 9, 27):
        schedule = wsd(epochs, warmup, steps_per_epoch)
        assert schedule.decay_begins is not None
        begins.append(schedule.decay_begins)
        for step in range(schedule.decay_begins):
            assert schedule.factor(step) == longest.factor(step)
        assert all(0 < schedule.factor(step) <= 1 for step in range(schedule.steps))
        assert schedule.decay_begins < schedule.steps
    assert begins == sorted(begins)


def test_a_cosine_falls_from_the_warm_up_on() -> None:
    assert Schedule(kind="cosine", warmup=0.0, peak_rate=1.0, steps_per_epoch=5, epochs=2).decay_begins is None


def test_clipping() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    clip([parameter], None)
    assert parameter.grad.norm() == 6.0
    clip([parameter], 1.0)
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-5)
