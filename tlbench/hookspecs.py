"""The hooks a plugin may implement. Entry-point group `tlbench`; mark implementations with `hookimpl`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tlbench.components import Backbone, Dataset
    from tlbench.measurement import Measurement
    from tlbench.strategies import Strategy

hookspec = pluggy.HookspecMarker("tlbench")
hookimpl = pluggy.HookimplMarker("tlbench")


@hookspec
def register_backbones() -> Iterable[Backbone]:  # type: ignore[empty-body]
    """The backbones that `tlbench list backbones` shows and that patterns in a benchmark file range over."""


@hookspec
def register_strategies() -> Iterable[Strategy]:  # type: ignore[empty-body]
    """The transfer strategies of this plugin."""


@hookspec
def register_datasets() -> Iterable[Dataset]:  # type: ignore[empty-body]
    """The data sets of this plugin; one that needs a path of the user's is declared in the file with `base`."""


@hookspec
def register_benchmarks() -> Iterable[Path]:  # type: ignore[empty-body]
    """Benchmark files shipped with the plugin: `tlbench run plugin/stem`."""


@hookspec
def known_backbones() -> Iterable[Backbone]:  # type: ignore[empty-body]
    """The backbones that `find_backbone` finds by their very names and that `tlbench list backbones --all` shows.

    Asked for then alone. Their `facts` come without importing anything heavy. Registered ones may be among them.
    """


@hookspec
def find_backbone(name: str) -> Backbone | None:
    """The backbone called `name` (without the plugin's name before it) that is not listed, or None."""


@hookspec
def find_dataset(name: str) -> Dataset | None:
    """The data set called `name` (without the plugin's name before it) that is not listed, or None."""


@hookspec
def start_observing(folder: Path) -> None:
    """A run into the results folder begins, and this plugin was asked to observe it by name; nothing is trained yet.

    Who implements this observes only when asked, so this is the place to import what observing needs. Raise a
    `TlbenchError` for what the user can mend: it ends the run.
    """


@hookspec
def trial_finished(measurement: Measurement, folder: Path) -> None:
    """Observe a trial of the run into the results folder, just finished. What this raises is logged and never fatal.

    Results that the folder had already are not told again.
    """
