"""Replay: a run that dies at any moment goes on as if nothing had happened; what answers a question and what never."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

import tiny
from searching import Folder, Killed, benchmark, canonical, complete, dying_at, failed
from tlbench.benchmark import Benchmark, NamedOptions, StrategyOverride
from tlbench.evaluation.evaluate import EVALUATOR_VERSION
from tlbench.store import Store
from tlbench.trial import Trial

RANDOM: dict[str, Any] = {"sampler": NamedOptions(name="RandomSampler"), "pruner": NamedOptions(name="NopPruner")}
TPE = NamedOptions(name="TPESampler", options={"n_startup_trials": 2, "multivariate": True, "group": True})
SEARCHES: dict[str, Benchmark] = {
    "tpe, halving": benchmark(("full", "means", "fails"), trials=4, epochs=4, sampler=TPE),
    "over both axes": benchmark(("full", "means"), seeds=(0,), trials=6, epochs=9, over=("backbone", "strategy")),
    "hyperband": benchmark(
        ("full", "diverges"),
        seeds=(0,),
        trials=8,
        epochs=9,
        sampler=TPE,
        pruner=NamedOptions(name="HyperbandPruner", options={"max_resource": 9}),
    ),
    "grid of doubles": benchmark(
        ("full",),
        trials=20,
        sampler=NamedOptions(
            name="GridSampler",
            options={"search_space": {"learning_rate": [1e-3, 3e-3, 1e-2], "label_smoothing": [0.0, 0.1]}},
        ),
        pruner=NamedOptions(name="ThresholdPruner", options={"lower": 0.3}),
    ),
}


# Death at every write


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_run_that_dies_at_any_write_ends_like_one_that_does_not(
    folder: Folder, name: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder per moment, just before and just after a write in turn; after death, the rest in one go."""
    undisturbed = folder.beside("undisturbed")
    undisturbed.run(SEARCHES[name])
    expected, jobs = canonical(undisturbed.outcome()), len(undisturbed.evaluated)
    moment, lived = 0, False
    while not lived:
        run = folder.beside(str(moment))
        try:
            with dying_at(1 + moment // 2, moment % 2 == 0, monkeypatch):
                run.run(SEARCHES[name])
            lived = True
        except Killed:
            run.run(SEARCHES[name])
        assert canonical(run.outcome()) == expected, moment
        assert len(run.evaluated) <= jobs + 1, "only the job at hand is computed again"
        shutil.rmtree(run.path)
        moment += stride
    assert moment > 50


def test_a_run_that_dies_again_and_again_ends_like_one_that_does_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, undisturbed = SEARCHES["tpe, halving"], folder.beside("undisturbed")
    undisturbed.run(search)
    deaths = 0
    while True:
        try:
            with dying_at(7 + deaths, bool(deaths % 2), monkeypatch):
                folder.run(search)
            break
        except Killed:
            deaths += 1
    assert deaths >= 5
    assert canonical(folder.outcome()) == canonical(undisturbed.outcome())


@pytest.mark.parametrize("name", SEARCHES)
def test_with_several_workers_nothing_finished_is_repeated_and_the_journal_holds(folder: Folder, name: str) -> None:
    search, sessions = SEARCHES[name], 0
    while folder.run(search, workers=3, jobs=4):
        sessions += 1
    assert sessions >= 2
    keys = [trial.key for trial in folder.evaluated]
    assert len(keys) == len(set(keys))
    studies = folder.asked()
    assert len(studies) == len(folder.open(search).studies), "no study had to begin anew"
    told = folder.told()
    for study, asked in studies.items():
        assert [number for number, _ in asked] == list(range(len(asked)))
        answered = [number for number, _, _ in told[study] if number is not None]
        assert sorted(answered) == list(range(len(asked)))


def test_a_finished_run_does_nothing(folder: Folder) -> None:
    search = SEARCHES["tpe, halving"]
    folder.run(search)
    before = canonical(folder.outcome())
    assert folder.run(search) == []
    assert canonical(folder.outcome()) == before


def test_a_torn_line_at_the_journal_s_end_is_as_if_it_was_never_written(folder: Folder) -> None:
    search, undisturbed = SEARCHES["tpe, halving"], folder.beside("undisturbed")
    undisturbed.run(search)
    folder.run(search, jobs=5)
    journal = folder.path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    folder.run(search)
    assert canonical(folder.outcome()) == canonical(undisturbed.outcome())


# What answers a question


@pytest.mark.parametrize("kind", ["error", "diverged", "oom", "timeout"])
def test_a_failure_of_the_trial_answers_its_question_until_it_is_to_be_retried(folder: Folder, kind: str) -> None:
    search = benchmark(trials=3, **RANDOM)
    first = folder.run(search, lambda trial, stop: failed(trial, kind))
    assert len(first) == 3
    assert folder.run(search, complete) == []
    again = folder.run(search, complete, retry_failed=True)
    assert [trial.key for trial in again[:3]] == [trial.key for trial in first]
    assert len(again) == 3 + 2
    assert {found.status for found in folder.store.measurements()} == {"complete"}
    assert folder.run(search, complete, retry_failed=True) == []


def test_a_retry_repeats_no_success(folder: Folder) -> None:
    search = benchmark(("full", "fails"), trials=4, **RANDOM)
    folder.run(search)
    stamps = mtimes(folder, "complete")
    again = folder.run(search, retry_failed=True)
    assert {trial.strategy.name for trial in again} == {"tiny/fails"}
    assert mtimes(folder, "complete") == stamps


def test_infrastructure_never_answers(folder: Folder) -> None:
    search = benchmark(trials=5, **RANDOM)
    lost: list[str] = []

    def answer(trial: Trial, stop: Any) -> Any:
        if trial.stage == "search" and len(lost) < 1:
            lost.append(trial.key)
            return failed(trial, "infrastructure")
        return complete(trial, stop)

    folder.run(search, answer)
    assert folder.store.get(lost[0]).status == "failed"  # type: ignore[union-attr]
    again = folder.run(search, answer)
    assert again[0].key == lost[0]
    undisturbed = folder.beside("undisturbed")
    undisturbed.run(search, complete)
    assert folder.outcome()["results"].items() >= undisturbed.outcome()["results"].items()


def test_a_final_lost_with_its_worker_is_made_again_and_nothing_else(folder: Folder) -> None:
    search = benchmark(seeds=(0, 1, 2), trials=3, **RANDOM)

    def answer(trial: Trial, stop: Any) -> Any:
        lost = trial.stage == "final" and trial.seed == 1
        return failed(trial, "infrastructure") if lost else complete(trial, stop)

    folder.run(search, answer)
    (again,) = folder.run(search, complete)
    assert (again.stage, again.seed) == ("final", 1)
    assert folder.run(search, complete) == []
    assert folder.open(search).jobs_done == 3 + 3


def test_pruned_answers_only_the_study_that_pruned_it(folder: Folder) -> None:
    threshold = NamedOptions(name="ThresholdPruner", options={"lower": 0.5})
    strict = benchmark(trials=12, sampler=RANDOM["sampler"], pruner=threshold)
    folder.run(strict)
    pruned = {found.key for found in folder.store.measurements() if found.status == "pruned"}
    assert len(pruned) >= 3
    assert folder.run(strict) == [], "its own study takes it as it is"
    again = {trial.key for trial in folder.run(benchmark(trials=12, **RANDOM)) if trial.stage == "search"}
    assert again == pruned, "another study needs these whole, and only these"
    assert {found.status for found in folder.store.measurements()} == {"complete"}
    assert folder.run(strict) == [], "whole results answer the strict study too, in a new record"


@pytest.mark.parametrize("loss", ["missing", "damaged"])
def test_a_lost_result_is_computed_again_and_only_that(folder: Folder, loss: str) -> None:
    search = benchmark(trials=5, **RANDOM)
    folder.run(search)
    before = folder.outcome()
    ((_, asked),) = folder.asked().items()
    lost = asked[2][1]
    if loss == "missing":
        shutil.rmtree(folder.path / "measurements" / lost)
    else:
        (folder.path / "measurements" / lost / "measurement.json").write_text("{")
    assert [trial.key for trial in folder.run(search)] == [lost]
    assert folder.outcome()["results"] == before["results"]
    assert any("its record cannot be followed" in notice for notice in folder.notices)


# Edited files, changed data


def test_more_trials_go_on_where_the_search_stopped(folder: Folder) -> None:
    folder.run(benchmark(trials=2, sampler=TPE))
    (study,) = folder.asked()
    more = folder.run(benchmark(trials=4, sampler=TPE))
    ((same, asked),) = folder.asked().items()
    assert same == study
    assert [number for number, _ in asked] == [0, 1, 2, 3]
    assert [trial.key for trial in more if trial.stage == "search"] == [key for _, key in asked[2:]]
    straight = folder.beside("straight")
    straight.run(benchmark(trials=4, sampler=TPE))
    assert straight.asked() == folder.asked()


def test_fewer_trials_end_the_search(folder: Folder) -> None:
    folder.run(benchmark(trials=4, **RANDOM), jobs=2)
    stages = [trial.stage for trial in folder.run(benchmark(trials=1, **RANDOM))]
    assert stages == ["search", "final", "final"], "the one that was asked already, then finals"


@pytest.mark.parametrize(
    "edit",
    [
        {"sampler": TPE},
        {"pruner": NamedOptions(name="MedianPruner")},
        {"over": ("strategy",)},
        {"overrides": [StrategyOverride(name="tiny/full", ranges={"warmup": {"low": 0.0, "high": 0.2}})]},
    ],
)
def test_edited_search_settings_open_a_new_study_that_reuses_equal_results(
    folder: Folder, edit: dict[str, Any]
) -> None:
    folder.run(benchmark(trials=3, **RANDOM))
    before = {trial.key for trial in folder.evaluated}
    computed = [trial.key for trial in folder.run(benchmark(**{"trials": 3, **RANDOM, **edit}))]
    assert not before & set(computed)
    first, second = folder.asked().values()
    assert first[0] == second[0], "the defaults are the same question"
    assert len(computed) < 3 + 2


def test_another_metric_or_more_epochs_are_other_questions(folder: Folder) -> None:
    folder.run(benchmark(trials=3, **RANDOM))
    for edit in ({"metric": "nll"}, {"epochs": 4}, {"seed": 5}):
        assert len(folder.run(benchmark(trials=3, **edit, **RANDOM))) >= 3


def test_changed_data_is_another_question(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    search = benchmark(trials=3, **RANDOM)
    first = folder.run(search)
    monkeypatch.setattr(tiny.Blobs, "fingerprint", "changed")
    second = folder.run(search)
    assert [trial.params for trial in second[:3]] == [trial.params for trial in first[:3]]
    assert not {trial.key for trial in first} & {trial.key for trial in second}
    assert {trial.fingerprint for trial in second} == {"changed"}
    assert len(folder.asked()) == 2
    assert len(second) == len(first) == 5


def test_a_changed_search_space_is_searched_anew_and_says_so(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    search = benchmark(trials=4, **RANDOM)
    folder.run(search)

    def wider(self: Any, trial: Any, context: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1.0, log=True)}

    monkeypatch.setattr(tiny._Everything, "space", wider)
    again = folder.run(search)
    assert folder.notices == [
        "tiny/net tiny/full tiny/blobs: its record cannot be followed; searching anew with the results in store"
    ]
    assert len([trial for trial in again if trial.stage == "search"]) == 3, "the defaults are in store"
    assert folder.run(search) == []


def test_a_benchmark_with_a_competitor_more_keeps_the_others(folder: Folder) -> None:
    folder.run(benchmark(("full",), trials=3, **RANDOM))
    added = folder.run(benchmark(("full", "means"), trials=3, **RANDOM))
    assert {trial.strategy.name for trial in added} == {"tiny/means"}


def test_results_of_a_newer_evaluator_are_other_questions(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder.run(benchmark(trials=2, **RANDOM))
    monkeypatch.setattr("tlbench.search.opening.EVALUATOR_VERSION", EVALUATOR_VERSION + 1)
    assert len(folder.run(benchmark(trials=2, **RANDOM))) == len(first)


def test_random_weights_of_another_architecture_are_other_questions(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training from scratch does not look at pretrained weights, but at what random ones are drawn for."""
    monkeypatch.setattr(tiny.Full, "pretrained", False)
    first = folder.run(benchmark(trials=2, **RANDOM))
    assert {trial.weights for trial in first} == {"random"}
    monkeypatch.setattr(tiny.Tiny, "weights", lambda self: "sha256:1")
    assert folder.run(benchmark(trials=2, **RANDOM)) == []
    monkeypatch.setattr(tiny.Tiny, "random_weights", lambda self: "random sha256:2")
    assert len(folder.run(benchmark(trials=2, **RANDOM))) == len(first)


def test_what_was_asked_and_never_told_is_asked_again_before_anything_new(folder: Folder) -> None:
    search = benchmark(("full", "means"), trials=5, sampler=TPE)
    plan = folder.open(search)
    first = {job.key for job in (plan.ask(), plan.ask(), plan.ask()) if job}
    again = folder.open(search)
    assert {job.key for job in (again.ask(), again.ask(), again.ask()) if job} == first


def mtimes(folder: Folder, status: str) -> dict[str, int]:
    store: Store = folder.store
    found = {one.key for one in store.measurements() if one.status == status}
    return {key: (store.path / "measurements" / key / "measurement.json").stat().st_mtime_ns for key in found}
