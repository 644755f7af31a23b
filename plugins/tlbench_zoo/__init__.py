"""The zoo: miniature backbones of six families with weights inside the package, and benchmarks that need no network.

The weights were pretrained by this project on rendered formulas: ``python -m tlbench_zoo.pretrain`` makes them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tlbench.components import Backbone
from tlbench.hookspecs import hookimpl
from tlbench_zoo.backbone import MINIATURES, ZooBackbone


@hookimpl
def register_backbones() -> Iterable[Backbone]:
    """List the miniatures."""
    return [ZooBackbone(miniature) for miniature in MINIATURES]


@hookimpl
def register_benchmarks() -> Iterable[Path]:
    """Ship the benchmark of `tlbench quickstart`, and one over all miniatures."""
    folder = Path(__file__).parent
    return [folder / "quickstart.toml", folder / "miniature.toml"]
