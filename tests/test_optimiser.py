"""The optimiser: what decays, how the rate moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tlbench.evaluation.optimiser import build_optimiser, clip, rate_factor, set_rate
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
    set_rate(built, 0, 10, 0.0)
    assert {group["lr"] for group in built.param_groups} == {0.0, 5e-3}


def test_the_rate_rises_linearly_and_falls_like_torchs_cosine() -> None:
    steps, warmup = 40, 0.25
    factors = [rate_factor(step, steps, warmup) for step in range(steps)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    parameter = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=30)
    for step in range(10, steps):
        assert factors[step] == pytest.approx(reference.param_groups[0]["lr"], abs=1e-6)
        reference.step()
        schedule.step()


def test_clipping() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    clip([parameter], None)
    assert parameter.grad.norm() == 6.0
    clip([parameter], 1.0)
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-5)
