"""A plan: what hands out jobs and is told results; it knows neither processes nor Ray."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field

from tlbench.benchmark import Benchmark
from tlbench.journal import Journal
from tlbench.measurement import Measurement
from tlbench.store import Store
from tlbench.trial import Job


@dataclass(kw_only=True)
class Plan(ABC):
    """What an executor sees of a search.

    A plan made anew over the same journal and store goes on where the last one stopped.
    """

    benchmark: Benchmark
    store: Store
    journal: Journal
    workers: int = 1
    spent_before_s: float = 0.0
    """Wall clock of the runs that this one continues."""

    start: float = field(default_factory=time.monotonic)
    notices: deque[str] = field(default_factory=deque)
    """Lines for whoever watches, since the executor last looked."""

    doings: deque[str] = field(default_factory=deque)
    """Lines about what it is at, since the executor last looked."""

    answers: deque[Measurement] = field(default_factory=deque)
    """Results found in the store since the executor last looked."""

    jobs_done: int = 0

    @property
    def spent_s(self) -> float:
        """Wall clock of this run and of those it continues."""
        return self.spent_before_s + time.monotonic() - self.start

    @property
    @abstractmethod
    def cells(self) -> int:
        """How many competitors are searched."""

    @property
    @abstractmethod
    def stage(self) -> str:
        """What it is at, in a word."""

    @property
    @abstractmethod
    def jobs_total(self) -> int:
        """How many jobs there will be, as far as it is known."""

    @abstractmethod
    def ask(self) -> Job | None:
        """The next job; None while everything waits for results, and when all is done."""

    @abstractmethod
    def report(self, key: str, epoch: int, score: float) -> bool:
        """Whether to stop the running job `key` after `epoch`."""

    @abstractmethod
    def tell(self, measurement: Measurement) -> None:
        """A job's result, stored already; of a job of many rows each one."""

    @abstractmethod
    def stop(self) -> None:
        """Hand out no more jobs: what runs may be told, the rest is for another run."""
