"""A study: which trials are asked, that they depend on number and history alone, who is pruned, who becomes a final."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from searching import arm, cell, complete, failed
from tlbench.benchmark import NamedOptions, Search
from tlbench.errors import BenchmarkError
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.finalists import FINALISTS, essential
from tlbench.search.study import Study
from tlbench.spaces import RESERVED, Context, Params, Suggest, training_space
from tlbench.trial import Trial

NO_PRUNER = NamedOptions(name="NopPruner")
GRID = {"learning_rate": [0.001, 0.01, 0.1], "label_smoothing": [0.0, 0.1]}
CHOICES = {name: {"choices": values} for name, values in GRID.items()}
SAMPLERS: dict[str, NamedOptions] = {
    "random": NamedOptions(name="RandomSampler"),
    "tpe": NamedOptions(name="TPESampler", options={"n_startup_trials": 3}),
    "tpe group": NamedOptions(
        name="TPESampler",
        options={"n_startup_trials": 3, "multivariate": True, "group": True, "constant_liar": True},
    ),
    "sobol": NamedOptions(name="QMCSampler"),
    "halton": NamedOptions(name="QMCSampler", options={"qmc_type": "halton", "scramble": True}),
    "gaussian process": NamedOptions(name="GPSampler", options={"n_startup_trials": 3}),
    "genetic": NamedOptions(name="NSGAIISampler", options={"population_size": 3}),
    "grid": NamedOptions(name="GridSampler", options={"search_space": GRID}),
}
PRUNERS: dict[str, NamedOptions] = {
    "halving": Search().pruner,
    "halving auto": NamedOptions(name="SuccessiveHalvingPruner"),
    "hyperband": NamedOptions(name="HyperbandPruner", options={"max_resource": 9}),
    "hyperband auto": NamedOptions(name="HyperbandPruner"),
    "median": NamedOptions(name="MedianPruner", options={"n_startup_trials": 2}),
    "percentile": NamedOptions(name="PercentilePruner", options={"percentile": 40.0, "n_startup_trials": 2}),
    "threshold": NamedOptions(name="ThresholdPruner", options={"lower": 0.2}),
}


def study(arms: Sequence[Arm] | None = None, searched: Sequence[str] = (), **search: Any) -> Study:
    of = cell(**dict.fromkeys(searched))
    return Study(of, arms or [arm()], Search(**{"over": tuple(searched), "pruner": NO_PRUNER, **search}), 1)


def asked(of: Study) -> tuple[int, Trial]:
    question = of.ask()
    assert question is not None, of.ended
    return question


def advance(
    of: Study, trials: int, answer: Callable[[int, Trial, Any], Measurement] | None = None
) -> list[Measurement]:
    """Ask and tell in turn, as one worker does, with the pruner listened to."""
    told = []
    for _ in range(trials):
        number, trial = asked(of)
        stop = lambda epoch, score, number=number: of.report(number, epoch, score)  # noqa: E731
        told.append(answer(number, trial, stop) if answer else complete(trial, stop))
        of.tell(number, told[-1])
    return told


def follow(of: Study, record: Sequence[Measurement]) -> Study:
    """Ask and tell what was asked and told before, as a resumed run does: no epoch is reported again."""
    for measurement in record:
        number, trial = asked(of)
        assert trial == measurement.trial
        of.tell(number, measurement)
    return of


# The first trial


def test_the_first_trial_is_the_whole_default_recipe() -> None:
    _, trial = asked(study())
    assert trial.params == {**RESERVED, "learning_rate": 3e-3, "batch_size": 16}


def test_the_first_trial_obeys_the_file() -> None:
    ranges = {
        "learning_rate": {"low": 0.01, "high": 0.1, "log": True},
        "label_smoothing": {"choices": [0.2, 0.3]},
        "batch_size": {"low": 2, "high": 10, "step": 4},
        "patience": {"low": 1, "high": 3},
        "weight_decay": {"low": 0.0, "high": 1.0},
    }
    _, trial = asked(study([arm(ranges=ranges, fixed={"dropout": 0.5})]))
    expected = {"learning_rate": 0.01, "label_smoothing": 0.2, "batch_size": 10, "patience": 3, "dropout": 0.5}
    assert trial.params == {**RESERVED, **expected}


bounds = st.tuples(st.integers(-50, 50), st.integers(-50, 50)).filter(lambda pair: pair[0] < pair[1])


@given(bounds=bounds, value=st.integers(-100, 100), step=st.none() | st.integers(1, 20))
def test_a_default_moves_to_the_nearest_value_that_the_file_allows(
    bounds: tuple[int, int], value: int, step: int | None
) -> None:
    @final
    class Own(tiny._Everything):
        name = "own"
        summary = "a parameter of its own"

        def defaults(self, context: Context) -> Params:
            return {"own": value}

    low, high = bounds
    given_range = {"low": low, "high": high, **({"step": step} if step else {})}
    moved = arm(Own(), ranges={"own": given_range}).defaults()["own"]
    allowed = range(low, high + 1, step or 1)
    assert moved in allowed
    assert abs(moved - value) == min(abs(other - value) for other in allowed)


def test_every_later_trial_stays_in_the_file_s_ranges_and_keeps_what_it_fixes() -> None:
    ranges = {"learning_rate": {"low": 0.01, "high": 0.02}, "warmup": {"choices": [0.0, 0.3]}}
    of = study([arm(ranges=ranges, fixed={"label_smoothing": 0.05})], sampler=SAMPLERS["random"])
    told = advance(of, 30)
    assert {one.trial.params["label_smoothing"] for one in told} == {0.05}
    assert {one.trial.params["warmup"] for one in told} == {0.0, 0.3}
    rates = [one.trial.params["learning_rate"] for one in told]
    assert all(0.01 <= rate <= 0.02 for rate in rates)
    assert len(set(rates)) > 25


# Asks depend on number and history alone


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_goes_on_the_same_after_any_number_of_trials(name: str) -> None:
    trials = 6 if name in ("grid", "gaussian process") else 14
    whole = advance(study(sampler=SAMPLERS[name]), trials)
    for done in range(trials):
        resumed = follow(study(sampler=SAMPLERS[name]), whole[:done])
        assert asked(resumed)[1] == whole[done].trial, done


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_recipes_after_the_first_differ(name: str) -> None:
    told = advance(study(sampler=SAMPLERS[name]), 10)
    # The unscrambled Sobol sequence begins in a corner; a genetic algorithm repeats parents.
    assert len({one.key for one in told}) >= (4 if name == "genetic" else 9)


def test_a_scrambled_sequence_fills_the_range_evenly() -> None:
    for options in ({}, {"scramble": True}):
        sampler = NamedOptions(name="QMCSampler", options=options)
        of = study([arm(fixed={"label_smoothing": 0.0})], sampler=sampler)
        told = advance(of, 10)[2:]  # the default; then a point drawn before the space is known
        if not options:
            logs = [(np.log10(one.trial.params["learning_rate"]) + 4) / 3 for one in told[:8]]
            assert len({int(8 * min(value, 0.999)) for value in logs}) >= 7
        assert len({one.key for one in told}) == 8


def test_another_seed_gives_other_recipes_and_the_same_first() -> None:
    one, other = (advance(study(seed=seed), 5) for seed in (0, 1))
    assert one[0].trial.params == other[0].trial.params
    assert all(a.trial.params != b.trial.params for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_search_neither_reads_nor_moves_global_generators(name: str) -> None:
    """Pitfall 18."""

    def run(disturb: bool) -> list[str]:
        of = study(sampler=SAMPLERS[name])
        keys: list[str] = []
        for _ in range(6):
            if disturb:
                random.seed(len(keys))
                np.random.seed(len(keys))
                torch.manual_seed(len(keys))
            keys += [one.key for one in advance(of, 1)]
        return keys

    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    calm = run(disturb=False)
    after = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    assert before == after
    assert run(disturb=True) == calm


def test_a_random_search_asks_the_same_whatever_the_order_of_answers() -> None:
    def keys(workers: int) -> list[str]:
        of = study(sampler=SAMPLERS["random"])
        running: list[tuple[int, Trial]] = []
        all_keys: list[str] = []
        while len(all_keys) < 12 or running:
            if len(all_keys) < 12 and len(running) < workers:
                running.append(asked(of))
                all_keys.append(running[-1][1].key)
            else:
                number, trial = running.pop(len(all_keys) % len(running))
                of.tell(number, complete(trial))
        return all_keys

    assert keys(1) == keys(2) == keys(4)


# Samplers that come to an end


def combinations() -> set[tuple[float, ...]]:
    return set(itertools.product(*GRID.values()))


def recipe(measurement: Measurement) -> tuple[float, ...]:
    return tuple(measurement.trial.params[name] for name in GRID)


def test_a_grid_is_walked_through_once_and_then_the_study_ends() -> None:
    of = study(sampler=SAMPLERS["grid"])
    told = advance(of, 1 + len(combinations()))
    assert {recipe(one) for one in told[1:]} == combinations()
    assert of.ended == "every recipe was tried that GridSampler has"


@pytest.mark.parametrize("workers", [1, 3])
def test_brute_force_tries_every_combination_and_then_the_study_ends(workers: int) -> None:
    of = study([arm(ranges=CHOICES)], sampler=NamedOptions(name="BruteForceSampler"))
    seen: list[tuple[float, ...]] = []
    running: list[tuple[int, Trial]] = []
    while not of.ended or running:
        if not of.ended and len(running) < workers:
            running.append(asked(of))
            seen.append(recipe(complete(running[-1][1])))
        else:
            number, trial = running.pop(0)
            of.tell(number, complete(trial))
    assert set(seen) == combinations()
    assert len(seen) <= len(combinations()) + workers - 1
    assert of.ended == "every recipe was tried that BruteForceSampler has"


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (NamedOptions(name="GridSampler", options={"search_space": {"other": [1, 2]}}), "learning_rate, is not found"),
        (NamedOptions(name="BruteForceSampler"), "step"),
    ],
)
def test_a_sampler_that_does_not_suit_the_space_ends_the_study_with_its_reason(
    sampler: NamedOptions, reason: str
) -> None:
    of = study(sampler=sampler)
    advance(of, 1)
    assert of.ask() is None
    assert of.ended
    assert reason in of.ended
    assert of.asked == 1
    assert of.running == 0


def test_a_space_that_raises_ends_the_study_with_its_reason() -> None:
    @final
    class Broken(tiny._Everything):
        name = "broken"
        summary = "a space that raises"

        def space(self, trial: Suggest, context: Context) -> Params:
            raise KeyError("layers")

    of = study([arm(Broken())])
    assert of.ask() is None
    assert of.ended == "no recipe for trial 0: KeyError: 'layers'"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": NamedOptions(name="TPE")}, "search.sampler.name = 'TPE': Optuna has .*TPESampler"),
        ({"sampler": NamedOptions(name="BaseSampler")}, "search.sampler.name = 'BaseSampler'"),
        ({"pruner": NamedOptions(name="ASHA")}, "search.pruner.name = 'ASHA': Optuna has .*HyperbandPruner"),
        ({"sampler": NamedOptions(name="RandomSampler", options={"sed": 1})}, "RandomSampler: .*sed"),
        ({"sampler": NamedOptions(name="GridSampler")}, "GridSampler: .*search_space"),
        ({"sampler": NamedOptions(name="PartialFixedSampler")}, "PartialFixedSampler: "),
        ({"pruner": NamedOptions(name="PatientPruner")}, "PatientPruner: .*wrapped_pruner"),
        (
            {"pruner": NamedOptions(name="SuccessiveHalvingPruner", options={"reduction_factor": 1})},
            "search.pruner = SuccessiveHalvingPruner: .*reduction_factor",
        ),
    ],
)
def test_samplers_and_pruners_that_cannot_be_made_are_refused(search: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        study(**search)


def test_a_sampler_whose_package_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    def missing(*arguments: Any, **options: Any) -> None:
        raise ImportError("cmaes is not installed")

    monkeypatch.setattr(optuna.samplers, "CmaEsSampler", missing)
    with pytest.raises(BenchmarkError, match="CmaEsSampler: cmaes is not installed"):
        study(sampler=NamedOptions(name="CmaEsSampler"))


# Pruning


def unlucky(number: int, trial: Trial, stop: Any) -> Measurement:
    """Every fifth trial fails in its second epoch, the pruner having seen the first."""
    if number % 5 != 3:
        return complete(trial, stop)
    broken = failed(trial, "diverged", epochs=1)
    stop(1, broken.curve[0].search_score)
    return broken


@pytest.mark.parametrize("name", PRUNERS)
def test_who_is_pruned_is_the_same_after_any_number_of_trials(name: str) -> None:
    options: dict[str, Any] = {"pruner": PRUNERS[name], "sampler": SAMPLERS["tpe"], "epochs": 9}
    whole = advance(study(**options), 24, unlucky)
    statuses = [one.status for one in whole]
    assert statuses.count("pruned") >= 2
    assert "complete" in statuses
    for done in range(0, 24, 3):
        resumed = follow(study(**options), whole[:done])
        for number in range(done, 24):
            assert advance(resumed, 1, unlucky) == whole[number : number + 1], (done, number)


def test_a_threshold_prunes_exactly_those_below_it() -> None:
    told = advance(study(pruner=PRUNERS["threshold"], sampler=SAMPLERS["random"]), 30)
    for one in told:
        below = [point.epoch for point in one.curve if point.search_score < 0.2]  # type: ignore[operator]
        expected = "pruned" if below and below[0] < 9 else "complete"
        assert one.status == expected
        if below and below[0] < 9:
            assert one.curve[-1].epoch == below[0]


def test_epochs_reported_again_by_a_second_worker_do_no_harm() -> None:
    of = study(pruner=PRUNERS["halving"], epochs=9)
    number, trial = asked(of)
    for _ in range(2):
        assert not of.report(number, 1, 0.5)
    of.tell(number, complete(trial))
    assert of.running == 0


# Failures


@pytest.mark.parametrize("kind", ["error", "diverged", "oom", "infrastructure"])
def test_three_failures_in_a_row_end_the_study(kind: str) -> None:
    of = study()
    advance(of, 2, lambda number, trial, stop: failed(trial, kind))
    advance(of, 1)
    advance(of, 2, lambda number, trial, stop: failed(trial, kind))
    assert of.ended is None
    advance(of, 1, lambda number, trial, stop: failed(trial, kind))
    assert of.ended == f"3 trials in a row failed, last: broken by {kind}"


# Search over backbones and strategies


def arms() -> list[Arm]:
    return [
        arm(strategy, backbone)
        for backbone in ("tiny/a", "tiny/b", "tiny/c")
        for strategy in (tiny.Full(), tiny.Means())
    ]


def test_defaults_come_first_frozen_features_of_every_backbone_and_then_the_rest_on_the_best() -> None:
    told = advance(study(arms(), ("backbone", "strategy")), 4)
    names = [(one.trial.backbone.name, one.trial.strategy.name) for one in told]
    assert names[:3] == [("tiny/a", "tiny/means"), ("tiny/b", "tiny/means"), ("tiny/c", "tiny/means")]
    best = max(told[:3], key=lambda one: one.score("search", "accuracy") or 0.0).trial.backbone.name
    assert names[3] == (best, "tiny/full")
    assert told[0].trial.params == arm(tiny.Means()).defaults()
    assert told[3].trial.params == arm(tiny.Full()).defaults()


@pytest.mark.parametrize("sampler", ["random", "tpe group"])
def test_all_arms_are_searched_with_their_own_parameters(sampler: str) -> None:
    told = advance(study(arms(), ("backbone", "strategy"), sampler=SAMPLERS[sampler]), 40)
    seen = {(one.trial.backbone.name, one.trial.strategy.name) for one in told}
    assert seen == {(one.backbone.name, one.strategy.name) for one in arms()}
    for one in told:
        assert ("temperature" in one.trial.params) is (one.trial.strategy.name == "tiny/means")


class Untrained(tiny._Everything):
    name = "untrained"
    summary = "from random weights"
    pretrained = False


def kinds(backbones: Sequence[str] = ("tiny/a", "tiny/b")) -> list[Arm]:
    strategies = (tiny.Means(), tiny.Full(), Untrained())
    return [arm(strategy, backbone) for backbone in backbones for strategy in strategies]


def test_a_search_has_a_complete_trial_from_random_weights_whatever_the_pruner_says() -> None:
    def slow(number: int, trial: Trial, stop: Any) -> Measurement:
        """Everything gets worse from trial to trial, so that the pruner stops whatever it may."""
        return complete(trial, lambda epoch, score: stop(epoch, 1.0 / (1 + number)))

    of = study(kinds(), ("backbone", "strategy"), pruner=PRUNERS["median"], sampler=SAMPLERS["random"], epochs=9)
    told = advance(of, 30, slow)
    random = [one for one in told if one.trial.strategy.name == "tiny/untrained"]
    assert len(random) >= 3
    assert [one.status for one in random] == ["complete", *["pruned"] * (len(random) - 1)]


def test_the_best_of_every_kind_of_transfer_is_a_finalist() -> None:
    def by_kind(number: int, trial: Trial, stop: Any) -> Measurement:
        score = {"tiny/means": 0.5, "tiny/full": 0.9, "tiny/untrained": 0.1}[trial.strategy.name]
        return scored(trial, score + 1e-3 * number, None)

    names = [f"tiny/{letter}" for letter in "abcdefg"]
    of = study(kinds(names), ("backbone", "strategy"), sampler=SAMPLERS["random"])
    advance(of, 60, by_kind)
    finalists = of.finalists()
    assert [told.arm.kind for told in finalists] == ["trained"] * 5 + ["frozen", "random"]
    assert [told.arm.kind for told in essential(finalists)] == ["trained", "frozen", "random"]
    for told in finalists[5:]:
        rivals = [one for one in of.told if one.arm.kind == told.arm.kind]
        assert told is max(rivals, key=lambda one: one.measurement.score("search", "accuracy") or 0.0)


@pytest.mark.parametrize("axis", ["backbone", "strategy"])
def test_one_axis_may_be_searched_alone(axis: str) -> None:
    held = {"backbone": "strategy", "strategy": "backbone"}[axis]
    chosen = [one for one in arms() if getattr(one, held).name == getattr(arms()[0], held).name]
    told = advance(study(chosen, (axis,), sampler=SAMPLERS["random"]), 30)
    assert {getattr(one.trial, held).name for one in told} == {getattr(arms()[0], held).name}
    assert {getattr(one.trial, axis).name for one in told} == {getattr(one, axis).name for one in arms()}


# Finalists


def scored(trial: Trial, search: float, pick: float | None, status: Any = "complete") -> Measurement:
    scores = {"search": {"accuracy": search, "nll": -search}, "test": {"accuracy": 1 - search}}
    if pick is not None:
        scores["pick"] = {"accuracy": pick, "nll": -pick}
    return Measurement(trial=trial, status=status, scores=scores)


few = st.integers(0, 4).map(lambda value: value / 4)
results = st.lists(
    st.tuples(few, st.none() | few, st.sampled_from(["complete", "complete", "pruned"])), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(results=results, metric=st.sampled_from(["accuracy", "nll"]))
def test_the_final_is_the_best_by_pick_of_the_five_best_by_search(results: list[Any], metric: str) -> None:
    of = study(metric=metric, sampler=SAMPLERS["random"])
    for search, pick, status in results:
        number, trial = asked(of)
        of.tell(number, scored(trial, search, pick, status))
    done = [(number, *scores) for number, (*scores, status) in enumerate(results) if status == "complete"]
    five = sorted(done, key=lambda one: (-one[1], one[0]))[:FINALISTS]
    best = sorted(five, key=lambda one: (-(one[1] if one[2] is None else one[2]), one[0]))[:1]
    assert [told.number for told in of.finalists()] == [one[0] for one in best]


def test_test_scores_do_not_move_the_selection() -> None:
    def selected(test: float) -> list[int]:
        of = study(sampler=SAMPLERS["random"])
        for value in (0.2, 0.9, 0.5):
            number, trial = asked(of)
            measurement = scored(trial, value, 0.5 * value)
            scores = {**measurement.scores, "test": {"accuracy": abs(test - value)}}
            of.tell(number, replace(measurement, scores=scores))
        return [told.number for told in of.finalists()]

    assert selected(0.0) == selected(1.0) == [1]


def test_a_search_over_arms_sends_one_recipe_of_each_of_up_to_five_arms() -> None:
    of = study(arms(), ("backbone", "strategy"), sampler=SAMPLERS["random"])
    told = advance(of, 40)
    best: dict[tuple[str, str], Measurement] = {}
    for one in sorted(told, key=lambda one: -(one.score("search", "accuracy") or 0.0)):
        best.setdefault((one.trial.backbone.name, one.trial.strategy.name), one)
    five = list(best.values())[:5]
    expected = sorted(five, key=lambda one: -(one.score("pick", "accuracy") or 0.0))
    assert [told.measurement.key for told in of.finalists()] == [one.key for one in expected]


def test_a_result_without_a_score_is_no_finalist() -> None:
    of = study()
    number, trial = asked(of)
    of.tell(number, Measurement(trial=trial, status="complete", scores={"search": {"accuracy": None}}))
    assert of.finalists() == []


def test_finals_are_the_recipe_with_every_seed() -> None:
    of = study(epochs=3)
    advance(of, 3)
    (finalist,) = of.finalists()
    finals = finalist.arm.finals(finalist.measurement.trial, (5, 6))
    assert [trial.seed for trial in finals] == [5, 6]
    for trial in finals:
        assert trial == replace(finalist.measurement.trial, stage="final", seed=trial.seed)


def test_finals_on_small_data_validate_on_the_folds_in_turn() -> None:
    of = study()
    advance(of, 1)
    (finalist,) = of.finalists()
    finals = replace(finalist.arm, folds=5).finals(finalist.measurement.trial, range(7))
    assert [(trial.seed, trial.fold) for trial in finals] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 0), (6, 1)]


# Identity


def test_a_study_s_identity_holds_all_but_how_long_it_goes_on() -> None:
    same = [study(), study(trials=99), study(budget_s=5.0)]
    assert len({one.id for one in same}) == 1
    data = replace(arm(), fingerprint="f1")
    others = [
        study(),
        study([data]),
        study([arm(tiny.Head())]),
        study([arm(backbone="tiny/other")]),
        study([arm(fixed={"dropout": 0.1})]),
        study([arm(ranges={"dropout": {"low": 0.0, "high": 0.1}})]),
        study(seed=1),
        study(epochs=2),
        study(metric="nll"),
        study(sampler=SAMPLERS["random"]),
        study(pruner=PRUNERS["median"]),
        Study(cell(), [arm()], Search(pruner=NO_PRUNER), 2),
        Study(cell(), [arm()], Search(pruner=NO_PRUNER), 1, 1),
    ]
    assert len({one.id for one in others}) == len(others)


@final
class _Pooled(tiny._Everything):
    """Searches whatever the backbone offers."""

    name = "full"
    summary = "everything trains"

    def space(self, trial: Suggest, context: Context) -> Params:
        frozen = trial.suggest_int("frozen_blocks", 0, context.layer_groups)
        return {**training_space(trial, context, (1e-4, 1e-1)), "frozen_blocks": frozen}

    def defaults(self, context: Context) -> Params:
        return {"frozen_blocks": 0}


@pytest.mark.parametrize("sampler", ["random", "tpe", "tpe group"])
def test_backbones_that_offer_different_choices_are_searched_together(sampler: str) -> None:
    """Optuna refuses a categorical parameter whose choices change from trial to trial."""
    offers = {"zoo/a": ("native",), "zoo/b": ("native", "avg"), "zoo/c": ("native", "cls", "avg")}
    arms = [
        replace(each, context=replace(each.context, pools=pools, layer_groups=len(pools), drop_path=len(pools) > 1))
        for each, pools in ((arm(_Pooled(), name), pools) for name, pools in offers.items())
    ]
    of = study(arms, ("backbone",), sampler=SAMPLERS[sampler])
    seen: dict[str, set[str]] = {name: set() for name in offers}
    for _ in range(60):
        number, trial = asked(of)
        seen[trial.backbone.name].add(trial.params["pool"])
        of.tell(number, complete(trial))
    assert of.ended is None
    assert seen == {name: set(pools) for name, pools in offers.items()}


def test_a_recipe_has_the_reserved_names_that_its_strategy_reads() -> None:
    probe = arm(tiny.Means())
    assert probe.defaults() == {"pool": "native", "temperature": 1.0}
    _, trial = asked(study([probe]))
    assert trial.params.keys() == {"pool", "temperature"}
    assert arm().defaults().keys() == RESERVED.keys()
