"""A contest: which questions it asks in which stage, what it drops and keeps, and that it keeps to its time."""

from __future__ import annotations

from dataclasses import replace

import pytest

import contests
import tiny
from contests import SAMPLES, World, names, play, strategy_of
from tlbench.components import Facts
from tlbench.measurement import Measurement
from tlbench.search import looking, training
from tlbench.search.contest import Contest
from tlbench.search.looking import TRAINED, Looking
from tlbench.search.screening import SURVIVORS
from tlbench.strategies import Strategy
from tlbench.trial import SCREEN
from tlbench_basic.fine_tuning import FullFineTuning, ProbeThenFineTuning

MANY = {f"tiny/net{place:02}": 0.5 + 0.02 * place for place in range(20)}


def test_stages_come_in_order_and_the_best_backbone_is_trained_longest() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8, "tiny/c": 0.7})
    play(world, contest := Contest(world.ground()))
    stages = list(dict.fromkeys(stage for stage, _ in world.asked))
    assert stages == ["screen", "probe", "defaults", "cached", "tune", "finals"]
    assert contest.done
    longest = [trial for stage, trial in world.asked if trial.epochs == 9 and stage != "finals"]
    assert {trial.backbone.name for trial in longest} == {"tiny/b"}
    finals = [trial for stage, trial in world.asked if stage == "finals"]
    assert {trial.stage for trial in finals} == {"final"}
    assert finals[0].backbone.name == "tiny/b"
    assert finals[0].seed == 0
    assert strategy_of(finals[0]) == "full"


CROWD = {f"tiny/net{place:02}": 0.5 + 0.01 * place for place in range(30)}
FAVOURITE = {"tiny/net03": Facts(accuracy=0.9), "tiny/net04": Facts(accuracy=0.8)}


def test_of_many_backbones_the_best_by_publication_is_trained_before_the_others_are_looked_at() -> None:
    world = World(CROWD, facts=FAVOURITE)
    play(world, Contest(world.ground(budget_s=5000.0)))
    begun = [event["stage"] for event in world.events if event["event"] == "stage"]
    assert begun[:6] == ["screen", "probe", "defaults", "screen", "screen", "probe"]
    first = next(place for place, (_, trial) in enumerate(world.asked) if trial.backbone.name != "tiny/net03")
    assert [trial.epochs for stage, trial in world.asked[:first] if stage == "defaults"] == [1, 9]
    assert names(world.asked, "defaults") == ["tiny/net03"]
    keys = [trial.key for _, trial in world.asked]
    assert len(keys) == len(set(keys))


def test_several_workers_look_at_many_sooner_than_one_trains() -> None:
    world = World(CROWD, facts=FAVOURITE)
    ground = world.ground(budget_s=5000.0)
    ground.workers = 8
    play(world, Contest(ground), workers=8)
    begun = [event["stage"] for event in world.events if event["event"] == "stage"]
    assert begun.index("defaults") > begun.index("probe") > 1


def test_a_few_backbones_are_looked_at_before_any_is_trained() -> None:
    few = {name: CROWD[name] for name in ("tiny/net03", "tiny/net04", "tiny/net05")}
    world = World(few, facts=FAVOURITE)
    play(world, Contest(world.ground(budget_s=5000.0)))
    begun = [event["stage"] for event in world.events if event["event"] == "stage"]
    assert begun[:5] == ["screen", "screen", "screen", "probe", "defaults"]
    assert [trial.backbone.name for _, trial in world.asked][:2] == ["tiny/net03"] * 2
    assert names(world.asked, "defaults") == ["tiny/net03"]
    assert sorted(names(world.asked, "probe")) == sorted(few)


SMALL = {"tiny/net03": 0.6, "tiny/net04": 0.7, "tiny/net05": 0.5, "tiny/net06": 0.4}


@pytest.mark.parametrize("facts", [FAVOURITE, {}], ids=["published", "unpublished"])
def test_on_little_data_each_backbone_is_probed_right_after_its_screen(
    facts: dict[str, Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contests, "SAMPLES", 800)
    world = World(SMALL, facts=facts, unseen=frozenset({"tiny/net05"}))
    contest = Contest(world.ground(budget_s=5000.0))
    play(world, contest)
    looks = [(trial.backbone.name, trial.stage) for stage, trial in world.asked if stage in ("screen", "probe")]
    expected = [(name, stage) for name in SMALL for stage in ("screen", "search")]
    assert list(dict.fromkeys(looks)) == [look for look in expected if look != ("tiny/net05", "search")]
    keys = [trial.key for _, trial in world.asked]
    assert len(keys) == len(set(keys))
    assert contest.looking.alive == ["tiny/net04", "tiny/net03", "tiny/net06"]
    assert all(trial.fraction == 1.0 for _, trial in world.asked if trial.stage == "search")


@pytest.mark.parametrize(("samples", "count", "workers"), [(1100, 4, 1), (800, 9, 1), (800, 4, 2)])
def test_else_all_are_screened_first(samples: int, count: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "SAMPLES", samples)
    world = World({name: CROWD[name] for name in [*CROWD][:count]})
    ground = world.ground(budget_s=5000.0)
    ground.workers = workers
    play(world, Contest(ground), workers=workers)
    begun = [event["stage"] for event in world.events if event["event"] == "stage"]
    assert begun[:2] == ["screen", "probe"]
    assert begun.count("screen") == begun.count("probe") == 1


@pytest.mark.parametrize("facts", [FAVOURITE, {}], ids=["published", "unpublished"])
def test_screens_with_probes_have_the_time_of_both(facts: dict[str, Facts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "SAMPLES", 800)
    world = World(SMALL, facts=facts)
    play(world, Contest(world.ground(budget_s=35.0)))
    assert names(world.asked, "screen") == list(SMALL)
    assert set(names(world.asked, "probe")) == set(SMALL)
    assert [trial.backbone.name for _, trial in world.asked][:2] == ["tiny/net03"] * 2


@pytest.mark.parametrize("facts", [FAVOURITE, {}], ids=["published", "unpublished"])
def test_without_time_for_all_probes_the_best_of_the_screen_have_it(
    facts: dict[str, Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contests, "SAMPLES", 800)
    world = World({**SMALL, "tiny/net06": 0.9}, facts=facts)
    contest = Contest(world.ground(budget_s=25.0))
    play(world, contest)
    assert set(names(world.asked, "screen")) == set(SMALL)
    assert names(world.asked, "probe")[0] == "tiny/net06"
    assert contest.looking.best()[0] == "tiny/net06"
    keys = [trial.key for _, trial in world.asked]
    assert len(keys) == len(set(keys))


def test_screen_and_probe_have_their_time_after_defaults_that_were_first() -> None:
    world = World(CROWD, facts=FAVOURITE)
    contest = Contest(world.ground(budget_s=5000.0))
    *_, first_rung = play(world, contest, until=lambda question: question.is_default)
    contest.answered(first_rung, [world.answer(trial) for trial in first_rung.trials])
    world.now = training.DEFAULTS_SHARE * 5000.0  # it took all the time of the defaults
    play(world, contest)
    assert [trial.epochs for stage, trial in world.asked if stage == "defaults"] == [1]
    assert set(names(world.asked, "screen")) == set(CROWD)


def test_a_favourite_that_cannot_be_looked_at_has_no_head_start() -> None:
    world = World(CROWD, facts=FAVOURITE, unseen=frozenset({"tiny/net03"}))
    play(world, Contest(world.ground(budget_s=5000.0)))
    begun = [event["stage"] for event in world.events if event["event"] == "stage"]
    assert begun[:5] == ["screen", "screen", "screen", "probe", "defaults"]
    looks = [trial.backbone.name for _, trial in world.asked if trial.stage == "screen"]
    assert looks.count("tiny/net03") == 1
    assert names(world.asked, "defaults") == ["tiny/net04"]


def test_a_favourite_whose_defaults_take_too_long_leaves_the_others_their_time() -> None:
    world = World(CROWD, facts=FAVOURITE)
    play(world, Contest(world.ground(budget_s=40.0)))
    assert not names(world.asked, "defaults")
    assert len(names(world.asked, "screen")) > 5


def test_screen_drops_only_what_is_clearly_worse() -> None:
    world = World(MANY)
    play(world, Contest(world.ground()))
    dropped = {event["backbone"] for event in world.events if event["event"] == "dropped"}
    assert dropped
    assert len(MANY) - len(dropped) >= SURVIVORS
    assert min(MANY[name] for name in MANY if name not in dropped) >= max(MANY[name] for name in dropped)
    assert all(reason for event in world.events if event["event"] == "dropped" for reason in [event["reason"]])
    assert set(names(world.asked, "probe")) == set(MANY) - dropped


def test_screen_looks_at_more_samples_of_fewer_backbones() -> None:
    world = World(MANY)
    play(world, Contest(world.ground()))
    looks = [trial for _, trial in world.asked if trial.stage == "screen"]
    sizes = sorted({round(trial.fraction * SAMPLES) for trial in looks})
    assert sizes == [512, 2000]
    counts = [sum(round(trial.fraction * SAMPLES) == size for trial in looks) for size in sizes]
    assert counts[0] == len(MANY)
    assert counts[1] < counts[0]


def test_champions_survive_the_screen() -> None:
    facts = {name: Facts(pretraining="supervised", accuracy=0.7) for name in MANY}
    facts["tiny/net00"] = Facts(pretraining="masked", accuracy=0.6)
    facts["tiny/net01"] = Facts(pretraining="supervised", accuracy=0.9)
    world = World(MANY, facts=facts)
    play(world, Contest(world.ground()))
    dropped = {event["backbone"] for event in world.events if event["event"] == "dropped"}
    assert "tiny/net02" in dropped
    assert not dropped & {"tiny/net00", "tiny/net01"}
    assert names(world.asked, "defaults") == ["tiny/net01"]
    trained = set(names(world.asked, "tune")) - {"tiny/net01"}
    assert trained <= set(sorted(MANY, key=MANY.__getitem__)[-TRAINED:])


def test_a_backbone_whose_screen_fails_is_dropped_for_that_and_the_next_champion_protected() -> None:
    facts = {"tiny/a": Facts(accuracy=0.9), "tiny/b": Facts(accuracy=0.8)}
    world = World({"tiny/a": 0.8, "tiny/b": 0.6, "tiny/c": 0.7}, facts=facts, unseen=frozenset({"tiny/a"}))
    play(world, Contest(world.ground()))
    dropped = {event["backbone"]: event["reason"] for event in world.events if event["event"] == "dropped"}
    assert dropped == {"tiny/a": "looking at it failed: broken"}
    assert names(world.asked, "defaults") == ["tiny/b"]
    (noted,) = (event for event in world.events if event["event"] == "finals")
    assert noted["defaults"]


def test_of_equal_published_accuracies_the_first_given_is_the_champion_of_all_stages() -> None:
    facts = {"tiny/z": Facts(accuracy=0.9), "tiny/a": Facts(accuracy=0.9)}
    world = World({"tiny/z": 0.3, "tiny/a": 0.3, **MANY}, facts=facts)
    play(world, Contest(world.ground()))
    dropped = {event["backbone"] for event in world.events if event["event"] == "dropped"}
    assert dropped & {"tiny/a", "tiny/z"} == {"tiny/a"}
    assert names(world.asked, "defaults") == ["tiny/z"]


def test_a_round_that_time_ends_judges_only_who_was_in_it() -> None:
    qualities = {f"tiny/net{place:02}": 0.6 + 0.001 * place for place in range(20)}
    world = World(qualities, advantage=0.2)
    contest = Contest(world.ground(budget_s=260.0))
    play(world, contest, until=lambda question: contest.ground.stage == "probe")
    second = [trial for _, trial in world.asked if trial.stage == "screen" and round(trial.fraction * SAMPLES) == 2000]
    assert 0 < len(second) < len(qualities)
    assert not [event for event in world.events if event["event"] == "dropped"]
    assert contest.looking.alive == sorted(qualities, reverse=True)


def test_backbones_are_compared_by_as_many_samples() -> None:
    world = World({"tiny/a": 0.0, "tiny/b": 0.0})
    looking = Looking(ground=(ground := world.ground()), alive=["tiny/a", "tiny/b"])

    def look(backbone: str, samples: int, accuracy: float) -> Measurement:
        arm = next(arm for arm in ground.book.arms if arm.backbone.name == backbone)
        trial = replace(ground.trial(arm, {}), strategy=SCREEN, stage="screen", fraction=samples / SAMPLES)
        scores = {"train": {"accuracy": accuracy}}
        return Measurement(trial=trial, status="complete", scores=scores, counts={"train": samples})

    looking.take(look("tiny/a", 512, 0.6))
    looking.take(look("tiny/b", 512, 0.7))
    looking.take(look("tiny/a", 2000, 0.8))
    assert looking.best() == ["tiny/b", "tiny/a"]
    looking.take(look("tiny/b", 2000, 0.75))
    assert looking.best() == ["tiny/a", "tiny/b"]


def test_a_first_model_comes_right_after_the_first_look() -> None:
    world = World(MANY)
    play(world, Contest(world.ground()))
    first, second = world.asked[0][1], world.asked[1][1]
    assert first.stage == "screen"
    assert second.stage == "search"
    assert second.backbone == first.backbone
    assert second.fraction == first.fraction < 1.0


def test_training_what_is_cached_has_no_augmentation() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    play(world, Contest(world.ground()))
    cached = [trial for stage, trial in world.asked if stage == "cached"]
    assert {strategy_of(trial) for trial in cached} == {"head"}
    assert {trial.params["augmentation"] for trial in cached} == {"none"}
    assert {trial.params["head_start"] for trial in cached} == {"probe"}


def test_the_defaults_of_the_champion_are_among_the_finalists() -> None:
    facts = {"tiny/a": Facts(accuracy=0.9), "tiny/b": Facts(accuracy=0.5)}
    world = World({"tiny/a": 0.3, "tiny/b": 0.8}, facts=facts)
    ground = world.ground()
    play(world, Contest(ground))
    defaults = next(arm for arm in ground.arms("trained") if arm.backbone.name == "tiny/a").component.defaults
    finals = [trial for _, trial in world.asked if trial.stage == "final"]
    of_champion = [trial for trial in finals if trial.backbone.name == "tiny/a" and strategy_of(trial) == "full"]
    wanted = defaults(ground.arms("trained")[0].context)["learning_rate"]
    assert of_champion
    assert {trial.params["learning_rate"] for trial in of_champion} == {wanted}
    assert {trial.epochs for trial in of_champion} == {9}


@pytest.mark.parametrize(("gap", "first"), [(0.01, "tiny/a"), (0.3, "tiny/b")])
def test_the_defaults_are_the_first_final_unless_another_is_clearly_better(gap: float, first: str) -> None:
    facts = {"tiny/a": Facts(accuracy=0.9), "tiny/b": Facts(accuracy=0.5)}
    world = World({"tiny/a": 0.5, "tiny/b": 0.5 + gap}, facts=facts, luck=0.001)
    play(world, Contest(world.ground()))
    finals = [trial for _, trial in world.asked if trial.stage == "final"]
    assert finals[0].backbone.name == first
    (noted,) = (event for event in world.events if event["event"] == "finals")
    own = {trial.key for trial in finals if trial.key in noted["defaults"]}
    assert {trial.backbone.name for trial in finals if trial.key in own} == {"tiny/a"}
    assert len(own) == len(noted["defaults"]) == 2
    assert (finals[0].key in own) == (first == "tiny/a")


def test_what_was_bet_is_asked_again_in_the_same_order_whatever_the_clock_says() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    play(world, Contest(world.ground(budget_s=1500.0, trials=6)))
    bets = [event for event in world.events if event["event"] == "bet"]
    assert len({bet["stage"] for bet in bets}) == 2
    asked = {trial.key: trial for _, trial in world.asked}
    again = World(world.qualities)
    ground = replace(again.ground(budget_s=1500.0, trials=6), bets=bets, is_known=lambda one: one.key in asked)
    ground.clock = replace(ground.clock, now=lambda: 1500.0)  # all time is spent
    play(again, Contest(ground))
    assert {trial.key for _, trial in again.asked} == set(asked)
    assert [event for event in again.events if event["event"] == "bet"] == []
    finals = [[event["keys"] for event in one.events if event["event"] == "finals"] for one in (world, again)]
    assert finals[0] == finals[1]


def test_what_earlier_runs_found_can_win_though_nobody_asks_for_it_again() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    ground = world.ground(trials=2)
    (arm,) = [arm for arm in ground.arms("trained") if strategy_of(ground.trial(arm, {})) == "full"][1:]
    lost = ground.trial(arm, {**arm.defaults(), "learning_rate": 0.0123}, epochs=9)
    best = replace(world.answer(lost), scores={part: {"accuracy": 0.99} for part in ("search", "pick", "validation")})
    other = replace(best, trial=replace(lost, fingerprint="of other data"))
    play(world, Contest(replace(ground, found=lambda known: [best, other])))
    finals = [trial for _, trial in world.asked if trial.stage == "final"]
    assert finals[0].params["learning_rate"] == 0.0123
    assert finals[0].fingerprint == lost.fingerprint
    assert "of other data" not in {trial.fingerprint for trial in finals}


def test_no_reach_is_asked_before_it_is_needed_nor_twice() -> None:
    world = World(MANY)
    contest = Contest(world.ground())
    play(world, contest, until=lambda question: contest.ground.stage == "defaults")
    assert len({backbone for backbone, _ in world.reached}) == 1
    world = World(MANY)
    play(world, Contest(world.ground()))
    assert len(world.reached) == len(set(world.reached))
    assert len({backbone for backbone, _ in world.reached}) <= TRAINED + 1


@pytest.mark.parametrize("budget_s", [60.0, 150.0, 400.0, 1500.0])
def test_a_contest_keeps_to_its_time(budget_s: float) -> None:
    world = World({f"tiny/{letter}": 0.5 + 0.05 * place for place, letter in enumerate("abcde")})
    play(world, contest := Contest(world.ground(budget_s=budget_s, trials=1000)))
    assert contest.done
    assert world.now <= budget_s * 1.15
    assert any(trial.stage == "final" for _, trial in world.asked)


def test_more_time_never_gives_a_worse_answer() -> None:
    best = []
    for budget_s in (60.0, 200.0, 800.0):
        world = World({f"tiny/{letter}": 0.5 + 0.05 * place for place, letter in enumerate("abcde")})
        play(world, Contest(world.ground(budget_s=budget_s, trials=1000)))
        finals = [
            world.answer(trial).score("test", "accuracy") or 0.0 for _, trial in world.asked if trial.stage == "final"
        ]
        best.append(max(finals))
    assert best == sorted(best)


def test_several_workers_ask_in_another_order_and_end_with_the_same_winner() -> None:
    winners = set()
    for workers in (1, 4):
        world = World({"tiny/a": 0.6, "tiny/b": 0.8, "tiny/c": 0.7})
        play(world, contest := Contest(world.ground()), workers)
        assert contest.done
        final = next(trial for _, trial in world.asked if trial.stage == "final")
        winners.add((final.backbone.name, final.strategy.name, final.epochs))
    assert winners == {("tiny/b", "tiny/full", 9)}


def test_the_same_answers_give_the_same_questions() -> None:
    def keys() -> list[str]:
        world = World(MANY)
        play(world, Contest(world.ground()))
        return [trial.key for _, trial in world.asked]

    assert keys() == keys()


def test_what_fails_does_not_end_the_contest() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8}, broken=frozenset({"tiny/full"}))
    play(world, contest := Contest(world.ground()))
    assert contest.done
    finals = {strategy_of(trial) for _, trial in world.asked if trial.stage == "final"}
    assert finals == {"means", "head"}


def test_everything_broken_ends_without_finals() -> None:
    names_of_all = frozenset({"tiny/full", "tiny/head", "tiny/means", "screen"})
    world = World({"tiny/a": 0.6, "tiny/b": 0.8}, broken=names_of_all)
    play(world, contest := Contest(world.ground()))
    assert contest.done
    assert not any(trial.stage == "final" for _, trial in world.asked)


def test_the_screen_is_judged() -> None:
    world = World(MANY)
    play(world, Contest(world.ground()))
    (judged,) = (event for event in world.events if event["event"] == "screened")
    assert judged["tau"] > 0.8
    assert judged["order"][0] == "tiny/net19"


def test_defaults_that_fail_are_not_trained_for_longer() -> None:
    world = World({"tiny/a": 0.6, "tiny/b": 0.8}, broken=frozenset({"tiny/full"}))
    play(world, Contest(world.ground()))
    assert [trial.epochs for stage, trial in world.asked if stage == "defaults"] == [1]


@pytest.mark.parametrize(("share", "epochs"), [(0.5, [1, 9]), (0.07, [1, 3])])
def test_the_defaults_go_straight_to_the_highest_rung_that_fits(
    share: float, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DEFAULTS_SHARE", share)
    monkeypatch.setattr(looking, "SHARES", {"screen": 0.005, "probe": 0.005})
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    play(world, Contest(world.ground(budget_s=1000.0)))
    assert [trial.epochs for stage, trial in world.asked if stage == "defaults"] == epochs
    keys = [trial.key for _, trial in world.asked]
    assert len(keys) == len(set(keys))


def test_defaults_that_do_not_fit_are_opened_like_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "DEFAULTS_SHARE", 0.0)
    monkeypatch.setattr(looking, "SHARES", {"screen": 0.005, "probe": 0.005})
    world = World({"tiny/a": 0.6, "tiny/b": 0.8})
    play(world, Contest(world.ground(budget_s=1000.0)))
    assert not names(world.asked, "defaults")
    full = [trial for stage, trial in world.asked if stage == "tune" and strategy_of(trial) == "full"]
    assert (full[0].backbone.name, full[0].params["learning_rate"], full[0].epochs) == ("tiny/b", 3e-3, 1)


@pytest.mark.parametrize(
    ("strategies", "expected"),
    [((ProbeThenFineTuning, FullFineTuning), "full"), ((ProbeThenFineTuning,), "lp-ft")],
)
def test_the_defaults_are_those_of_plain_fine_tuning_where_there_is_any(
    strategies: tuple[type[Strategy], ...], expected: str
) -> None:
    gains = {"tiny/means": 0.0, "tiny/full": 0.05, "tiny/lp-ft": 0.1}
    world = World({"tiny/a": 0.6, "tiny/b": 0.8}, gains=gains)
    play(world, Contest(world.ground(strategies=(tiny.Means, *strategies))))
    assert {strategy_of(trial) for stage, trial in world.asked if stage == "defaults"} == {expected}


def test_a_single_backbone_is_not_screened() -> None:
    world = World({"tiny/a": 0.6})
    play(world, contest := Contest(world.ground()))
    assert contest.done
    assert not names(world.asked, "screen")
    assert names(world.asked, "tune") == ["tiny/a"]
