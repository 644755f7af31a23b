"""Progress: what a terminal shows while a run goes on, and what is left of it afterwards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from runs import measurement, trial
from tlbench.executors.events import EpochFinished, Event, JobFinished, JobStarted, Notice, RunStarted
from tlbench.progress import Progress
from tlbench.trial import Job, Trial


def shown(events: Sequence[Event], metric: str = "accuracy", width: int = 70, **options: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, height=12, color_system=None, _environ={"TERM": "xterm"}, **options)
    with Progress(metric, console) as progress:
        for event in events:
            progress(event)
    return file.getvalue()


def finished(
    of: Trial, status: str = "complete", reason: str = "", reused: bool = False, **scores: float
) -> JobFinished:
    return JobFinished(measurement=measurement(of, status, reason, **scores), reused=reused, jobs_done=3, jobs_total=8)


def many(of: Trial, job: Job, rows: int, status: str = "complete", **scores: float) -> JobFinished:
    """The end of a job of many rows, of which this is the best."""
    best = measurement(of, status, "no memory" if status == "failed" else "", **scores)
    return JobFinished(measurement=best, rows=rows, job_key=job.key, reused=False, jobs_done=3, jobs_total=8)


def last_screen(text: str) -> list[str]:
    return text[text.rindex("jobs ") :].splitlines()


def test_the_screen_has_running_jobs_and_every_cell_by_its_best_score() -> None:
    running = Job(trial=trial(9, backbone="zoo/" + "long" * 20))
    events: list[Event] = [
        RunStarted(cells=2, jobs_total=8, jobs_done=0),
        finished(trial(0), search=0.5),
        finished(trial(1), search=0.25, test=0.99),
        finished(trial(2), "pruned", search=0.9),
        finished(trial(0, backbone="zoo/b"), search=0.75),
        finished(trial(0, backbone="zoo/b", stage="final"), search=0.9, test=0.99),
        JobStarted(job=running),
        EpochFinished(job=running, epoch=1, score=0.33),
    ]
    lines = last_screen(shown(events, force_terminal=True))
    assert "epoch 1/2  33.0" in lines[1]
    rows = [line.split() for line in lines if line.startswith("zoo/")]
    assert rows[1] == ["zoo/b", "basic/full", "75.0", "1", "1"]
    assert rows[2] == ["zoo/a", "basic/full", "50.0", "3"]


def test_a_job_of_many_rows_is_one_line_and_counts_as_many_trials() -> None:
    job = Job(trial=trial(0), more=tuple(trial(number) for number in range(1, 1200)))
    events = [JobStarted(job=job), many(trial(7), job, 1200, search=0.8125)]
    assert shown(events, width=200).splitlines() == [
        "[3/8] zoo/a basic/full data/digits  0.8125  the best of 1,200  4.0 h"
    ]
    lines = last_screen(shown(events, force_terminal=True))
    assert lines[1].strip() == "", "it is running no longer"
    assert [line.split()[2:4] for line in lines if line.startswith("zoo/a")] == [["81.2", "1200"]]
    failed = shown([many(trial(0), job, 1200, "failed")], width=200)
    assert "1,200 rows  failed: oom: no memory" in failed


def test_a_screen_is_told_by_its_score_and_is_no_trial_of_a_cell() -> None:
    screened = finished(trial(strategy="screen", stage="screen"), train=0.625)
    assert shown([screened]).splitlines() == ["[3/8] zoo/a screen data/digits  0.6250  12 s"]
    assert not any(line.startswith("zoo/a") for line in shown([screened], force_terminal=True).splitlines())


def test_a_budget_shows_what_is_left_of_it_and_counts_no_jobs_that_may_never_be() -> None:
    events: list[Event] = [
        RunStarted(cells=2, jobs_total=300, jobs_done=0, budget_s=600.0, spent_s=300.0),
        finished(trial(), search=0.5),
        JobStarted(job=Job(trial=trial(1, stage="final")), stage="finals"),
    ]
    screen = shown(events, width=100, force_terminal=True)
    assert "finals  3 jobs 0." in screen
    assert "5.0 min of the budget left" in screen
    assert "300 jobs" not in screen.partition("finals")[2]


def test_without_a_budget_the_time_left_is_told_by_the_jobs_done() -> None:
    screen = shown([RunStarted(cells=2, jobs_total=8, jobs_done=0), finished(trial(), search=0.5)], force_terminal=True)
    assert "search  3/8 jobs 0." in screen
    assert ", about 0." in screen


def test_quiet_leaves_failures_and_notices() -> None:
    file = io.StringIO()
    with Progress("accuracy", Console(file=file, width=70), quiet=True) as progress:
        for event in (
            RunStarted(cells=2, jobs_total=8, jobs_done=0),
            finished(trial(), search=0.5),
            finished(trial(1), "failed", "no memory"),
            Notice(text="time ran out"),
        ):
            progress(event)
    failure, notice = file.getvalue().splitlines()
    assert "failed: oom: no memory" in failure
    assert notice == "time ran out"


def test_a_job_that_ended_is_no_longer_running() -> None:
    events: list[Event] = [
        RunStarted(cells=1, jobs_total=8, jobs_done=0),
        JobStarted(job=Job(trial=trial())),
        finished(trial()),
    ]
    lines = last_screen(shown(events, force_terminal=True))
    assert lines[1].strip() == ""


def test_the_lowest_score_is_best_where_lower_is_better() -> None:
    of = {"metric": "nll"}
    events: list[Event] = [
        finished(trial(number, **of), search=score) for number, score in enumerate([0.5, 0.25, 0.75])
    ]
    assert "0.250" in last_screen(shown(events, "nll", force_terminal=True))[3]


def test_a_screen_is_never_higher_than_the_terminal() -> None:
    events: list[Event] = [finished(trial(backbone=f"zoo/{number}"), search=0.5) for number in range(40)]
    lines = last_screen(shown(events, force_terminal=True))
    assert len(lines) <= 12
    assert any(line.startswith("and 34 more") for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_failures_and_notices_outlive_the_screen(terminal: bool) -> None:
    events: list[Event] = [finished(trial(), "failed", "no [b]memory[/b]"), Notice(text="time [i]ran[/i] out")]
    text = shown(events, width=200, force_terminal=terminal)
    assert "[3/8] zoo/a basic/full data/digits  failed: oom: no [b]memory[/b]  12 s\n" in text
    assert "time [i]ran[/i] out\n" in text


def test_without_a_terminal_there_is_one_line_per_job_however_long() -> None:
    events: list[Event] = [
        JobStarted(job=Job(trial=trial())),
        finished(trial(backbone="zoo/" + "x" * 80), search=0.81234),
        finished(trial(seed=2, stage="final"), search=0.5, test=0.99),
        finished(trial(), "pruned", search=0.125),
        finished(trial(1), reused=True, search=0.5),
    ]
    assert shown(events).splitlines() == [
        f"[3/8] zoo/{'x' * 80} basic/full data/digits  0.8123  12 s",
        "[3/8] zoo/a basic/full data/digits final seed 2  0.5000  12 s",
        "[3/8] zoo/a basic/full data/digits  0.1250  pruned  12 s",
    ]
