"""Events: what an executor tells whoever watches a run."""

from __future__ import annotations

from dataclasses import dataclass

from tlbench.measurement import Measurement
from tlbench.trial import Job


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The run is planned; `jobs_done` of about `jobs_total` jobs were found in the results folder."""

    cells: int
    jobs_total: int
    jobs_done: int
    budget_s: float | None = None
    """Wall clock of the whole run; None: no limit."""

    spent_s: float = 0.0
    """What earlier runs took of it."""


@dataclass(frozen=True, kw_only=True)
class JobStarted:
    """A worker took a job."""

    job: Job
    stage: str = "search"
    """Of the plan, in a word."""


@dataclass(frozen=True, kw_only=True)
class EpochFinished:
    """A running job reached the end of an epoch (1 for the first)."""

    job: Job
    epoch: int
    score: float


@dataclass(frozen=True, kw_only=True)
class JobFinished:
    """A job ended; `reused` where its result was found in the results folder."""

    measurement: Measurement
    """Its result; of several the best one, or the first where none is complete."""

    rows: int = 1
    """How many results it has."""

    job_key: str | None = None
    """None: the measurement's key."""

    reused: bool
    jobs_done: int
    jobs_total: int

    @property
    def key(self) -> str:
        """The job's key."""
        return self.job_key or self.measurement.key


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One line about the run: a cell that ended early, time that ran out."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Doing:
    """One line about what is being done beside trials, such as measuring speed."""

    text: str


Event = RunStarted | JobStarted | EpochFinished | JobFinished | Notice | Doing
