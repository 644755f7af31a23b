"""Observers: the plugins that are told of every finished trial, some always and some only when asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, final

from tlbench.entrypoints import missing_requirements
from tlbench.errors import ObserverError, unknown_name
from tlbench.plugins import Plugin, Plugins

if TYPE_CHECKING:
    from tlbench.measurement import Measurement

VARIABLE = "TLBENCH_OBSERVE"
"""Names of observers, separated by commas, that every run is to have besides those it is asked for otherwise."""


@final
class Observers:
    """Who observes one run."""

    def __init__(self, plugins: Sequence[Plugin], folder: Path) -> None:
        self._plugins, self._folder = plugins, folder

    def trial_finished(self, measurement: Measurement) -> None:
        """Tell every observer; what one raises is logged and stops nobody."""
        for plugin in self._plugins:
            try:
                with redirect_stdout(sys.stderr):
                    plugin.hooks.trial_finished(measurement=measurement, folder=self._folder)
            except (Exception, SystemExit):
                import logging  # 10 ms that only a broken plugin costs

                logger = logging.getLogger(__name__)
                logger.warning("plugin '%s': trial_finished raised", plugin.name, exc_info=True)


def open_observers(plugins: Plugins, folder: Path, asked: Iterable[str] = ()) -> Observers:
    """Those that observe always, and those `asked` for here or by `TLBENCH_OBSERVE`, each made ready.

    Raises `UnknownNameError` for a name that is no observer's and `ObserverError` for one that cannot observe.
    """
    listed = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    names = dict.fromkeys([*asked, *(name for name in listed if name)])
    chosen = [_ready(plugins, name) for name in names]  # every name is checked before the first of them does anything
    for plugin in chosen:
        if waits_to_be_asked(plugin):
            plugin.start_observing(folder)
    always = [plugin for plugin in plugins.active.values() if observes(plugin) and not waits_to_be_asked(plugin)]
    return Observers([*always, *(plugin for plugin in chosen if waits_to_be_asked(plugin))], folder)


def observes(plugin: Plugin) -> bool:
    """Whether the plugin is an observer."""
    return plugin.implements("trial_finished")


def waits_to_be_asked(plugin: Plugin) -> bool:
    """Whether the plugin, an observer, observes only when asked for."""
    return plugin.implements("start_observing")


def lacks(plugin: Plugin) -> str:
    """What this environment lacks for the plugin to observe, and the remedy; empty where it lacks nothing.

    A distribution says what its observer needs in an extra that has the plugin's name.
    """
    missing = missing_requirements(plugin.distribution, plugin.name)
    if not missing:
        return ""
    return f"needs {', '.join(missing)}: pip install '{plugin.distribution}[{plugin.name}]'"


def _ready(plugins: Plugins, name: str) -> Plugin:
    """The observer of this name, with what it needs."""
    for aside in plugins.set_aside:
        if aside.name == name and name not in plugins.active:
            raise ObserverError(f"observer '{name}' is set aside: {aside.reason}")
    known = {found.name: found for found in plugins.active.values() if observes(found)}
    if name not in known:
        raise unknown_name("observer", name, known, "tlbench plugins")
    lacking = lacks(known[name])
    if lacking:
        raise ObserverError(f"observer '{name}' {lacking}")
    return known[name]
