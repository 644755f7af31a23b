"""The first-party plugin `basic`: the transfer strategies everybody compares."""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.hookspecs import hookimpl
from tlbench.strategies import Strategy
from tlbench_basic.fine_tuning import FullFineTuning, ProbeThenFineTuning, Scratch, StartingPointPenalty
from tlbench_basic.lora import Lora
from tlbench_basic.probes import LinearProbe, MlpProbe, NearestNeighbours, RidgeProbe
from tlbench_basic.subsets import BiasOnly, NormOnly
from tlbench_basic.unfreezing import GradualUnfreezing, PartialFineTuning


@hookimpl
def register_strategies() -> Iterable[Strategy]:
    """Every strategy of this plugin."""
    return [
        LinearProbe(),
        RidgeProbe(),
        NearestNeighbours(),
        MlpProbe(),
        FullFineTuning(),
        PartialFineTuning(),
        GradualUnfreezing(),
        ProbeThenFineTuning(),
        BiasOnly(),
        NormOnly(),
        Lora(),
        StartingPointPenalty(),
        Scratch(),
    ]
