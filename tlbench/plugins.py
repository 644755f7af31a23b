"""Plugins: found through entry points, vetted, and set aside with a reason where they break the contract."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pluggy

from tlbench import hookspecs
from tlbench.components import Backbone, Component, Dataset
from tlbench.entrypoints import GROUP, SetAside, candidates, check_requirements, identity, one_line, set_aside
from tlbench.errors import PluginError, TlbenchError, unknown_name
from tlbench.timelimit import Overdue, limited
from tlbench.vetting import Kind, vet, vet_benchmark, vet_plugin_name

if TYPE_CHECKING:
    import logging

__all__ = ["Plugin", "Plugins", "SetAside", "discover"]

TIMEOUT_S = 20.0
"""A plugin that takes this long to load is set aside, unless TLBENCH_PLUGIN_TIMEOUT says otherwise."""

_REGISTER: dict[Kind, str] = {
    "backbone": "register_backbones",
    "strategy": "register_strategies",
    "dataset": "register_datasets",
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A loaded plugin and what it registered, each component vetted and under its name without the plugin's."""

    name: str
    distribution: str
    distribution_version: str
    module: str
    components: Mapping[Kind, Mapping[str, Component]]
    benchmarks: Mapping[str, Path]
    """Benchmark files by stem."""

    hooks: pluggy.HookRelay = field(repr=False, compare=False)
    """Calls this plugin and no other."""

    def find_backbone(self, name: str) -> Backbone | None:
        """Ask the plugin for an unlisted backbone. Raises as `obtain`."""
        return cast("Backbone | None", self._find("backbone", name))

    def find_dataset(self, name: str) -> Dataset | None:
        """Ask the plugin for an unlisted data set. Raises as `obtain`."""
        return cast("Dataset | None", self._find("dataset", name))

    def known_backbones(self) -> Mapping[str, Component]:
        """Backbones that the plugin finds and does not register, each vetted, by name. Raises `PluginError`."""
        with _blame(f"plugin '{self.name}'"), redirect_stdout(sys.stderr):
            known = _components(self.hooks, "backbone", "known_backbones")
        return {name: backbone for name, backbone in known.items() if name not in self.components["backbone"]}

    def implements(self, hook: str) -> bool:
        """Whether the plugin has a function for this hook."""
        return bool(getattr(self.hooks, hook).get_hookimpls())

    def start_observing(self, folder: Path) -> None:
        """Tell the plugin that it was asked to observe a run. Raises as `obtain`."""
        with _blame(f"plugin '{self.name}': start_observing"), redirect_stdout(sys.stderr):
            self.hooks.start_observing(folder=folder)

    def obtain(self, kind: Kind, call: str, make: Callable[[], object]) -> Component:
        """Run code of this plugin that makes a component, and vet what it makes; `call` names the code in messages.

        Raises `PluginError` for whatever goes wrong, but lets the plugin's own `TlbenchError`s through.
        """
        with _blame(f"plugin '{self.name}': {call}"), redirect_stdout(sys.stderr):
            made = make()
            vet(kind, made)
        return cast(Component, made)

    def _find(self, kind: Kind, name: str) -> Component | None:
        hook = f"find_{kind}"
        with _blame(f"plugin '{self.name}': {hook}({name!r})"), redirect_stdout(sys.stderr):
            found = getattr(self.hooks, hook)(name=name)
        return self.obtain(kind, f"{hook}({name!r})", lambda: found[0]) if found else None


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The plugins of this environment by name, and those set aside."""

    active: Mapping[str, Plugin]
    set_aside: tuple[SetAside, ...] = ()


def discover() -> Plugins:
    """Load every plugin of this environment; a broken one costs its own components and nothing else.

    `TLBENCH_PLUGINS=a,b` loads only these, `TLBENCH_DISABLE_PLUGINS=a,b` all but these. With `TLBENCH_STRICT=1` a
    plugin set aside is a `PluginError`. The time limit holds in the main thread of a POSIX system.
    """
    timeout_s = _timeout_s()
    points, aside = candidates()
    active: dict[str, Plugin] = {}
    for point in points:
        try:
            with redirect_stdout(sys.stderr):  # `--format json` stays parseable whatever a plugin prints
                plugin = limited(partial(_load, point), timeout_s, f"plugin '{point.name}'")
        except Overdue as error:
            aside.append(set_aside(point, f"{error}; TLBENCH_PLUGIN_TIMEOUT is the limit in seconds"))
        except (Exception, SystemExit) as error:
            _logger().debug("plugin '%s' is set aside", point.name, exc_info=True)
            aside.append(set_aside(point, str(error)))
        else:
            active[plugin.name] = plugin
    plugins = Plugins(active=active, set_aside=tuple(sorted(aside, key=lambda item: (item.name, item.reason))))
    if os.environ.get("TLBENCH_STRICT", "") not in ("", "0"):
        _refuse_set_aside(plugins)
    return plugins


def _timeout_s() -> float:
    text = os.environ.get("TLBENCH_PLUGIN_TIMEOUT") or str(TIMEOUT_S)
    with suppress(ValueError):
        seconds = float(text)
        if seconds > 0 and math.isfinite(seconds):
            return seconds
    raise PluginError(f"TLBENCH_PLUGIN_TIMEOUT={text}: a number of seconds greater than 0 is needed")


def _load(point: EntryPoint) -> Plugin:
    vet_plugin_name(point.name)
    distribution, version = identity(point)
    check_requirements(point)
    with _blame("its import"):
        plugin = point.load()
    hooks = _register(plugin, point.name)
    return Plugin(
        name=point.name,
        distribution=distribution,
        distribution_version=version,
        module=point.module,
        components={kind: _components(hooks, kind, hook) for kind, hook in _REGISTER.items()},
        benchmarks=_benchmarks(hooks),
        hooks=hooks,
    )


def _register(plugin: object, name: str) -> pluggy.HookRelay:
    """Relay hook calls to `plugin` alone: one manager each, so that what pluggy refuses is thrown away whole."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    known = list(vars(manager.hook))
    with _blame("registering its hooks"):
        manager.register(plugin, name)
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        raise PluginError("it implements no hook: mark its functions with tlbench.hookspecs.hookimpl")
    for caller in callers:
        for implementation in caller.get_hookimpls():
            if not caller.has_spec() and not implementation.optionalhook:
                raise unknown_name("hook", caller.name, known)
            if implementation.wrapper or implementation.hookwrapper:
                raise PluginError(f"{caller.name} is a wrapper: only plain hooks are called")
    return manager.hook


def _components(hooks: pluggy.HookRelay, kind: Kind, hook: str) -> dict[str, Component]:
    components: dict[str, Component] = {}
    with _blame(hook):
        for component in _results(hooks, hook):
            name = vet(kind, component)
            if name in components:
                raise PluginError(f"two components named '{name}'")
            components[name] = component
    return components


def _benchmarks(hooks: pluggy.HookRelay) -> dict[str, Path]:
    hook = "register_benchmarks"
    benchmarks: dict[str, Path] = {}
    with _blame(hook):
        for path in _results(hooks, hook):
            stem = vet_benchmark(path)
            if stem in benchmarks:
                raise PluginError(f"two benchmarks named '{stem}'")
            benchmarks[stem] = path
    return benchmarks


def _results(hooks: pluggy.HookRelay, hook: str) -> Iterator[Any]:
    caller = getattr(hooks, hook)
    results = caller()
    if len(results) < len(caller.get_hookimpls()):  # pluggy leaves None out
        raise PluginError("returned None where an iterable is needed")
    for result in results:
        if isinstance(result, str) or not isinstance(result, Iterable):
            raise PluginError(f"returned {type(result).__name__} where an iterable is needed")
        yield from result


@contextmanager
def _blame(call: str) -> Iterator[None]:
    """Turn what a plugin raises in the body into a `PluginError` that says in which `call`."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{call}: {error}") from error
    except TlbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(one_line(f"{call} raised {type(error).__name__}: {error}")) from error


def _refuse_set_aside(plugins: Plugins) -> None:
    refused = [
        f"'{item.name}' of {item.distribution}: {item.reason}" for item in plugins.set_aside if not item.by_choice
    ]
    if refused:
        raise PluginError(f"TLBENCH_STRICT: set aside: {'; '.join(refused)}. 'tlbench plugins' without it shows all")


def _logger() -> logging.Logger:
    import logging  # 10 ms that only a broken plugin costs

    return logging.getLogger(__name__)
