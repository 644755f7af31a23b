from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from fabricated import COMPONENTS, GOOD, fabricate
from tlbench.benchmark import BackboneDeclaration, Benchmark, DatasetDeclaration
from tlbench.catalog import Catalog
from tlbench.errors import BenchmarkError, PluginError, UnknownNameError
from tlbench.plugins import Plugins, discover
from tlbench.vetting import Kind

RECORDING = (
    COMPONENTS
    + """
asked = []

@hookimpl
def register_backbones():
    return [Net("listed.v1"), Net("stubborn")]

@hookimpl
def register_datasets():
    return [Data("fixed")]

@hookimpl
def find_backbone(name):
    asked.append(name)
    if name == "raising":
        raise RuntimeError("no network")
    return {"listed": Net("listed.v1", "found"), "open": Net("open.v2", "found"), "bad": Net("..")}.get(name)

@hookimpl
def known_backbones():
    return [Net("open.v2", "known"), Net("listed.v1", "known")]

@hookimpl
def find_dataset(name):
    return Data("folder-" + name) if name.startswith("/") is False and name != "nothing" else None
"""
)
BROKEN_DERIVE = (
    COMPONENTS
    + """
class Odd(Net):
    def derive(self, **declaration):
        if self.name == "raises":
            raise ValueError("pad_type is unknown")
        return None

@hookimpl
def register_backbones():
    return [Odd("raises"), Odd("nothing")]
"""
)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sources = {"park": GOOD, "finder": RECORDING, "odd": BROKEN_DERIVE, "broken": "raise ValueError('no licence')\n"}
    for name, source in sources.items():
        fabricate(tmp_path, name, source, version="1.2", module=f"catalog_{name}")
    (tmp_path / "quick.toml").write_text("")
    shipping = dedent("""
        from pathlib import Path

        @hookimpl
        def register_benchmarks():
            return [Path(__file__).parent / "quick.toml"]
    """)
    fabricate(tmp_path, "shipping", "from tlbench.hookspecs import hookimpl\n" + shipping, module="catalog_shipping")
    monkeypatch.setenv("TLBENCH_PLUGINS", ",".join([*sources, "shipping"]))
    yield discover()
    for name in [name for name in sys.modules if name.startswith("catalog_")]:
        del sys.modules[name]


def declaring(*declarations: BackboneDeclaration | DatasetDeclaration) -> Benchmark:
    return Benchmark(
        name="b",
        backbones=(),
        strategies=(),
        datasets=(),
        declared_backbones=tuple(item for item in declarations if isinstance(item, BackboneDeclaration)),
        declared_datasets=tuple(item for item in declarations if isinstance(item, DatasetDeclaration)),
    )


def test_every_registered_component_is_found_under_its_full_name(plugins: Plugins) -> None:
    catalog = Catalog(plugins)
    lookups: dict[Kind, Callable[[str], Any]]
    lookups = {"backbone": catalog.backbone, "strategy": catalog.strategy, "dataset": catalog.dataset}
    for kind, lookup in lookups.items():
        entries = catalog.registered(kind)
        assert [entry.full_name for entry in entries] == [
            f"{plugin.name}/{name}" for plugin in plugins.active.values() for name in plugin.components[kind]
        ]
        for entry in entries:
            assert lookup(entry.full_name) is entry
            assert entry.component is plugins.active[entry.plugin].components[kind][entry.component.name]
            assert (entry.distribution, entry.distribution_version) == (entry.plugin, "1.2")
    assert len(catalog.registered("strategy")) == 1


def test_found_component_has_its_exact_name_and_is_made_once(plugins: Plugins) -> None:
    catalog = Catalog(plugins)
    entry = catalog.backbone("finder/open")
    assert (entry.full_name, entry.component.name, entry.plugin) == ("finder/open.v2", "open.v2", "finder")
    assert catalog.backbone("finder/open") is entry
    assert catalog.backbone("finder/open.v2") is entry
    assert sys.modules["catalog_finder"].asked == ["open"]


def test_found_component_that_is_listed_is_the_listed_one(plugins: Plugins) -> None:
    catalog = Catalog(plugins)
    assert catalog.backbone("finder/listed") is catalog.backbone("finder/listed.v1")
    assert catalog.backbone("finder/listed").component.origin == "registered"


def test_known_backbones_have_full_names_that_are_found(plugins: Plugins) -> None:
    catalog = Catalog(plugins)
    assert catalog.plugins == tuple(plugins.active)
    (entry,) = [entry for plugin in catalog.plugins for entry in catalog.known_backbones(plugin)]
    assert (entry.full_name, entry.plugin, entry.component.origin) == ("finder/open.v2", "finder", "known")
    assert sys.modules["catalog_finder"].asked == []
    assert entry not in catalog.registered("backbone")
    assert catalog.expand("backbone", ["finder/*"]) == ("finder/listed.v1", "finder/stubborn")


def test_only_the_plugin_before_the_slash_is_asked(plugins: Plugins) -> None:
    with pytest.raises(UnknownNameError):
        Catalog(plugins).backbone("park/open")
    assert sys.modules["catalog_finder"].asked == []
    assert Catalog(plugins).dataset("finder/a/b.csv").full_name == "finder/folder-a/b.csv"


def test_plugin_that_breaks_while_finding_is_named(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match=r"plugin 'finder': find_backbone.*'raising'.*RuntimeError: no network"):
        Catalog(plugins).backbone("finder/raising")
    with pytest.raises(PluginError, match=r"plugin 'finder'.*backbone name"):
        Catalog(plugins).backbone("finder/bad")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("backbone", "park/smal", "did you mean 'park/small'? 'tlbench list backbones' shows all"),
        ("strategy", "park/prob", "did you mean 'park/probe'? 'tlbench list strategies' shows all"),
        ("dataset", "park/shape", "did you mean 'park/shapes'? 'tlbench list datasets' shows all"),
        ("dataset", "shapes", "did you mean 'park/shapes'? 'tlbench list datasets' shows all"),
        ("backbone", "park/", "'tlbench list backbones' shows all"),
        ("backbone", "", "'tlbench list backbones' shows all"),
        ("backbone", "find/x", "no plugin 'find': did you mean 'finder'? 'tlbench plugins' shows all"),
        ("backbone", "broken/x", "plugin 'broken' was set aside: its import raised ValueError: no licence"),
        ("dataset", "broken/*", "plugin 'broken' was set aside: its import raised ValueError: no licence"),
        ("backbone", "timm/x", "plugin 'timm' was set aside: left out by TLBENCH_PLUGINS"),
        ("backbone", "park/x*", "'tlbench list backbones' shows all"),
    ],
)
def test_unknown_name_says_what_there_is(plugins: Plugins, kind: Kind, name: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Catalog(plugins).expand(kind, [name])
    asked, _, answer = str(caught.value).partition(": ")
    assert asked in (f"no {kind} '{name}'", f"no {kind} matches '{name}'")
    assert message in answer


def test_declared_backbone_is_derived_from_its_base(plugins: Plugins, tmp_path: Path) -> None:
    declaration = BackboneDeclaration(
        name="mine/net", base="finder/open", weights=tmp_path, options={"a": 1}, preprocess={"size": 8}
    )
    catalog = Catalog(plugins, declaring(declaration))
    entry = catalog.backbone("mine/net")
    assert (entry.full_name, entry.plugin, entry.distribution_version) == ("mine/net", "finder", "1.2")
    assert entry.component.name == "mine/net"
    assert entry.component.origin == ("open.v2", tmp_path, {"a": 1}, {"size": 8})
    assert catalog.backbone("mine/net") is entry
    assert catalog.lineage("mine/net") == (declaration,)
    assert catalog.lineage("finder/open") == ()
    assert entry not in catalog.registered("backbone")
    with pytest.raises(UnknownNameError, match="did you mean 'mine/net'"):
        catalog.backbone("mine/nte")


def test_base_may_be_declared_in_any_order(plugins: Plugins) -> None:
    chain = [BackboneDeclaration(name="mine/b", base="mine/a"), BackboneDeclaration(name="mine/a", base="park/small")]
    entry = Catalog(plugins, declaring(*chain)).backbone("mine/b")
    assert (entry.plugin, entry.component.origin[0]) == ("park", "mine/a")


def test_declaration_that_is_its_own_base_is_refused(plugins: Plugins) -> None:
    circle = [BackboneDeclaration(name="mine/a", base="mine/b"), BackboneDeclaration(name="mine/b", base="mine/a")]
    catalog = Catalog(plugins, declaring(*circle))
    for _ in range(2):  # the second time from the same state
        with pytest.raises(BenchmarkError, match="mine/a -> mine/b -> mine/a"):
            catalog.backbone("mine/a")


def test_declared_dataset_keeps_its_name_where_the_base_derives_itself(plugins: Plugins, tmp_path: Path) -> None:
    plain = DatasetDeclaration(name="mine/few", base="finder/fixed", shots=3)
    moved = DatasetDeclaration(name="mine/moved", base="finder/fixed", path=tmp_path)
    catalog = Catalog(plugins, declaring(plain, moved))
    entry = catalog.dataset("mine/few")
    assert (entry.full_name, entry.component) == ("mine/few", catalog.dataset("finder/fixed").component)
    with pytest.raises(BenchmarkError, match=r"'mine/moved'.*takes neither path"):
        catalog.dataset("mine/moved")


def test_base_that_breaks_while_deriving_is_named(plugins: Plugins) -> None:
    declarations = [BackboneDeclaration(name=f"mine/{name}", base=f"odd/{name}") for name in ("raises", "nothing")]
    catalog = Catalog(plugins, declaring(*declarations))
    with pytest.raises(PluginError, match=r"plugin 'odd'.*'mine/raises' from 'odd/raises'.*pad_type is unknown"):
        catalog.backbone("mine/raises")
    with pytest.raises(PluginError, match=r"plugin 'odd'.*NoneType where a Backbone"):
        catalog.backbone("mine/nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net", "one '/'"),
        ("a/b/c", "one '/'"),
        ("/net", "one '/'"),
        ("mine/", "one '/'"),
        ("park/net", "'park' is a plugin"),
    ],
)
def test_declared_name_that_could_be_a_plugins_is_refused(plugins: Plugins, name: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        Catalog(plugins, declaring(BackboneDeclaration(name=name, base="park/small")))
    with pytest.raises(BenchmarkError, match=message):
        Catalog(plugins, declaring(DatasetDeclaration(name=name, base="park/shapes")))


def test_name_declared_twice_is_refused(plugins: Plugins) -> None:
    twice = [BackboneDeclaration(name="mine/a", base=base) for base in ("park/small", "park/large")]
    with pytest.raises(BenchmarkError, match=r"'mine/a'.*2 times"):
        Catalog(plugins, declaring(*twice))


def test_expand_keeps_order_and_drops_repetitions(plugins: Plugins) -> None:
    catalog = Catalog(plugins, declaring(BackboneDeclaration(name="mine/small", base="park/small")))
    assert catalog.backbones(["park/large", "park/*", "park/small"]) == ("park/large", "park/small")
    assert catalog.backbones(["*/small", "finder/open", "finder/open.v2"]) == (
        "park/small",
        "mine/small",
        "finder/open.v2",
    )
    assert catalog.backbones(["finder/listed", "finder/l[ia]sted.v?"]) == ("finder/listed.v1",)
    assert catalog.strategies(["*"]) == ("park/probe",)
    assert catalog.datasets(["*/*"]) == ("finder/fixed", "park/shapes")
    assert catalog.expand("backbone", []) == ()


def test_shipped_benchmarks_have_full_names(plugins: Plugins, tmp_path: Path) -> None:
    assert Catalog(plugins).benchmarks()["shipping/quick"] == tmp_path / "quick.toml"
