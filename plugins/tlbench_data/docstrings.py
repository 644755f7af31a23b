"""Docstrings: texts from the packages installed beside tlbench, labelled by the package they come from. No download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from tlbench.components import TEXT
from tlbench.errors import DataError
from tlbench_data.labelled import RowDataset, Rows, blank, sha256

PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "torch", "transformers", "optuna", "ray")
"""All required by tlbench, with docstrings enough."""

PER_PACKAGE = 250
FEWEST = 50
"""Docstrings a package has to have to be a class."""

MASK = "library"
_LONG = ("scikit-learn", "scikit_learn", "huggingface", "hugging face")
_SHORT = ("np", "pd", "sp", "hf")
"""Other names of the packages, which would give the answer away."""


@final
class Docstrings(RowDataset):
    """Beginnings of docstrings, of which one is to say from what package they come; the packages' names are masked.

    Sources are read, never imported. It depends on the versions installed, and its fingerprint says so: a set to try
    things on, not one to publish numbers of.
    """

    name = "docstrings"
    summary = f"which package is a docstring from? {len(PACKAGES)} installed packages, up to {PER_PACKAGE} texts each"
    modality = TEXT

    def __init__(self, packages: Sequence[str] = PACKAGES, per_package: int = PER_PACKAGE) -> None:
        self._packages, self._per_package = packages, per_package

    def read(self) -> Mapping[str, Rows]:
        """The docstrings of every package that is installed, as training rows."""
        from tlbench_data.sources import package_folder

        folders = {name: folder for name in self._packages if (folder := package_folder(name)) is not None}
        found = {name: self._texts(name, folder) for name, folder in folders.items()}
        found = {name: texts for name, texts in found.items() if len(texts) >= FEWEST}
        if len(found) < 2:
            there = ", ".join(found) or "none"
            raise DataError(f"sources of at least 2 of {', '.join(self._packages)} are needed; found: {there}")
        return {"train": _rows(found)}

    def _texts(self, package: str, folder: Path) -> dict[str, str]:
        """Ids by masked text: of equal texts, the one met first."""
        from tlbench_data.sources import docstrings

        mask, found = _mask(self._packages), dict[str, str]()
        for identifier, text in docstrings(folder, package):
            found.setdefault(mask.sub(MASK, text), identifier)
            if len(found) == self._per_package:
                break
        return found


def _rows(found: Mapping[str, Mapping[str, str]]) -> Rows:
    """The texts of all packages but those that several have."""
    counts = Counter(text for texts in found.values() for text in texts)
    kept = [
        (identifier, package, text)
        for package, texts in found.items()
        for text, identifier in texts.items()
        if counts[text] == 1
    ]
    names, labels, texts = (list(column) for column in zip(*sorted(kept), strict=True))
    return Rows(
        place="the installed packages",
        names=names,
        labels=labels,
        digests=[sha256(text) for text in texts],
        samples=texts,
        faults=lambda: blank(texts),
    )


def _mask(packages: Sequence[str]) -> re.Pattern[str]:
    """Words with a package's name in them (`PyTorch`), and short names wherever no letter adjoins but in `RayServe`."""
    names = "|".join(re.escape(name) for name in (*packages, *_LONG) if len(name) > 3)
    short = [name for name in (*packages, *_SHORT) if len(name) <= 3]
    alone, capital = "|".join(map(re.escape, short)), "|".join(re.escape(name.capitalize()) for name in short)
    return re.compile(rf"(?i:\w*(?:{names})\w*|(?<![a-z])(?:{alone})(?![a-z]))|\b(?:{capital})(?=[A-Z])\w*")
