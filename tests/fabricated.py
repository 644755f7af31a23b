"""Fabricated distributions: a module and its metadata in a folder that is put on sys.path or PYTHONPATH; no pip."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

COMPONENTS = dedent("""
    from tlbench.components import Backbone, Dataset, Preprocess, Split, Splits
    from tlbench.strategies import FrozenStrategy
    from tlbench.hookspecs import hookimpl


    class Net(Backbone):
        summary = "a fabricated backbone"
        modality = "image"
        preprocess = None

        def __init__(self, name, origin="registered"):
            self.name, self.origin = name, origin

        def weights(self):
            return "random"

        def load(self, pretrained):
            raise NotImplementedError

        def layers(self, module):
            return []

        def derive(self, *, name, weights, options, preprocess):
            net = Net(name, origin=(self.name, weights, dict(options), dict(preprocess)))
            return net


    class Data(Dataset):
        summary = "a fabricated data set"
        modality = "image"
        fingerprint = "0"

        def __init__(self, name):
            self.name = name

        def load(self, seed):
            raise NotImplementedError

        def load_test(self, seed):
            raise NotImplementedError


    class Probe(FrozenStrategy):
        name = "probe"
        summary = "a fabricated strategy"

        def defaults(self, context):
            return {}

        def space(self, trial, context):
            return {}

        def fit(self, features, labels, configurations, generator):
            return []
""")
"""Source of component classes without torch, for the sources of fabricated plugins."""

GOOD = COMPONENTS + dedent("""
    @hookimpl
    def register_backbones():
        yield Net("small")
        yield Net("large")


    @hookimpl
    def register_strategies():
        return [Probe()]


    @hookimpl
    def register_datasets():
        return [Data("shapes")]


    @hookimpl
    def find_backbone(name):
        return Net(name + ".exact", origin="found") if name.startswith("hidden") else None
""")
"""A plugin that keeps the contract: backbones `small` and `large` (and unlisted `hidden*`), `probe`, `shapes`."""


def fabricate(
    folder: Path,
    name: str,
    source: str,
    *,
    entry_point: str | None = None,
    version: str = "1.0",
    requires: Sequence[str] = (),
    module: str | None = None,
) -> str:
    """Write distribution `name` into `folder` and return the name of its module.

    `entry_point`: the plugin's name, by default the distribution's. `module`: by default the distribution's name with
    underscores; a process imports a module's name once.
    """
    module = module or name.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    described = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    described.mkdir()
    headers = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    (described / "METADATA").write_text("\n".join(headers) + "\n", encoding="utf-8")
    (described / "entry_points.txt").write_text(f"[tlbench]\n{entry_point or name} = {module}\n", encoding="utf-8")
    importlib.invalidate_caches()
    return module
