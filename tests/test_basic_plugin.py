"""The plugin `basic`: golden recipes of every strategy, and search spaces that agree with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
import torch

import pieces
import tiny
from tlbench.catalog import Catalog
from tlbench.evaluation.model import build
from tlbench.plugins import discover
from tlbench.spaces import RESERVED, Context, resolve
from tlbench.strategies import Strategy, TrainedStrategy
from tlbench_basic import register_strategies
from tlbench_basic.fine_tuning import FullFineTuning, Scratch

CONTEXT: dict[str, Any] = {
    "layer_groups": 4,
    "pools": ("native", "avg"),
    "classes": 10,
    "train_size": 1000,
    "drop_path": True,
}
CONTEXTS = {
    (modality, kind): Context(modality=modality, kind=kind, **CONTEXT)
    for modality in ("image", "text")
    for kind in ("convolutional", "transformer", None)
}
STRATEGIES: list[Strategy] = list(register_strategies())
NAMES = ["linear-probe", "ridge-probe", "knn", "mlp-probe"]  # frozen
NAMES += ["full", "partial", "gradual-unfreeze", "lp-ft", "bias-only", "norm-only", "lora", "l2-sp", "scratch"]

# The whole recipe of every strategy, written out: whoever changes one raises the strategy's version (pitfall 22).
BASE = {
    "pool": "native",
    "head": "linear",
    "head_width": 256,
    "head_start": "random",
    "probe_l2": 0.1,
    "dropout": 0.0,
    "drop_path": 0.0,
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "batch_size": 64,
    "micro_batch": None,
    "schedule": "cosine",
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "augmentation": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "batch_norm": "frozen",
    "channels_last": False,
    "patience": None,
    "average": 1,
}
TRAINED: dict[tuple[str, str | None], dict[str, Any]] = {
    ("image", "convolutional"): {"batch_size": 32, "augmentation": "flip", "channels_last": True},
    ("image", "transformer"): {"batch_size": 32, "augmentation": "flip"},
    ("image", None): {"batch_size": 32, "augmentation": "flip"},
    ("text", "convolutional"): {"batch_size": 32},
    ("text", "transformer"): {"batch_size": 32},
    ("text", None): {"batch_size": 32},
}

# (name, version): rates of transformers on images, of transformers on text and of all others; then the rest.
Rates = tuple[float, float, float]
RECIPES: dict[tuple[str, int], tuple[Rates, dict[str, Any]]] = {
    ("full", 2): ((1e-4, 1e-4, 3e-4), {"head_learning_rate_scale": 10.0, "layer_decay": None}),
    ("partial", 1): ((1e-4, 1e-4, 3e-4), {"head_learning_rate_scale": 10.0, "frozen_blocks": 2}),
    ("gradual-unfreeze", 1): (
        (1e-4, 1e-4, 3e-4),
        {"head_learning_rate_scale": 10.0, "layer_decay": None, "unfreeze_fraction": 0.5},
    ),
    ("lp-ft", 2): (
        (3e-5, 2e-5, 3e-4),
        {"head_learning_rate_scale": 1.0, "layer_decay": None, "head_start": "probe", "probe_l2": 0.1},
    ),
    ("bias-only", 1): ((1e-3, 1e-3, 1e-3), {"head_learning_rate_scale": 1.0}),
    ("norm-only", 1): ((1e-3, 1e-3, 1e-3), {"head_learning_rate_scale": 1.0}),
    ("lora", 1): (
        (1e-3, 2e-3, 1e-3),
        {"head_learning_rate_scale": 1.0, "rank": 8, "alpha_ratio": 1, "lora_dropout": 0.0},
    ),
    ("l2-sp", 1): (
        (1e-4, 1e-4, 3e-4),
        {"head_learning_rate_scale": 10.0, "weight_decay": 0.0, "alpha": 1e-2, "beta": 1e-2},
    ),
    ("scratch", 2): ((5e-4, 5e-4, 2e-3), {"weight_decay": 5e-2, "batch_norm": "training"}),
}
PROBES: dict[tuple[str, int], dict[str, Any]] = {
    ("linear-probe", 2): {"l2": 0.1},
    ("ridge-probe", 1): {"l2": 1.0},
    ("knn", 1): {"neighbours": 20, "temperature": 0.07},
    ("mlp-probe", 1): {"head_width": 256, "l2": 0.1, "learning_rate": 1e-3},
}


def golden(name: str, version: int, modality: str, kind: str | None) -> dict[str, Any]:
    """The recipe as it is written above."""
    if (name, version) in PROBES:
        return {**BASE, **PROBES[name, version]}
    (on_images, on_text, other), rest = RECIPES[name, version]
    rate = other if kind != "transformer" else on_images if modality == "image" else on_text
    targets = {"targets": "attention" if kind == "transformer" else "all"} if name == "lora" else {}
    return {**BASE, **TRAINED[modality, kind], "learning_rate": rate, **rest, **targets}


def test_golden_recipes() -> None:
    names = [(strategy.name, strategy.version) for strategy in STRATEGIES]
    assert sorted(names) == sorted([*PROBES, *RECIPES])
    for strategy in STRATEGIES:
        for (modality, kind), context in CONTEXTS.items():
            expected = golden(strategy.name, strategy.version, modality, kind)
            assert resolve(strategy.defaults(context)) == expected, (strategy.name, modality, kind)


def test_the_plugin_registers_what_it_has() -> None:
    catalog = Catalog(discover())
    registered = {entry.full_name for entry in catalog.registered("strategy") if entry.plugin == "basic"}
    assert registered == {f"basic/{name}" for name in NAMES}
    assert [strategy.name for strategy in STRATEGIES] == NAMES
    assert [strategy.name for strategy in STRATEGIES if not strategy.pretrained] == ["scratch"]
    assert [strategy.name for strategy in STRATEGIES if strategy.frozen] == NAMES[:4]
    assert all(strategy.modalities is None for strategy in STRATEGIES)


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_every_suggestion_is_a_recipe_and_the_default_lies_in_its_space(strategy: Any, context: Context) -> None:
    defaults = strategy.defaults(context)
    for seed in range(10):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        suggested = strategy.space(trial, context)
        resolve(defaults, suggested)
        assert suggested.keys() <= RESERVED.keys() | defaults.keys()
        for name, distribution in trial.distributions.items():
            default = resolve(defaults)[name]
            assert distribution._contains(distribution.to_internal_repr(default)), name


@pytest.mark.parametrize(
    ("name", "transformer", "other"),
    [
        ("full", (1e-6, 1e-3), (1e-5, 1e-2)),
        ("partial", (1e-6, 1e-3), (1e-5, 1e-2)),
        ("gradual-unfreeze", (1e-6, 1e-3), (1e-5, 1e-2)),
        ("lp-ft", (1e-7, 1e-4), (1e-6, 1e-3)),
        ("bias-only", (1e-4, 1e-2), (1e-4, 1e-2)),
        ("norm-only", (1e-4, 1e-2), (1e-4, 1e-2)),
        ("lora", (1e-5, 1e-2), (1e-5, 1e-2)),
        ("l2-sp", (1e-6, 1e-3), (1e-5, 1e-2)),
        ("scratch", (1e-5, 1e-2), (1e-5, 1e-2)),
    ],
)
def test_rates_are_searched_where_they_suit_strategy_and_architecture(
    name: str, transformer: tuple[float, float], other: tuple[float, float]
) -> None:
    strategy = next(each for each in STRATEGIES if each.name == name)
    for (_, kind), context in CONTEXTS.items():
        trial = optuna.create_study().ask()
        strategy.space(trial, context)
        found: Any = trial.distributions["learning_rate"]
        assert (found.low, found.high) == pytest.approx(transformer if kind == "transformer" else other)
        assert found.log
        assert ("weight_decay" in trial.distributions) is (name != "l2-sp")


def test_scratch_differs_from_full_by_its_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same recipe, and with weights that are random for both, the two give the same model bit for bit."""
    own = {"head_learning_rate_scale": 1.0, "layer_decay": None}
    params = resolve({"learning_rate": 1e-2, "batch_size": 16, **own})

    def trained(strategy: TrainedStrategy) -> np.ndarray:
        monkeypatch.setattr(type(strategy), "defaults", lambda self, context: params)
        _, run = pieces.run(strategy, epochs=2)
        assert run.validation_logits is not None
        return run.validation_logits

    one = build(tiny.Tiny(), params, 3, True, 0).state_dict()
    two = build(tiny.Tiny(), params, 3, False, 0).state_dict()
    assert torch.equal(one["head.weight"], two["head.weight"])
    assert not torch.equal(one["backbone.stem.0.weight"], two["backbone.stem.0.weight"])
    real = tiny.Tiny.load
    monkeypatch.setattr(tiny.Tiny, "load", lambda self, pretrained: real(self, False))
    assert np.array_equal(trained(FullFineTuning()), trained(Scratch()))
