"""Incumbents: what a search would ship at any time, the model with the best validation score so far."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A model that was the best at a time."""

    elapsed_s: float
    """Since the method was started, imports included."""

    validation: float
    file: str
    """In the folder of the incumbents."""

    what: str
    """Backbone and strategy."""


@final
class Incumbents:
    """The log of one search; processes of it may write in turn."""

    def __init__(self, folder: Path, start: float) -> None:
        """Take `start`, when the search was started, in seconds since the epoch."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.start = folder, start
        self._log = folder / "incumbents.jsonl"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search was started."""
        return time.time() - self.start

    def read(self) -> list[Incumbent]:
        """All so far, in their order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Incumbent(**json.loads(line)) for line in lines]

    def offer(self, validation: float, save: Callable[[Path], None], what: str, *, always: bool = False) -> None:
        """Let a model be the incumbent if it is better than the last one, or `always`; its time counts once saved."""
        with self._locked():
            known = self.read()
            if known and validation <= known[-1].validation and not always:
                return
            file = self.folder / f"{len(known):03}.model"
            save(file)
            incumbent = Incumbent(elapsed_s=self.elapsed_s, validation=validation, file=file.name, what=what)
            with self._log.open("a") as log:
                log.write(json.dumps(asdict(incumbent)) + "\n")

    def count_trial(self) -> None:
        """Note that a trial begins."""
        with self._locked(), (self.folder / "trials").open("a") as file:
            file.write(f"{self.elapsed_s:.2f}\n")

    @property
    def trials(self) -> int:
        """Trials that were begun."""
        file = self.folder / "trials"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
