"""The first-party plugin `controls`: baselines without any backbone, which transfer has to beat."""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.hookspecs import hookimpl
from tlbench.strategies import Strategy
from tlbench_controls.majority import Majority
from tlbench_controls.pixels import PixelSvm
from tlbench_controls.words import Tfidf


@hookimpl
def register_strategies() -> Iterable[Strategy]:
    """Every control of this plugin."""
    return [Majority(), PixelSvm(), Tfidf()]
