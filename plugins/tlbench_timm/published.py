"""Published figures: what `published.csv` says of every model that timm has weights for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources

from tlbench.components import Facts
from tlbench_timm import lineage

COLUMNS = ("name", "size", "kind", "parameters", "macs", "accuracy", "licence")
"""Of `published.csv`, which ``python -m tlbench_timm.publish`` writes.

`size` is the side of the square images, or height x width, that `macs` and `accuracy` belong to.
"""


def published_facts(name: str) -> Facts | None:
    """Return what is known of ``architecture.tag`` without importing timm; None where the table lacks it."""
    row = _rows().get(name)
    if row is None:
        return None
    _, kind, parameters, macs, accuracy, licence = row.split(",")
    method, data = lineage.pretraining(name)
    return Facts(
        architecture=name.partition(".")[0],
        kind=kind or None,
        pretraining=method,
        pretraining_data=data,
        parameters=int(parameters),
        macs=int(macs),
        accuracy=float(accuracy) if accuracy else None,
        licence=licence or None,
    )


def published_names() -> Collection[str]:
    """Return every ``architecture.tag`` of the table, in its order."""
    return _rows().keys()


@cache
def _rows() -> Mapping[str, str]:
    """Read the rest of each line by its name; no cell has a comma or quotes in it.

    Who lists the curated backbones needs one line in twenty, so that none is parsed before it is asked for.
    """
    text = resources.files("tlbench_timm").joinpath("published.csv").read_text(encoding="utf-8")
    _, *lines = text.splitlines()
    return {name: rest for name, _, rest in (line.partition(",") for line in lines)}
