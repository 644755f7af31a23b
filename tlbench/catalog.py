"""The catalog: from a full name, `plugin/name`, to the component it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.errors import BenchmarkError, UnknownNameError, unknown_name
from tlbench.vetting import Kind

if TYPE_CHECKING:
    from tlbench.benchmark import BackboneDeclaration, Benchmark, DatasetDeclaration
    from tlbench.components import Component
    from tlbench.plugins import Plugin, Plugins

_PLURAL: dict[Kind, str] = {"backbone": "backbones", "strategy": "strategies", "dataset": "datasets"}

# What `derive` is told of a declaration. A data set's shots and split seed are the engine's affair, not the plugin's.
_TOLD: dict[Kind, tuple[str, ...]] = {
    "backbone": ("name", "weights", "options", "preprocess"),
    "dataset": ("name", "path", "options"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A component, its full name and where it comes from."""

    full_name: str
    """Exact: `timm/resnet50.a1_in1k` where `timm/resnet50` was asked for; a declared name as it was declared."""

    component: Any
    """The backbone, strategy or data set, vetted as such."""

    plugin: str
    distribution: str
    distribution_version: str


class Catalog:
    """Every component within reach of one benchmark: its own declarations, then what plugins list, then what they find.

    A component is made once; asking again gives the same entry.
    """

    def __init__(
        self, plugins: Plugins, benchmark: Benchmark | None = None, saved: Sequence[BackboneDeclaration] = ()
    ) -> None:
        """Take what plugins have, what a benchmark declares, and the `origins` of a saved model's backbone."""
        self._plugins = plugins
        self._entries: dict[Kind, dict[str, Entry]] = {kind: _registered(plugins, kind) for kind in _PLURAL}
        self._found: dict[tuple[Kind, str], Entry] = {}
        declared = benchmark.declared_backbones if benchmark else ()
        self._backbones = {item.name: item for item in (*declared, *saved)}
        self._datasets = {item.name: item for item in benchmark.declared_datasets} if benchmark else {}
        self._declared: dict[Kind, Mapping[str, BackboneDeclaration | DatasetDeclaration]] = {
            "backbone": self._backbones,
            "strategy": {},
            "dataset": self._datasets,
        }
        self._deriving: list[str] = []
        if benchmark:
            self._check_declared("backbone", [item.name for item in benchmark.declared_backbones])
            self._check_declared("dataset", [item.name for item in benchmark.declared_datasets])

    def backbone(self, name: str) -> Entry:
        """Return the backbone with this full name. Raises `UnknownNameError`, or what its plugin raises."""
        return self._entry("backbone", name)

    def strategy(self, name: str) -> Entry:
        """Return the strategy with this full name. Raises `UnknownNameError`."""
        return self._entry("strategy", name)

    def dataset(self, name: str) -> Entry:
        """Return the data set with this full name. Raises `UnknownNameError`, or what its plugin raises."""
        return self._entry("dataset", name)

    def backbones(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Expand names and patterns of backbones, as `expand` does."""
        return self.expand("backbone", patterns)

    def strategies(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Expand names and patterns of strategies, as `expand` does."""
        return self.expand("strategy", patterns)

    def datasets(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Expand names and patterns of data sets, as `expand` does."""
        return self.expand("dataset", patterns)

    def expand(self, kind: Kind, patterns: Iterable[str]) -> tuple[str, ...]:
        """Return exact full names in the order asked, each once.

        Patterns (`zoo/*`, as in fnmatch) range over what is registered or declared, not over what plugins could find.
        Raises `UnknownNameError` for a name that is unknown and a pattern that matches nothing.
        """
        names = (name for pattern in patterns for name in self._matches(kind, pattern))
        return tuple(dict.fromkeys(names))

    def lineage(self, name: str) -> tuple[BackboneDeclaration, ...]:
        """Return what the benchmark declares under this name and under its bases; nothing for a plugin's own name."""
        declaration = self._backbones.get(name)
        return () if declaration is None else (declaration, *self.lineage(declaration.base))

    def origins(self, name: str) -> tuple[BackboneDeclaration, ...]:
        """Return declarations that make this backbone in any working directory; nothing where its name alone does.

        They are its `lineage`, and one of the plugin's own name at its end, if that was found as a folder.
        """
        lineage = self.lineage(name)
        root = self.backbone(lineage[-1].base if lineage else name)
        if root.component.found_in is None:
            return lineage
        base, folder = root.component.found_in
        from tlbench.benchmark import BackboneDeclaration  # 10 ms that a command which only lists does without

        return (*lineage, BackboneDeclaration(name=root.full_name, base=f"{root.plugin}/{base}", weights=folder))

    def registered(self, kind: Kind) -> tuple[Entry, ...]:
        """Return what plugins list, by plugin and then in the plugin's order."""
        return tuple(self._entries[kind].values())

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the active plugins."""
        return tuple(self._plugins.active)

    def known_backbones(self, plugin: str) -> tuple[Entry, ...]:
        """Return what this plugin finds by name and does not list, in its order. Raises what the plugin raises."""
        active = self._plugins.active[plugin]
        known = active.known_backbones().items()
        return tuple(_entry(active, f"{plugin}/{name}", component) for name, component in known)

    def benchmarks(self) -> dict[str, Path]:
        """Return the benchmark files that plugins ship, by `plugin/stem`."""
        plugins = self._plugins.active.values()
        return {f"{plugin.name}/{stem}": path for plugin in plugins for stem, path in plugin.benchmarks.items()}

    def _matches(self, kind: Kind, pattern: str) -> list[str]:
        if not any(character in pattern for character in "*?["):
            return [self._entry(kind, pattern).full_name]
        names = [name for name in self._known(kind) if fnmatchcase(name, pattern)]
        if not names:
            reason = self._why_missing(pattern) or f"'tlbench list {_PLURAL[kind]}' shows all"
            raise UnknownNameError(f"no {kind} matches '{pattern}': {reason}")
        return names

    def _known(self, kind: Kind) -> list[str]:
        return [*self._entries[kind], *self._declared[kind]]

    def _entry(self, kind: Kind, name: str) -> Entry:
        declared = name in self._declared[kind]  # first: an exported model declares a plugin's own name anew
        entry = self._found.get((kind, name)) or (None if declared else self._entries[kind].get(name))
        if entry is None:
            entry = self._derive(kind, name) if declared else self._find(kind, name)
            self._found[kind, name] = entry
        return entry

    def _derive(self, kind: Kind, name: str) -> Entry:
        """Make the component that the benchmark declares from its base, which may be declared itself."""
        if name in self._deriving:
            raise BenchmarkError(f"{kind} '{name}' is its own base: {' -> '.join([*self._deriving, name])}")
        declaration = self._declared[kind][name]
        self._deriving.append(name)
        try:
            base = self._entry(kind, declaration.base)
        finally:
            self._deriving.pop()
        call = f"deriving '{name}' from '{declaration.base}'"
        make = partial(base.component.derive, **{told: getattr(declaration, told) for told in _TOLD[kind]})
        plugin = self._plugins.active[base.plugin]
        return _entry(plugin, name, plugin.obtain(kind, call, make))

    def _find(self, kind: Kind, name: str) -> Entry:
        """Ask the plugin before the slash. What it finds may be listed, or found before, under its exact name."""
        head, _, rest = name.partition("/")
        plugin = self._plugins.active.get(head)
        component = _finder(plugin, kind)(rest) if plugin is not None and rest else None
        if plugin is None or component is None:
            raise self._unknown(kind, name)
        exact = f"{head}/{component.name}"
        known = self._entries[kind].get(exact) or self._found.get((kind, exact))
        return known or self._found.setdefault((kind, exact), _entry(plugin, exact, component))

    def _unknown(self, kind: Kind, name: str) -> UnknownNameError:
        head, slash, _ = name.partition("/")
        heads = {known.partition("/")[0] for known in (*self._plugins.active, *self._declared[kind])}
        reason = self._why_missing(name)
        if reason is None and slash and head not in heads:
            reason = str(unknown_name("plugin", head, self._plugins.active, "tlbench plugins"))
        if reason is not None:
            return UnknownNameError(f"no {kind} '{name}': {reason}")
        return unknown_name(kind, name, self._known(kind), f"tlbench list {_PLURAL[kind]}")

    def _why_missing(self, name: str) -> str | None:
        """Say that the plugin of `name` was set aside, if that is why the name is unknown."""
        head = name.partition("/")[0]
        reasons = [item.reason for item in self._plugins.set_aside if item.name == head]
        if head in self._plugins.active or not reasons:
            return None
        return f"plugin '{head}' was set aside: {'; '.join(dict.fromkeys(reasons))}. 'tlbench plugins' shows all"

    def _check_declared(self, kind: Kind, names: Sequence[str]) -> None:
        for name in names:
            head, _, rest = name.partition("/")
            if not head or not rest or "/" in rest:
                raise BenchmarkError(f"declared {kind} '{name}': a name with one '/' is needed, as in 'mine/name'")
            if head in self._plugins.active:
                advice = f"'{head}' is a plugin; another word before the '/' is needed, as in 'mine/{rest}'"
                raise BenchmarkError(f"declared {kind} '{name}': {advice}")
            if names.count(name) > 1:
                raise BenchmarkError(f"declared {kind} '{name}': declared {names.count(name)} times; one is needed")


def _registered(plugins: Plugins, kind: Kind) -> dict[str, Entry]:
    entries = [
        _entry(plugin, f"{plugin.name}/{name}", component)
        for plugin in plugins.active.values()
        for name, component in plugin.components[kind].items()
    ]
    return {entry.full_name: entry for entry in entries}


def _entry(plugin: Plugin, full_name: str, component: Any) -> Entry:
    return Entry(
        full_name=full_name,
        component=component,
        plugin=plugin.name,
        distribution=plugin.distribution,
        distribution_version=plugin.distribution_version,
    )


def _finder(plugin: Plugin, kind: Kind) -> Callable[[str], Component | None]:
    """Return the plugin's way to find what it does not list; strategies are all listed."""
    finders: Mapping[Kind, Callable[[str], Component | None]]
    finders = {"backbone": plugin.find_backbone, "dataset": plugin.find_dataset}
    return finders.get(kind, lambda _name: None)
