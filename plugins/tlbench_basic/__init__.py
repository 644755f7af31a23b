"""The first-party plugin `basic`: the transfer strategies everybody compares."""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.components import Strategy
from tlbench.hookspecs import hookimpl
from tlbench_basic.fine_tuning import FullFineTuning, Scratch
from tlbench_basic.probes import LinearProbe


@hookimpl
def register_strategies() -> Iterable[Strategy]:
    """Every strategy of this plugin."""
    return [LinearProbe(), FullFineTuning(), Scratch()]
