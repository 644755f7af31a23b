"""timm as a plugin: every image model of PyTorch Image Models, under its own name ``architecture.tag``.

A curated list is registered; any other architecture and tag that timm knows is found by name. What is published of
each comes with the plugin.
Nothing heavy is imported until a backbone's preprocessing, weights or module is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.components import Backbone
from tlbench.hookspecs import hookimpl
from tlbench_timm.backbone import TimmBackbone
from tlbench_timm.curated import curated
from tlbench_timm.published import published_names


@hookimpl
def register_backbones() -> Iterable[Backbone]:
    """List the curated backbones."""
    return [TimmBackbone(name) for name in curated()]


@hookimpl
def known_backbones() -> Iterable[Backbone]:
    """Name every other model that timm has weights for."""
    return [TimmBackbone(name) for name in published_names() if name not in curated()]


@hookimpl
def find_backbone(name: str) -> Backbone | None:
    """Find any timm architecture; without a tag, the weights that timm takes by default."""
    from tlbench_timm.names import full_name

    found = full_name(name)
    return None if found is None else TimmBackbone(found)
