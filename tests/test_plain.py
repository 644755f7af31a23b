"""The plain plan: fair rounds, failures, finals, the budget, and what stays on the disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import searching
from searching import Folder, benchmark, complete, failed, formula, luck, write_model
from tlbench.benchmark import NamedOptions, StrategyOverride
from tlbench.errors import BenchmarkError, StoreError, UnknownNameError
from tlbench.plugins import discover
from tlbench.search.keeping import PREDICTIONS_KEPT
from tlbench.search.plain import PlainPlan
from tlbench.search.plan import Plan
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, Trial

RANDOM: dict[str, Any] = {"sampler": NamedOptions(name="RandomSampler"), "pruner": NamedOptions(name="NopPruner")}
BOTH = ("backbone", "strategy")


def by_stage(trials: list[Trial], stage: str) -> list[Trial]:
    return [trial for trial in trials if trial.stage == stage]


# Fair rounds (pitfall 32)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_cell_is_ever_more_than_a_trial_ahead(folder: Folder, workers: int) -> None:
    spread = []

    def look(plan: Plan) -> None:
        assert isinstance(plan, PlainPlan)
        counts = [study.asked for study in plan.studies]
        spread.append(max(counts) - min(counts))

    folder.after_tell = look
    folder.run(benchmark(("full", "head", "means"), trials=5, **RANDOM), workers=workers)
    assert set(spread) <= {0, 1}
    counts = Counter(trial.strategy.name for trial in by_stage(folder.evaluated, "search"))
    assert counts == dict.fromkeys(["tiny/full", "tiny/head", "tiny/means"], 5)


def test_stopping_early_has_given_every_cell_its_defaults(folder: Folder) -> None:
    trials = folder.run(benchmark(("full", "head", "means", "thaw"), trials=50), jobs=4)
    assert len({trial.strategy.name for trial in trials}) == 4
    for trial in trials:
        defaults = folder.open(benchmark((trial.strategy.name.split("/")[1],))).studies[0].arms[0].defaults()
        assert trial.params == defaults


# Failures (pitfall 24)


def test_three_failures_in_a_row_end_their_cell_alone_and_stay_as_rows(folder: Folder) -> None:
    folder.run(benchmark(("fails", "full", "diverges"), trials=5, **RANDOM))
    counts = Counter((trial.strategy.name, trial.stage) for trial in folder.evaluated)
    assert counts == {
        ("tiny/fails", "search"): 3,
        ("tiny/diverges", "search"): 3,
        ("tiny/full", "search"): 5,
        ("tiny/full", "final"): 2,
    }
    assert sorted(folder.notices) == [
        "tiny/net tiny/diverges tiny/blobs: 3 trials in a row failed, last: broken by diverged",
        "tiny/net tiny/fails tiny/blobs: 3 trials in a row failed, last: broken by error",
    ]
    rows = [row for row in folder.store.rows() if row["status"] == "failed"]
    assert sorted(row["failure_message"] for row in rows) == ["broken by diverged"] * 3 + ["broken by error"] * 3
    assert sum(event["event"] == "ended" for event in folder.events()) == 2


def test_a_failed_final_is_a_row_and_the_others_are_made(folder: Folder) -> None:
    def answer(trial: Trial, stop: Any) -> Any:
        return failed(trial, "oom") if trial.stage == "final" and trial.seed == 1 else complete(trial, stop)

    folder.run(benchmark(seeds=(0, 1, 2), **RANDOM), answer)
    statuses = {found.trial.seed: found.status for found in folder.store.measurements() if found.trial.stage == "final"}
    assert statuses == {0: "complete", 1: "failed", 2: "complete"}
    assert folder.run(benchmark(seeds=(0, 1, 2), **RANDOM), answer) == []


def test_an_impossible_sampler_is_refused_before_anything_runs(folder: Folder) -> None:
    with pytest.raises(BenchmarkError, match=r"search\.sampler\.name = 'NoSampler'"):
        folder.open(benchmark(sampler=NamedOptions(name="NoSampler")))
    assert folder.store.keys() == []


def test_a_cell_whose_sampler_gives_no_recipe_ends_with_that_reason(folder: Folder) -> None:
    grid = NamedOptions(
        name="GridSampler", options={"search_space": {"learning_rate": [0.1], "label_smoothing": [0.1]}}
    )
    folder.run(benchmark(("full", "means"), sampler=grid, pruner=RANDOM["pruner"]))
    assert any("temperature, is not found" in notice for notice in folder.notices)
    counts = Counter((trial.strategy.name, trial.stage) for trial in folder.evaluated)
    expected = {"tiny/full": 2, "tiny/means": 1}
    assert counts == {(name, "search"): n for name, n in expected.items()} | {(name, "final"): 2 for name in expected}
    assert folder.run(benchmark(("full", "means"), sampler=grid, pruner=RANDOM["pruner"])) == []


# Questions asked twice


def test_equal_questions_are_answered_once(folder: Folder) -> None:
    choices = {"learning_rate": {"choices": [0.001, 0.01]}, "label_smoothing": {"choices": [0.0, 0.1]}}
    override = StrategyOverride(name="tiny/full", ranges=choices)
    for workers in (1, 3):
        run = folder.beside(f"workers {workers}")
        run.run(benchmark(trials=20, overrides=[override], **RANDOM), workers=workers)
        keys = [trial.key for trial in run.evaluated]
        assert len(keys) == len(set(keys))
        assert len(by_stage(run.evaluated, "search")) == 4
        (told,) = run.told().values()
        assert sum(number is not None for number, _, _ in told) == 20


def test_a_random_search_asks_the_same_with_one_worker_and_with_several(folder: Folder) -> None:
    search = benchmark(("full", "means"), trials=6, **RANDOM)
    outcomes = []
    for workers in (1, 2, 4):
        run = folder.beside(str(workers))
        run.run(search, workers=workers)
        results = {found.key: (found.status, found.scores) for found in run.store.measurements()}
        outcomes.append(({study: sorted(keys) for study, keys in run.asked().items()}, results))
    assert outcomes[0] == outcomes[1] == outcomes[2]


# Finals


def test_finals_are_the_selected_recipe_once_per_seed(folder: Folder) -> None:
    folder.run(benchmark(("full", "means"), seeds=(3, 1, 4), trials=6, **RANDOM))
    found = {one.key: one for one in folder.store.measurements()}
    finals = by_stage(folder.evaluated, "final")
    assert [trial.seed for trial in finals] == [3, 3, 1, 1, 4, 4]  # no cell waits for another's last seed
    for event in folder.events():
        if event["event"] == "finals":
            (selected,) = event["selected"]
            (keys,) = event["keys"]
            recipe = found[selected].trial
            assert [found[key].trial for key in keys] == [
                replace(recipe, stage="final", seed=seed) for seed in (3, 1, 4)
            ]


def test_the_selection_never_looks_at_test_scores(folder: Folder) -> None:
    def turned(trial: Trial, stop: Any) -> Any:
        measurement = complete(trial, stop)
        scores = dict(measurement.scores)
        if "test" in scores:
            scores["test"] = {"accuracy": 1 - luck(trial, "test"), "nll": luck(trial, "test")}
        return replace(measurement, scores=scores)

    plain, other = folder.beside("plain"), folder.beside("turned")
    for run, answer in ((plain, complete), (other, turned)):
        run.run(benchmark(("full", "means"), over=BOTH, trials=12, **RANDOM), answer)
        run.run(benchmark(("full", "means"), over=BOTH, trials=16, **RANDOM), answer)
    assert plain.outcome()["finals"] == other.outcome()["finals"]
    assert plain.asked() == other.asked()


@pytest.mark.parametrize("over", [("backbone",), ("strategy",), BOTH])
def test_what_is_searched_over_shares_a_study(folder: Folder, over: tuple[str, ...]) -> None:
    folder.run(benchmark(("full", "head", "means"), over=over, trials=12, **RANDOM))
    studies = folder.asked()
    assert len(studies) == (1 if "strategy" in over else 3)
    assert all(len(asked) == 12 for asked in studies.values())
    finals = Counter(trial.strategy.name for trial in by_stage(folder.evaluated, "final"))
    assert finals == dict.fromkeys(["tiny/full", "tiny/head", "tiny/means"], 2)


# The budget


class Clock:
    """Time that passes by `job_s` with every job."""

    def __init__(self, folder: Folder, monkeypatch: pytest.MonkeyPatch, job_s: float) -> None:
        self.now, self.job_s = 1000.0, job_s
        folder.clock = lambda: self.now
        monkeypatch.setattr("tlbench.search.plan.time.monotonic", lambda: self.now)

    def answer(self, trial: Trial, stop: Any) -> Any:
        self.now += self.job_s
        return complete(trial, stop, total_s=self.job_s)


@pytest.mark.parametrize("sessions", [1, 4])
def test_the_budget_is_kept_finals_included_over_all_sessions(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    clock = Clock(folder, monkeypatch, job_s=10.0)
    search = benchmark(("full", "means"), seeds=(0, 1, 2), trials=1000, budget_s=205.0, **RANDOM)
    for session in range(sessions):
        folder.run(search, clock.answer, jobs=None if session == sessions - 1 else 3)
        clock.now += 500.0  # between two sessions, nobody counts
    assert len(by_stage(folder.evaluated, "final")) == 6
    assert len(by_stage(folder.evaluated, "search")) == 15, "60 s of 205 s are for finals; the 15th starts in time"
    assert sum("search ends after" in notice for notice in folder.notices) == 1
    assert max(event["spent_s"] for event in folder.events() if "spent_s" in event) <= 215.0
    assert folder.run(search, clock.answer) == []


def test_every_finalist_s_retraining_is_reserved(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(folder, monkeypatch, job_s=10.0)
    search = benchmark(("full", "head", "means"), over=BOTH, trials=1000, budget_s=300.0, **RANDOM)
    folder.run(search, clock.answer)
    assert len(by_stage(folder.evaluated, "final")) == 3 * 2
    assert clock.now <= 1000.0 + 310.0


def test_more_time_lets_a_search_go_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(folder, monkeypatch, job_s=10.0)
    search = benchmark(trials=1000, budget_s=100.0, **RANDOM)
    folder.run(search, clock.answer)
    before = folder.asked()
    more = replace(search, search=replace(search.search, budget_s=200.0))
    folder.run(more, clock.answer)
    ((study, asked),) = folder.asked().items()
    assert asked[: len(before[study])] == before[study]
    assert len(asked) > len(before[study])


def test_no_final_starts_after_the_end(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(folder, monkeypatch, job_s=10.0)

    def slow_in_the_end(trial: Trial, stop: Any) -> Any:
        if trial.stage == "final":
            clock.now += 200.0
        return clock.answer(trial, stop)

    folder.run(benchmark(seeds=(0, 1, 2), trials=1000, budget_s=100.0, **RANDOM), slow_in_the_end)
    assert len(by_stage(folder.evaluated, "final")) == 1


# What stays on the disk


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_best_model_so_far_is_always_there_and_alone(folder: Folder, metric: str, workers: int) -> None:
    told = 0

    def look(plan: Plan) -> None:
        assert isinstance(plan, PlainPlan)
        nonlocal told
        found = folder.store.measurements()
        scores = {one.key: one.score("validation", metric) for one in found if one.trial.stage == "search"}
        searched = [key for key in folder.store.model_keys() if key in scores]
        finals = {one.key for one in found if one.trial.stage == "final"}
        assert set(folder.store.model_keys()) - set(searched) == finals
        choose = max if metric == "accuracy" else min
        assert [scores[key] for key in searched] == [choose(value for value in scores.values() if value is not None)]
        told += 1

    folder.after_tell = look
    folder.run(benchmark(("full", "means"), metric=metric, trials=8, **RANDOM), workers=workers)
    assert told == 2 * 8 + 2 * 2


def test_a_pruned_trial_is_never_the_incumbent(folder: Folder) -> None:
    threshold = NamedOptions(name="ThresholdPruner", options={"lower": 0.4})
    folder.run(benchmark(trials=30, sampler=RANDOM["sampler"], pruner=threshold))
    found = {one.key: one for one in folder.store.measurements()}
    pruned = [one for one in found.values() if one.status == "pruned"]
    assert len(pruned) >= 5
    assert all(one.curve and one.curve[-1].search_score < 0.4 for one in pruned)  # type: ignore[operator]
    assert {found[key].status for key in folder.store.model_keys()} == {"complete"}


def test_an_incumbent_is_found_again_under_other_search_settings(folder: Folder) -> None:
    folder.run(benchmark(trials=9, **RANDOM))
    found = {one.key: one for one in folder.store.measurements() if one.trial.stage == "search"}
    (incumbent,) = set(folder.store.model_keys()) & set(found)
    folder.run(benchmark(trials=1, sampler=NamedOptions(name="TPESampler"), pruner=RANDOM["pruner"]))
    assert set(folder.store.model_keys()) & set(found) == {incumbent}


def test_models_of_other_data_and_of_a_killed_job_go(folder: Folder) -> None:
    folder.run(benchmark(trials=1, **RANDOM), jobs=1)
    (key,) = folder.store.model_keys()
    known = folder.store.get(key)
    assert known is not None
    folder.store.discard(key)
    changed = replace(known, trial=replace(known.trial, fingerprint="another"))
    for gone in (changed.key, "0123456789abcdef"):
        folder.store.save_model(gone, write_model, {})
    folder.store.put(changed, None)
    folder.open(benchmark(trials=1, **RANDOM))
    assert folder.store.model_keys() == []
    assert folder.store.get(changed.key) is not None


def test_predictions_stay_of_finals_and_of_the_ten_best_of_each_cell(folder: Folder) -> None:
    folder.run(benchmark(("full", "means"), trials=PREDICTIONS_KEPT + 5, **RANDOM))
    found = folder.store.measurements()
    expected = {one.key for one in found if one.trial.stage == "final"}
    for name in ("tiny/full", "tiny/means"):
        cell = [one for one in found if one.trial.stage == "search" and one.trial.strategy.name == name]
        assert len(cell) > PREDICTIONS_KEPT
        cell.sort(key=lambda one: -(one.score("search", "accuracy") or 0.0))
        expected |= {one.key for one in cell[:PREDICTIONS_KEPT]}
    assert folder.outcome()["predictions"] == expected


# A disk that fills


@pytest.mark.parametrize("write", ["put", "save_model"])
def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    search = benchmark(("full", "means"), trials=4, **RANDOM)
    undisturbed = folder.beside("undisturbed")
    undisturbed.run(search)
    for fails_at in (1, 2, 3):
        calls, real = 0, getattr(Store, write)

        def full(store: Store, *arguments: Any, fails_at: int = fails_at, real: Any = real) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise StoreError("no space left on device")
            real(store, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Store, write, full)
            with pytest.raises(StoreError, match="no space"):
                folder.run(search)
    folder.run(search)
    assert searching.canonical(folder.outcome()) == searching.canonical(undisturbed.outcome())


def test_progress_counts_up_to_the_total(folder: Folder) -> None:
    seen = []
    folder.after_tell = lambda plan: seen.append((plan.jobs_done, plan.jobs_total))
    folder.run(benchmark(("full", "fails"), trials=5, **RANDOM), formula)
    assert seen[-1] == (5 + 3 + 2, 5 + 3 + 2)
    assert [done for done, _ in seen] == list(range(1, 11))
    assert all(done <= total for done, total in seen)
    folder.open(benchmark(("full", "fails"), trials=5, **RANDOM))
    assert folder.open(benchmark(("full", "fails"), trials=5, **RANDOM)).jobs_done == 10


# Controls


@pytest.fixture
def with_controls(tmp_path: Path, tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("TLBENCH_DISABLE_PLUGINS")
    monkeypatch.setenv("TLBENCH_PLUGINS", "tiny,controls")
    return Folder(tmp_path / "run", discover())


@pytest.mark.parametrize("over", [(), BOTH])
def test_controls_are_cells_of_their_own_with_the_same_effort(with_controls: Folder, over: tuple[str, ...]) -> None:
    """Whatever the file says: those of the data's modality, once each, never searched together with backbones."""
    trials = with_controls.run(benchmark(("full", "means"), trials=3, over=over, **RANDOM))
    controls = {trial.strategy.name for trial in trials if trial.backbone == NO_BACKBONE}
    assert controls == {"controls/majority", "controls/pixel-svm"}
    events = with_controls.events()
    cells = [event["cell"] for event in events if event["event"] == "opened"]
    assert [each["strategy"] for each in cells if each["backbone"] == "none"] == sorted(controls)
    assert len(cells) == (3 if over else 4)
    assert [each["backbone"] for each in cells[:2]] == ["none", "none"], "no budget is too small for them"
    studies = Counter(event["study"] for event in events if event["event"] == "asked" and event["stage"] == "search")
    assert set(studies.values()) == {3}
    assert all(trial.weights == "none" and trial.epochs == 0 for trial in trials if trial.backbone == NO_BACKBONE)
    finals = Counter(trial.strategy.name for trial in by_stage(trials, "final"))
    assert all(finals[control] == 2 for control in controls)


def test_a_control_that_is_named_is_not_paired_with_backbones(with_controls: Folder) -> None:
    named = replace(benchmark(("full",)), strategies=("tiny/full", "controls/*"))
    trials = with_controls.run(named)
    assert {trial.strategy.name for trial in trials if trial.backbone != NO_BACKBONE} == {"tiny/full"}


def test_a_controls_parameters_may_be_fixed_and_reserved_names_are_not_its_own(with_controls: Folder) -> None:
    fixed = StrategyOverride(name="controls/pixel-svm", fixed={"c": 3.0}, ranges={})
    trials = with_controls.run(benchmark(("full",), overrides=[fixed]))
    assert {trial.params["c"] for trial in trials if trial.strategy.name == fixed.name} == {3.0}
    wrong = replace(fixed, fixed={"learning_rate": 0.1})
    with pytest.raises(UnknownNameError, match="no parameter of strategy 'controls/pixel-svm' called 'learning_rate'"):
        with_controls.beside("other").run(benchmark(("full",), overrides=[wrong]))


def test_where_nothing_is_compared_there_is_no_board_for_controls(with_controls: Folder) -> None:
    with pytest.raises(BenchmarkError, match="the strategies named are controls alone"):
        with_controls.run(replace(benchmark(), strategies=("controls/majority",)))
