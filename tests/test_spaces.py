"""Search spaces: reserved parameters, and how a benchmark file narrows a strategy's ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from tlbench import spaces
from tlbench.errors import BenchmarkError
from tlbench.spaces import RESERVED, Context, Narrowed, check, resolve, training_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
Ranges = Mapping[str, Mapping[str, Any]]


def asked(seed: int = 0) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


def narrowed(fixed: Mapping[str, Any] = {}, ranges: Ranges = {}, seed: int = 0, prefix: str = "") -> Narrowed:  # noqa: B006
    return Narrowed(asked(seed), fixed, ranges, prefix)


def test_the_reserved_defaults_are_a_recipe_and_stay_what_they_are() -> None:
    assert resolve() == RESERVED
    resolve({"learning_rate": 1.0, "own": 3})
    assert RESERVED["learning_rate"] == 1e-3
    assert "own" not in RESERVED


def test_later_layers_win_and_own_names_stay() -> None:
    recipe = resolve({"learning_rate": 0.1, "l2": 1.0}, {"learning_rate": 0.2})
    assert recipe == {**RESERVED, "learning_rate": 0.2, "l2": 1.0}


WRONG: dict[str, list[Any]] = {
    "head": ["convolution", None],
    "head_start": ["warm", None],
    "head_width": [0, 1.5, None],
    "probe_l2": [0.0, None],
    "drop_path": [-0.1, 1.0],
    "average": [0, 2.0, None],
    "optimiser": ["adam"],
    "schedule": ["linear", None],
    "augmentation": [None, "mixup"],
    "batch_norm": ["train", True],
    "dropout": [-0.1, 1.0, None, "0.1"],
    "learning_rate": [-1e-9, float("nan"), float("inf"), True, None],
    "weight_decay": [-1.0],
    "batch_size": [0, 1.5, 64.0, None, True],
    "micro_batch": [0, 2.0],
    "warmup": [1.01, -0.01],
    "label_smoothing": [1.0],
    "clip_norm": [-1.0, "1"],
    "mixup": [-1.0],
    "cutmix": [101.0],
    "patience": [0, 0.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_values_that_the_engine_cannot_use_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BenchmarkError, match=f"parameter {name} = "):
        check({**RESERVED, name: value})


def test_every_bounded_parameter_is_tried_with_wrong_values() -> None:
    assert WRONG.keys() == spaces._CHOICES.keys() | spaces._BOUNDS.keys()


@pytest.mark.parametrize("rest", [{"patience": 3}, {"average": 2}])
def test_what_needs_a_score_of_every_epoch_does_not_go_with_wsd(rest: Mapping[str, Any]) -> None:
    resolve({"schedule": "cosine", **rest})
    resolve({"schedule": "wsd"})
    with pytest.raises(BenchmarkError, match="schedule = 'wsd' validates once, at the end: patience has to be left"):
        resolve({"schedule": "wsd", **rest})


@pytest.mark.parametrize("name", ["micro_batch", "patience", "clip_norm"])
def test_some_may_be_off(name: str) -> None:
    assert resolve({name: None})[name] is None


@pytest.mark.parametrize("drop_path", [False, True])
@pytest.mark.parametrize("pools", [("native",), ("native", "cls", "avg")])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_whatever_the_shared_space_suggests_is_a_recipe(modality: str, pools: tuple[str, ...], drop_path: bool) -> None:
    context = Context(
        modality=modality, kind=None, layer_groups=3, pools=pools, classes=2, train_size=9, drop_path=drop_path
    )
    seen = []
    for seed in range(60):
        params = training_space(asked(seed), context, (1e-5, 1e-2))
        resolve(params)
        assert 1e-5 <= params["learning_rate"] <= 1e-2
        seen.append(params)
    assert all(("augmentation" in params) is (modality == "image") for params in seen)
    assert all(("drop_path" in params) is drop_path for params in seen)
    assert {params.get("pool", "native") for params in seen} == set(pools)
    assert {params["dropout"] for params in seen} == {0.0, 0.1, 0.2}
    assert len({params.get("augmentation", params["warmup"]) for params in seen}) >= 4


def test_names_that_a_recipe_lacks_are_not_checked() -> None:
    check({"pool": "native"})
    with pytest.raises(BenchmarkError, match="parameter dropout"):
        check({"dropout": 2.0})


def test_a_fixed_value_is_never_asked_for() -> None:
    trial = narrowed(fixed={"learning_rate": 1, "rank": 8, "pool": "max"})
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    assert (rate, type(rate)) == (1.0, float)
    assert trial.suggest_int("rank", 1, 4) == 8
    assert trial.suggest_categorical("pool", ("native", "avg")) == "max"
    assert trial._trial.params == {}  # type: ignore[attr-defined]


def test_a_range_of_the_file_replaces_the_strategys() -> None:
    ranges: Ranges = {
        "learning_rate": {"low": 1e-4, "high": 2e-4, "log": True},
        "rank": {"low": 8, "high": 32, "step": 8},
        "pool": {"choices": ["avg", "max"]},
    }
    for seed in range(20):
        trial = narrowed(ranges=ranges, seed=seed)
        assert 1e-4 <= trial.suggest_float("learning_rate", 1e-6, 1.0) <= 2e-4
        assert trial.suggest_int("rank", 1, 4) in (8, 16, 24, 32)
        assert trial.suggest_categorical("pool", ("native",)) in ("avg", "max")


def test_a_range_in_whole_numbers_leaves_a_real_parameter_real() -> None:
    """`mixup = { low = 0, high = 1 }` means every number between, not 0 or 1."""
    ranges: Ranges = {"mixup": {"low": 0, "high": 1}, "warmup": {"low": 0, "high": 1}, "dropout": {"low": 0, "high": 1}}
    suggested, left, chosen = [], [], []
    for seed in range(10):
        trial = narrowed(ranges=ranges, seed=seed)
        suggested.append(trial.suggest_float("mixup", 0.0, 0.5))
        chosen.append(trial.suggest_categorical("warmup", (0.0, 0.1)))
        left.append(trial.remaining({"mixup": 0, "warmup": 0})["dropout"])
    for values in (suggested, left, chosen):
        assert all(isinstance(value, float) for value in values)
        assert len(set(values)) == 10


def test_whole_numbers_stay_whole_where_the_parameter_is() -> None:
    for seed in range(10):
        trial = narrowed(ranges={"batch_size": {"low": 8, "high": 64}, "depth": {"low": 1, "high": 9}}, seed=seed)
        rest = trial.remaining({})
        assert isinstance(rest["batch_size"], int)
        assert isinstance(rest["depth"], int)
        resolve(rest)


def test_what_the_space_leaves_out_comes_from_the_file() -> None:
    trial = narrowed(fixed={"optimiser": "sgd", "l2": 1.0}, ranges={"batch_size": {"choices": [16, 32]}})
    rest = trial.remaining({"l2": 1.0})
    assert rest == {"optimiser": "sgd", "batch_size": rest["batch_size"]}
    assert rest["batch_size"] in (16, 32)


def test_the_prefix_keeps_strategies_apart() -> None:
    trial = narrowed(ranges={"learning_rate": {"low": 0.1, "high": 0.2}}, prefix="zoo/full:")
    trial.suggest_float("learning_rate", 0.0, 1.0)
    trial.suggest_int("rank", 1, 4)
    trial.suggest_categorical("pool", ("avg",))
    assert list(trial._trial.params) == ["zoo/full:learning_rate", "zoo/full:rank", "zoo/full:pool"]  # type: ignore[attr-defined]
