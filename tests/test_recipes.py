"""Recipes of the staged plan: spaces and samplers that give none, and what one backbone learns from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import pytest

import searching
import tiny
from contests import STRATEGIES, World, names, play, strategy_of
from tlbench.benchmark import NamedOptions, Search
from tlbench.search.arm import Arm
from tlbench.search.book import open_book
from tlbench.search.contest import Contest
from tlbench.search.recipes import Recipes
from tlbench.search.study import Cell
from tlbench.spaces import Context, Params, Suggest
from tlbench.strategies import FrozenStrategy, Strategy
from tlbench.trial import NO_BACKBONE

GAINS = {"tiny/means": 0.0, "tiny/head": 0.02, "tiny/full": 0.05, "tiny/raising-probe": 0.0, "tiny/beyond": 0.05}


@final
class Raising(tiny._Everything):
    name = "raising"
    summary = "a space that raises"

    def space(self, trial: Suggest, context: Context) -> Params:
        raise KeyError("layers")


@final
class RaisingProbe(FrozenStrategy):
    name = "raising-probe"
    summary = "a space that leaves Python"

    def defaults(self, context: Context) -> Params:
        return {"temperature": 1.0}

    def space(self, trial: Suggest, context: Context) -> Params:
        raise SystemExit(3)

    def fit(self, *given: Any) -> Any:
        raise AssertionError("it gave no recipe to fit")


@final
class Elsewhere(tiny._Everything):
    name = "elsewhere"
    summary = "a default that is none of its choices"

    def space(self, trial: Suggest, context: Context) -> Params:
        return {"learning_rate": trial.suggest_categorical("learning_rate", (1e-3, 1e-2))}


@final
class Beyond(tiny._Everything):
    name = "beyond"
    summary = "a default beyond its range"

    def defaults(self, context: Context) -> Params:
        return {"learning_rate": 0.5, "batch_size": 16}


@final
class Blocks(tiny._Everything):
    name = "blocks"
    summary = "as many choices as the backbone has layers"

    def defaults(self, context: Context) -> Params:
        return {"learning_rate": 3e-3, "batch_size": 16, "blocks": 0}

    def space(self, trial: Suggest, context: Context) -> Params:
        blocks = trial.suggest_categorical("blocks", range(context.layer_groups))
        return {"blocks": blocks, "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def left_out(world: World) -> dict[tuple[str, str], str]:
    """Reasons by backbone and strategy."""
    events = [event for event in world.events if event["event"] == "dropped"]
    return {(event["backbone"], event["strategy"]): event["reason"] for event in events}


def test_spaces_that_raise_leave_their_competitors_out_and_all_others_go_on() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8}, gains=GAINS)
    play(world, contest := Contest(world.ground((Raising, *STRATEGIES, RaisingProbe))))
    assert contest.done
    assert names(world.asked, "defaults") == ["tiny/b"]
    assert {strategy_of(trial) for _, trial in world.asked if trial.stage == "final"} == {"means", "head", "full"}
    reasons = {"tiny/raising": "no recipe: KeyError: 'layers'", "tiny/raising-probe": "no recipe: SystemExit: 3"}
    expected = {(backbone, name): reason for backbone in world.qualities for name, reason in reasons.items()}
    assert left_out(world) == expected
    assert sorted(world.warned) == sorted(f"left out {one} {two}: {why}" for (one, two), why in expected.items())


def test_a_control_whose_space_raises_ends_alone() -> None:
    world = World({"tiny/a": 0.6})
    ground = world.ground()
    arm = replace(searching.arm(RaisingProbe()), backbone=NO_BACKBONE)
    cell = Cell(backbone=NO_BACKBONE.name, strategy=arm.strategy.name, dataset=arm.dataset.name)
    book = open_book(cell, [arm], ground.benchmark.search, 1)
    ground.entrants = replace(ground.entrants, controls=(book,))
    play(world, contest := Contest(ground))
    assert contest.done
    (ended,) = (event for event in world.events if event["event"] == "ended")
    assert (ended["study"], ended["reason"]) == (book.id, "no recipe: SystemExit: 3")
    assert len(world.warned) == 1


def test_a_sampler_that_does_not_suit_the_spaces_leaves_the_defaults() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    grid = NamedOptions(name="GridSampler", options={"search_space": {"other": [1, 2]}})
    play(world, contest := Contest(world.ground(sampler=grid)))
    assert contest.done
    trained = [trial for _, trial in world.asked if trial.epochs]
    assert {trial.params["learning_rate"] for trial in trained} == {3e-3}
    assert {trial.epochs for trial in trained} == {1, 9}
    assert len(left_out(world)) == len(world.warned) == 4
    assert all("not found in the given grid" in reason for reason in left_out(world).values())


@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_defaults_outside_of_their_own_space() -> None:
    world = World({"tiny/a": 0.6}, gains=GAINS)
    play(world, contest := Contest(world.ground((tiny.Means, Elsewhere, Beyond))))
    assert contest.done
    assert left_out(world).keys() == {("tiny/a", "tiny/elsewhere")}
    rates = {trial.params["learning_rate"] for _, trial in world.asked if strategy_of(trial) == "beyond"}
    assert 0.5 in rates
    assert len(rates) > 2


def of_depth(strategy: Strategy, layer_groups: int) -> Arm:
    arm = searching.arm(strategy, f"tiny/net{layer_groups}")
    return replace(arm, context=replace(arm.context, layer_groups=layer_groups))


def recipes(**given: Any) -> Recipes:
    sampler = NamedOptions(name="TPESampler", options={"n_startup_trials": 2})
    return Recipes(search=Search(plan="staged", sampler=sampler), label="made", **given)


def test_choices_may_follow_the_depth() -> None:
    several = recipes()
    arms = [of_depth(Blocks(), layer_groups) for layer_groups in (2, 3, 4)]
    assert [several.first(arm).params["blocks"] for arm in arms] == [0, 0, 0]
    drawn = set()
    for arm in arms * 8:
        recipe = several.next(arm)
        assert recipe.params["blocks"] in range(arm.context.layer_groups)
        several.tell(recipe, 9, recipe.params["blocks"] / 10, whole=True)
        drawn.add((arm.context.layer_groups, recipe.params["blocks"]))
    assert (4, 3) in drawn


def test_what_is_learned_at_one_depth_serves_the_others() -> None:
    asked = of_depth(tiny.Full(), 3)

    def after(told: Arm) -> dict[str, Any]:
        several = recipes()
        for place in range(5):
            several.tell(several.next(told), 9, place / 10, whole=True)
        return several.next(asked).params

    assert after(of_depth(tiny.Full(), 2)) == after(asked)
    assert after(asked) != recipes(asked=5).next(asked).params
