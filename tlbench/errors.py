"""What can go wrong: errors a user can mend, and the ways in which a trial can fail."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

FailureKind = Literal["error", "diverged", "oom", "timeout", "infrastructure"]


class TlbenchError(Exception):
    """Something the user can mend: printed as one line without a traceback, exit status 2."""


class BenchmarkError(TlbenchError):
    """A benchmark file that cannot be run as it stands."""


class UnknownNameError(TlbenchError):
    """A name that no plugin answers to."""


class QuantityError(TlbenchError):
    """A number or a time that cannot be read."""


class PluginError(TlbenchError):
    """A plugin or a component that breaks the contract of `tlbench.components`."""


class ObserverError(TlbenchError):
    """An observer that was asked for and cannot observe."""


class DataError(TlbenchError):
    """A data set that cannot be used as it stands."""


class WeightsError(TlbenchError):
    """Pretrained weights that are neither on this machine nor within reach."""


class StoreError(TlbenchError):
    """A results folder that cannot be read, written or continued."""


class SpeedError(TlbenchError):
    """A speed that cannot be measured, or speeds that cannot be compared."""


class CacheError(TlbenchError):
    """A cache that cannot be read, written or cleared."""


class TrialFailure(Exception):
    """A trial that ends without a result: it becomes a row and never ends the run."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def unknown_name(what: str, name: str, known: Iterable[str], command: str | None = None) -> UnknownNameError:
    """The error for `name`, with the closest of `known` and the `command` that lists them all."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    advice = [f"did you mean '{close[0]}'?"] if close else []
    advice += [f"'{command}' shows all"] if command else []
    return UnknownNameError(f"no {what} '{name}'" + (": " + " ".join(advice) if advice else ""))
