"""The first-party plugin `data`: images and texts of the user's own or of the hub, and sets that need no download."""

from __future__ import annotations

from collections.abc import Iterable

from tlbench.components import Dataset
from tlbench.hookspecs import hookimpl
from tlbench_data.digits import Digits
from tlbench_data.docstrings import Docstrings
from tlbench_data.hub import HubDataset
from tlbench_data.images import ImageFolder
from tlbench_data.tables import TextTables


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """The templates `images`, `texts` and `hub` for data of the user's own; `digits` and `docstrings`."""
    return [ImageFolder(), TextTables(), HubDataset(), Digits(), Docstrings()]


@hookimpl
def find_dataset(name: str) -> Dataset | None:
    """A file or folder relative to the working directory, or a data set of the hub."""
    from tlbench_data.finding import find

    return find(name)
