"""Progress: what a run is doing, live on a terminal, or one line per finished job elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tlbench.benchmark import higher_is_better
from tlbench.executors.events import Doing, EpochFinished, Event, JobFinished, JobStarted, Notice, RunStarted
from tlbench.leaderboard.export import duration, score_text
from tlbench.measurement import Measurement
from tlbench.trial import Trial

_REFRESHES_PER_S = 4
_LINES_AROUND = 6  # the bar, headings, blank lines and the cursor's own


@dataclass(kw_only=True)
class _Running:
    trial: Trial
    since: float
    epoch: int | None = None
    score: float | None = None


@dataclass(kw_only=True)
class _Cell:
    best: float | None = None
    finished: int = 0
    failed: int = 0
    finals: int = 0


@final
class Progress:
    """Shows the events of one run; call it with each of them, inside its `with` block.

    Scores are search scores: no test score is shown while choices are still being made.
    """

    def __init__(self, metric: str, console: Console | None = None, quiet: bool = False) -> None:
        """`metric` is the benchmark's; `console`: standard error unless given; `quiet`: failures and notices alone."""
        self._metric, self._quiet = metric, quiet
        self._console = console or Console(stderr=True, highlight=False)
        self._animated = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._start = time.monotonic()
        self._done = self._total = 0
        self._stage = "search"
        self._budget_s: float | None = None
        self._spent_s, self._ran = 0.0, 0
        self._running: dict[str, _Running] = {}
        self._cells: dict[tuple[str, str, str], _Cell] = {}
        self._lock = threading.RLock()  # Live draws in a thread of its own; an interrupt may come while it is held
        self._live: AbstractContextManager[object] = nullcontext()

    def __enter__(self) -> Progress:
        """Start drawing, where there is a terminal to draw on."""
        self._start = time.monotonic()
        if self._animated:
            self._live = Live(
                get_renderable=self._screen, console=self._console, refresh_per_second=_REFRESHES_PER_S, transient=True
            )
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop drawing and clear what was drawn."""
        self._live.__exit__(kind, error, traceback)

    def __call__(self, event: Event) -> None:
        """Take note of `event`, and print the line that outlives it, if there is one."""
        with self._lock:
            line = self._note(event)
        if line is not None:
            self._console.print(line, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line that outlives the screen; may be called by the handler of a signal."""
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def _note(self, event: Event) -> Text | None:
        match event:
            case RunStarted():
                self._done, self._total = event.jobs_done, event.jobs_total
                self._budget_s, self._spent_s = event.budget_s, event.spent_s
                return None if self._quiet else Text(_opening(event))
            case JobStarted():
                self._stage = event.stage
                self._running[event.job.key] = _Running(trial=event.job.trial, since=time.monotonic())
            case EpochFinished() if event.job.key in self._running:
                running = self._running[event.job.key]
                running.epoch, running.score = event.epoch, event.score
            case JobFinished():
                return self._finished(event)
            case Notice():
                return Text(event.text, style="yellow")
            case Doing() if not self._quiet:
                return Text(event.text, style="dim")
        return None

    def _finished(self, event: JobFinished) -> Text | None:
        """Count the job; its line, unless the screen shows it anyway or an earlier run printed it."""
        self._done, self._total = event.jobs_done, event.jobs_total
        self._ran += not event.reused
        measurement = event.measurement
        self._running.pop(event.key, None)
        self._count(measurement, event.rows)
        if measurement.status != "failed" and (self._animated or self._quiet or event.reused):
            return None
        outcome = self._outcome(measurement, event.rows)
        text = Text(f"[{event.jobs_done}/{event.jobs_total}] {_names(measurement.trial)}  {outcome}")
        if measurement.status == "failed":
            text.stylize("red")
        return text

    def _count(self, measurement: Measurement, rows: int) -> None:
        """Count the rows of a job for the cell of the best; a screen is nobody's trial."""
        trial = measurement.trial
        if trial.stage == "screen":
            return
        cell = self._cells.setdefault((trial.dataset.name, trial.backbone.name, trial.strategy.name), _Cell())
        if measurement.status == "failed":
            cell.failed += rows
        elif trial.stage == "final":
            cell.finals += 1
        else:
            cell.finished += rows
        score = measurement.score("search", self._metric)
        if score is not None and trial.stage == "search" and measurement.status == "complete":
            choose = max if higher_is_better(self._metric) else min
            cell.best = score if cell.best is None else choose(cell.best, score)

    def _outcome(self, measurement: Measurement, rows: int) -> str:
        """A score, of several rows the best, or a reason, and the time it took; of a screen its leave-one-out score."""
        screened = measurement.score("train", "accuracy") if measurement.trial.stage == "screen" else None
        score = measurement.score("search", self._metric) if screened is None else screened
        parts = [] if score is None else [f"{score:.4f}"]
        if rows > 1:
            parts.append(f"the best of {rows:,}" if score is not None else f"{rows:,} rows")
        if measurement.failure is not None:
            parts.append(f"{measurement.status}: {measurement.failure.kind}: {_line(measurement.failure.message)}")
        elif measurement.status != "complete":
            parts.append(measurement.status)
        seconds = measurement.cost.get("total_s")
        return "  ".join(parts if seconds is None else [*parts, duration(seconds * rows)])

    def _screen(self) -> RenderableType:
        """The whole live display, cut to the terminal's height."""
        with self._lock:
            running = list(self._running.values())
            rows = max(self._console.height - _LINES_AROUND - len(running), 3)
            parts: list[RenderableType] = [Text(), self._bar()]
            parts += [self._jobs(running)] if running else []
            parts += [Text(), *self._board(rows)] if self._cells else []
        return Group(*parts)

    def _bar(self) -> RenderableType:
        """How far the run is: through its budget, in which nobody knows how many trials there will be, or its jobs."""
        if self._budget_s is None:
            done, total, jobs = float(self._done), float(max(self._total, 1)), f"{self._done}/{self._total}"
        else:
            spent_s = self._spent_s + time.monotonic() - self._start
            done, total, jobs = spent_s, self._budget_s, str(self._done)
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=total, completed=min(done, total), width=30)
        grid.add_row(bar, Text(f"{self._stage}  {jobs} jobs", style="bold"), Text(self._times()))
        return grid

    def _times(self) -> str:
        """How long it has taken, and how long it may take yet: by the budget, else by the jobs done in this run."""
        elapsed_s = time.monotonic() - self._start
        if self._budget_s is not None:
            left_s = max(self._budget_s - self._spent_s - elapsed_s, 0.0)
            return f"{duration(elapsed_s)}, {duration(left_s)} of the budget left"
        if not self._ran:
            return duration(elapsed_s)
        left_s = elapsed_s / self._ran * max(self._total - self._done, 0)
        return f"{duration(elapsed_s)}, about {duration(left_s)} left"

    def _jobs(self, running: list[_Running]) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        for _ in range(3):
            grid.add_column(no_wrap=True, justify="right")
        now = time.monotonic()
        for job in running:
            epoch = "" if job.epoch is None else f"epoch {job.epoch}/{job.trial.epochs}"
            grid.add_row(
                _shortened(_names(job.trial), "cyan"),
                Text(epoch),
                Text(self._percent(job.score)),
                Text(duration(now - job.since)),
            )
        return grid

    def _board(self, rows: int) -> Iterator[RenderableType]:
        """The cells by best search score, per data set, and how many there was no room for."""
        several = len({dataset for dataset, _, _ in self._cells}) > 1
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in (("data set",) if several else ()) + ("backbone", "strategy"):
            table.add_column(heading)
        for heading in ("best so far", "trials", "failed", "finals"):
            table.add_column(heading, no_wrap=True, justify="right")
        sign = -1 if higher_is_better(self._metric) else 1
        cells = sorted(
            self._cells.items(),
            key=lambda item: (item[0][0], item[1].best is None, sign * (item[1].best or 0.0), item[0]),
        )
        for names, cell in cells[:rows]:
            counts = [Text(str(number or "")) for number in (cell.finished, cell.failed, cell.finals)]
            counts[1].stylize("red")
            table.add_row(
                *(_shortened(name) for name in names[0 if several else 1 :]), Text(self._percent(cell.best)), *counts
            )
        yield table
        if len(cells) > rows:
            yield Text(f"and {len(cells) - rows} more", style="dim")

    def _percent(self, score: float | None) -> str:
        return score_text(score, self._metric, None)


def _opening(event: RunStarted) -> str:
    known = f"; {event.jobs_done} done by an earlier run" if event.jobs_done else ""
    jobs = f", about {event.jobs_total} jobs" if event.jobs_total else ""  # of a staged search time decides how many
    return f"{event.cells} cell{'' if event.cells == 1 else 's'}{jobs}{known}"


def _names(trial: Trial) -> str:
    final = f" final seed {trial.seed}" if trial.stage == "final" else ""
    return f"{trial.backbone.name} {trial.strategy.name} {trial.dataset.name}{final}"


def _shortened(names: str, style: str = "") -> Text:
    """Names that give way, in a column that may wrap, before the numbers beside them do."""
    return Text(names, style=style, no_wrap=True, overflow="ellipsis")


def _line(text: str) -> str:
    return " ".join(text.split())
