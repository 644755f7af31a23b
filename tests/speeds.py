"""Hand-made speed records."""

from dataclasses import replace
from typing import Any

from tlbench.speed import Conditions, Latency, Setting, SpeedRecord, Subject, Throughput
from tlbench.trial import Reference

HERE = Setting(
    machine={"processor": "abacus", "cores": 2},
    device="cpu",
    dtype="float32",
    layout="contiguous",
    compile="none",
    runtime="torch 2",
    threads=2,
)


def record(backbone: str = "zoo/a", p50_ms: float = 10.0, setting: Setting = HERE, **changes: Any) -> SpeedRecord:
    """One without any doubt; its head is the one of `runs.Run`'s models."""
    made = SpeedRecord(
        subject=Subject(
            backbone=Reference(name=backbone, version=1),
            preprocess={"size": 8},
            pool="native",
            head={"kind": "linear", "width": 4, "classes": 2},
            inputs={"inputs": [3, 8, 8]},
        ),
        setting=setting,
        libraries={"torch": "2"},
        latency=Latency(
            p50_ms=p50_ms, p90_ms=1.2 * p50_ms, p99_ms=None, mean_ms=p50_ms, std_ms=0.1, calls=200, moved=0.0
        ),
        throughput=(
            Throughput(batch=1, per_s=1000 / p50_ms, iqr_relative=0.01, blocks=5),
            Throughput(batch=8, per_s=2000 / p50_ms, iqr_relative=0.01, blocks=5),
        ),
        settled=True,
        warm_up={"calls": 20, "seconds": 0.2},
        reference_ms=(25.0, 25.5),
        conditions=Conditions(load_average=1.0, foreign_cores=0.1, free_cores=0.0),
        memory={"weights": 1.5},
        provenance={"started_utc": "2026-01-01T00:00:00+00:00"},
    )
    return replace(made, **changes)
