"""The first-party plugin `data`: folders of images, and a small data set that needs no download."""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.components import Dataset
from tlbench.hookspecs import hookimpl
from tlbench_data.digits import Digits
from tlbench_data.images import ImageFolder


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """`images`, the template for a folder of the user's own, and `digits`."""
    return [ImageFolder(), Digits()]
