"""The shape of the code, read from its syntax trees: floors, doors, names, the test door, documentation and sizes.

Every rule is a function from sources to what breaks it, and is shown to fail on a source made to break it.
"""

from __future__ import annotations

import ast
import graphlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import pytest

from tlbench.plugins import discover

ROOT = Path(__file__).parents[1]
MODULE_LINES, FUNCTION_LINES = 350, 60

FLOORS = {
    **dict.fromkeys(
        ["errors", "quantities", "seeds", "spaces", "parameters", "components", "strategies", "hookspecs"], 0
    ),
    **dict.fromkeys(["trial", "measurement", "speed", "statistics"], 1),
    **dict.fromkeys(["toml", "table", "readers", "benchmark", "files", "caches", "journal"], 1),
    **dict.fromkeys(["parquet", "batches", "store"], 1),
    "samples": 1,
    **dict.fromkeys(["timelimit", "entrypoints", "vetting", "plugins", "observers", "catalog"], 2),
    "evaluation": 3,
    "search": 4,
    "executors": 5,
    "leaderboard": 5,
    **dict.fromkeys(["api", "doctor", "listing", "progress", "proposal", "selection", "stream"], 6),
    "commands": 7,
    "cli": 8,
}
"""By the first part of a module's name inside tlbench: a module, or a folder and all in it."""

DOORS = {
    "click": ["tlbench.cli", "tlbench.commands.*"],
    "datasets": [],
    "onnx": [],
    "onnxruntime": ["tlbench.evaluation.graphs"],
    "onnxscript": [],
    "optuna": ["tlbench.search.*"],
    "pandas": ["tlbench.leaderboard.*"],
    "peft": [],
    "psutil": ["tlbench.evaluation.*"],
    "pluggy": ["tlbench.hookspecs", "tlbench.plugins"],
    "pyarrow": ["tlbench.parquet", "tlbench.samples.reading"],
    "pynvml": ["tlbench.evaluation.nvml"],
    "ray": ["tlbench.executors.ray*"],
    "rich": ["tlbench.progress", "tlbench.leaderboard.export"],
    "timm": [],
    "torch": ["tlbench.evaluation.*"],
    "torchvision": ["tlbench.evaluation.*"],
    "transformers": [],
}
"""The modules that may import a library; no module of tlbench may where the list is empty."""


@dataclass(frozen=True)
class Source:
    """A module's name and text."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


def read(folder: Path) -> list[Source]:
    """Every module of the package at `folder`."""
    sources = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        package = parts[-1] == "__init__"
        sources.append(Source(".".join(parts[: len(parts) - package]), path.read_text(), package))
    return sources


ENGINE = read(ROOT / "tlbench")
PLUGINS = [source for folder in sorted((ROOT / "plugins").glob("tlbench_*")) for source in read(folder)]


# Imports


def imported(source: Source, modules: Iterable[str]) -> set[str]:
    """Full names of all modules that run-time code of `source` imports, wherever the import stands.

    `modules`: the known ones, which tell `from package import module` from `from module import name`.
    """
    known, names = set(modules), set()
    for node in _run_time(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            inside = {f"{origin}.{alias.name}" for alias in node.names}
            names |= inside & known or {origin}
            names |= {origin} if inside - known else set()
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
            names |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        yield from _run_time(child)


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def floor(module: str) -> int:
    """The floor of a module of tlbench; KeyError where `FLOORS` lacks it."""
    return FLOORS[module.split(".")[1]]


def floor_breaches(sources: list[Source]) -> list[str]:
    """Imports that go up, or sideways into another folder. The face, tlbench itself, is nobody's to import."""
    names = {source.name for source in sources}
    breaches = []
    for source in sources:
        if source.name == "tlbench":
            continue
        for target in sorted(imported(source, names)):
            if target.split(".")[0] != "tlbench" and not target.startswith("."):
                continue
            sideways = target.rpartition(".")[0] == source.folder or target == source.folder
            if target not in names - {"tlbench"} or floor(target) >= floor(source.name) + sideways:
                breaches.append(f"{source.name} imports {target}")
    return breaches


def cycle(sources: list[Source]) -> list[str]:
    """The modules of one import cycle, if there is any."""
    names = {source.name for source in sources}
    graph = {source.name: imported(source, names) & names for source in sources}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def door_breaches(sources: list[Source]) -> list[str]:
    """Imports of a library by a module that is not its door."""
    breaches = []
    for source in sources:
        for target in sorted(imported(source, ())):
            doors = DOORS.get(target.split(".")[0])
            if doors is not None and not any(fnmatchcase(source.name, door) for door in doors):
                breaches.append(f"{source.name} imports {target}")
    return breaches


def face_breaches(sources: list[Source]) -> list[str]:
    """What importing a package of the engine imports besides the standard library: it has to wait until it is used."""
    breaches = []
    for source in sources:
        if not source.is_package:
            continue
        eager = [node for node in source.tree.body if not isinstance(node, ast.FunctionDef)]
        face = Source(source.name, ast.unparse(ast.Module(eager, [])))
        allowed = {"__future__", "importlib", "typing", "collections.abc"}
        breaches += [f"{source.name} imports {target}" for target in sorted(imported(face, ()) - allowed)]
    return breaches


@pytest.mark.parametrize("rule", [floor_breaches, cycle, door_breaches, face_breaches])
def test_imports_keep_floors_and_doors(rule: Callable[[list[Source]], list[str]]) -> None:
    assert rule(ENGINE) == []


def test_every_module_has_a_floor_and_every_floor_a_module() -> None:
    found = {source.name.split(".")[1] for source in ENGINE if source.name != "tlbench"}
    assert found == FLOORS.keys()


@pytest.mark.parametrize(
    "text",
    [
        "import tlbench.cli",
        "from tlbench import cli",
        "from tlbench.cli import main",
        "from tlbench import run_benchmark",
        "def later():\n    from tlbench.search.plain import Plain",
        "import importlib\nimportlib.import_module('tlbench.cli')",
        "from . import cli",
        "if not TYPE_CHECKING:\n    import tlbench.cli",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import tlbench.cli",
        "from tlbench import evaluation",
    ],
)
def test_floor_rule_can_fail(text: str) -> None:
    assert floor_breaches([*ENGINE, Source("tlbench.trial", text)]) != []


def test_floor_rule_looks_at_folders() -> None:
    sideways = Source("tlbench.executors.local", "from tlbench.leaderboard.table import read_leaderboard")
    allowed = Source("tlbench.executors.local", "import torch\nfrom tlbench.executors.events import Event")
    types = Source("tlbench.trial", "if TYPE_CHECKING:\n    from tlbench.cli import main")
    assert floor_breaches([*ENGINE, sideways]) == ["tlbench.executors.local imports tlbench.leaderboard.table"]
    assert floor_breaches([*ENGINE, allowed, types]) == []


def test_cycle_rule_can_fail() -> None:
    one = Source("tlbench.one", "def f():\n    from tlbench import two")
    two = Source("tlbench.two", "import tlbench.one")
    assert set(cycle([one, two])) == {"tlbench.one", "tlbench.two"}
    assert cycle([one, Source("tlbench.two", "if TYPE_CHECKING:\n    import tlbench.one")]) == []


@pytest.mark.parametrize("library", DOORS)
def test_door_rule_can_fail(library: str) -> None:
    texts = [f"import {library}.inner", f"def f():\n    from {library} import x", f"import_module('{library}')"]
    assert all(door_breaches([Source("tlbench.trial", text)]) for text in texts)
    for door in DOORS[library]:
        assert door_breaches([Source(door.replace("*", "_remote"), texts[0])]) == []


def test_face_rule_can_fail() -> None:
    assert face_breaches([Source("tlbench", "from tlbench.api import run_benchmark", is_package=True)]) != []
    assert face_breaches([Source("tlbench", "def f():\n    import tlbench.api", is_package=True)]) == []


# Names


def constants(source: Source) -> Iterator[str]:
    """Text in the code that is no documentation."""
    notes = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def named_components(sources: list[Source], plugins: set[str], components: set[str]) -> list[str]:
    """Text that is a component's name or begins with a plugin's, and a slash."""
    prefixes = tuple(f"{plugin}/" for plugin in plugins)
    return [
        f"{source.name}: {text!r}"
        for source in sources
        for text in constants(source)
        if text in components or text.startswith(prefixes)
    ]


def first_party() -> tuple[set[str], set[str]]:
    """Names of the plugins of this distribution, and of all they register."""
    plugins = [plugin for plugin in discover().active.values() if plugin.distribution == "tlbench"]
    components = {name for plugin in plugins for kind in plugin.components.values() for name in kind}
    return {plugin.name for plugin in plugins}, components


def test_the_engine_names_no_component() -> None:
    plugins, components = first_party()
    assert {"basic", "controls", "data", "timm", "transformers"} <= plugins
    assert {"linear-probe", "scratch", "digits", "images"} <= components
    # Of the engine's own, and libraries whose versions it records: with a slash they count.
    words = {"controls", "data", "timm", "transformers"}
    names = plugins | {"zoo"}
    assert named_components(ENGINE, names, components | names - words) == []


def test_name_rule_can_fail() -> None:
    text = '"""About basic/full."""\nx = f"basic/{name}"\ny = "scratch"\nz = "basically"\nclass C:\n    "scratch"'
    found = named_components([Source("tlbench.one", text)], {"basic"}, {"scratch"})
    assert sorted(found) == ["tlbench.one: 'basic/'", "tlbench.one: 'scratch'"]


# The test door


def uses(sources: list[Source], name: str) -> list[str]:
    """Modules that refer to `name`, once per reference; definitions and imports are none."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name | ast.Attribute) and _last_name(node) == name:
                found.append(source.name)
        found += [source.name for text in constants(source) if text == name]
    return found


@pytest.mark.parametrize("name", ["load_test", "held_out_test"])
def test_test_data_has_one_door(name: str) -> None:
    assert uses([*ENGINE, *PLUGINS], name) == ["tlbench.evaluation.final"]


def test_what_is_sealed_is_behind_the_same_door() -> None:
    """The section for what is computed of test samples: the caches' list names it, and the door."""
    assert sorted(uses([*ENGINE, *PLUGINS], "sealed")) == ["tlbench.caches", "tlbench.evaluation.final"]
    assert uses([*ENGINE, *PLUGINS], "SEALED") == ["tlbench.evaluation.final"] * 2


def test_door_count_can_fail() -> None:
    text = "from m import load_test\ndef load_test(self): ...\nd.load_test(0)\nf = d.load_test\ngetattr(d, 'load_test')"
    assert uses([Source("tlbench.one", text)], "load_test") == ["tlbench.one"] * 3


# Safety


def unsafe(sources: list[Source]) -> list[str]:
    """Whatever could run code that comes with data or with a model."""
    breaches = []
    for source in sources:
        breaches += [f"{source.name} imports {target}" for target in _unpicklers(source)]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and not _is_safe(node):
                breaches.append(f"{source.name}, line {node.lineno}: {ast.unparse(node)[:60]}")
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                risky = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value in _FLAGS]
                breaches += [f"{source.name}, line {node.lineno}" for value in risky if not _is(value, False)]
    return breaches


_UNPICKLERS = ("pickle", "cloudpickle", "marshal", "shelve", "dill")
_FLAGS = ("trust_remote_code", "allow_pickle")


def _unpicklers(source: Source) -> list[str]:
    return sorted(target for target in imported(source, ()) if target.split(".")[0] in _UNPICKLERS)


def _is_safe(call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if any(not _is(keywords[flag], False) for flag in _FLAGS if flag in keywords):
        return False
    return ast.unparse(call.func) != "torch.load" or _is(keywords.get("weights_only"), True)


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_runs_code_that_comes_with_data() -> None:
    assert unsafe([*ENGINE, *PLUGINS]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "load(name, trust_remote_code=True)",
        "load(name, trust_remote_code=given)",
        "options = {'trust_remote_code': True}",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_safety_rule_can_fail(text: str) -> None:
    assert len(unsafe([Source("tlbench.one", text)])) == 1


def test_safety_rule_lets_safe_code_pass() -> None:
    text = "torch.load(file, weights_only=True)\nnp.load(file)\nload(name, trust_remote_code=False)"
    assert unsafe([Source("tlbench.one", text)]) == []


# Documentation and size

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def undocumented(sources: list[Source]) -> list[str]:
    """Modules and public definitions without a docstring."""
    missing = [source.name for source in sources if not ast.get_docstring(source.tree)]
    for source in sources:
        missing += [f"{source.name}.{name}" for name, node in _public(source.tree) if not ast.get_docstring(node)]
    return missing


def _public(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, _Definition]]:
    """Public functions, classes and methods; what is defined inside a function is its own affair."""
    for child in node.body:
        if isinstance(child, _Definition) and not child.name.startswith("_"):
            yield child.name, child
            if isinstance(child, ast.ClassDef):
                yield from ((f"{child.name}.{name}", inner) for name, inner in _public(child))


def too_long(sources: list[Source]) -> list[str]:
    """Modules and functions with more lines than anybody reads at once."""
    found = [source.name for source in sources if len(source.text.splitlines()) > MODULE_LINES]
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found += [f"{source.name}.{node.name}"] * (lines > FUNCTION_LINES)
    return found


def test_everything_public_is_documented() -> None:
    assert undocumented([*ENGINE, *PLUGINS]) == []


def test_modules_and_functions_are_short() -> None:
    assert too_long([*ENGINE, *PLUGINS]) == []


def test_documentation_and_size_rules_can_fail() -> None:
    text = "class C:\n    def m(self):\n        def inner(): ...\n    def _p(self): ...\nasync def f(): ..."
    assert undocumented([Source("one", text)]) == ["one", "one.C", "one.C.m", "one.f"]
    lines = "\n".join(itertools.repeat("    x = 1", FUNCTION_LINES))
    assert too_long([Source("one", f"def f():\n{lines}\n")]) == ["one.f"]
    assert too_long([Source("one", "x = 1\n" * (MODULE_LINES + 1))]) == ["one"]
    assert too_long([Source("one", "x = 1\n" * MODULE_LINES)]) == []
