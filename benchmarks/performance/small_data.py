"""What cross-validating the finals brings where data are small.

    python benchmarks/performance/small_data.py

prints a Markdown table. Of 2,000 photos of CIFAR-10 a few are drawn, the rest says afterwards how good a model is.
Finalists are linear probes of five pretrained MobileNets with three penalties each; one is chosen as a run chooses its
answer (`search.answering.in_order`), by its finals on one fold, on three and on all five. Reported are the accuracies
of what is chosen, always of the model that was trained on the first fold, so that nothing but the choice differs, and
of the best that could have been chosen, as means over the draws; the gain over one fold with its standard error.
Needs $TLBENCH_REAL_DATA, and the plugin in tests/third_party.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import final

import numpy as np
import torch

from searches.setting import DATASET, Setting
from tlbench.benchmark import Device
from tlbench.catalog import Catalog
from tlbench.components import IMAGE, Dataset, Split, Splits
from tlbench.evaluation.data import FOLDS, Part, Prepared, as_part, load_data
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.features import Extraction
from tlbench.evaluation.model import build
from tlbench.evaluation.probe import multinomial
from tlbench.plugins import discover
from tlbench.search.answering import Contender, Validated, in_order
from tlbench.spaces import resolve

SIZES = (50, 100, 200)
"""Samples to train on and to validate with, together."""

PENALTIES = (1e-3, 1e-2, 1e-1)
CHOICES = (1, 3, FOLDS)
"""Folds that a choice looks at."""

VIEW = "native"


@final
class Drawn(Dataset):
    """A few samples of a part, as many of each class."""

    name, summary, modality, fingerprint, has_test = "drawn", "", IMAGE, "", True

    def __init__(self, part: Part, size: int, seed: int) -> None:
        random, of_class = np.random.default_rng(seed), size // len(part.class_names)
        classes = [np.flatnonzero(part.labels == label) for label in range(len(part.class_names))]
        self.rows = np.sort(np.concatenate([random.permutation(members)[:of_class] for members in classes]))
        self.rest = np.setdiff1d(np.arange(len(part)), self.rows)
        self._part = part

    def load(self, seed: int) -> Splits:
        """The drawn samples, all of them for training; a sample is its row."""
        return Splits(self._split(self.rows), None)

    def load_test(self, seed: int) -> Split:
        """All others."""
        return self._split(self.rest)

    def _split(self, rows: np.ndarray) -> Split:
        return Split(
            [self._part.ids[row] for row in rows], self._part.labels[rows].tolist(), self._part.class_names, rows
        )


@final
@dataclass(frozen=True)
class Probed:
    """What became of one finalist on one draw."""

    validations: Sequence[Validated]
    test: float
    """Of the model trained on the first fold."""


def features(pixels: int) -> tuple[Part, dict[str, torch.Tensor]]:
    """The photos, and their features by backbone."""
    setting = Setting(data="cifar10", size=pixels, shots=200, epochs=0, threads=2)
    benchmark = setting.benchmark("small-data")
    catalog = Catalog(discover(), benchmark)
    part = as_part(catalog.dataset(DATASET).component.load(0).train, "train")
    found = {}
    for name in benchmark.backbones:
        backbone = catalog.backbone(name).component
        extraction = Extraction(
            build=lambda backbone=backbone: build(backbone, resolve(), len(part.class_names), True, 0).eval(),
            preprocess=backbone.preprocess,
            compute=open_compute(Device(kind="cpu", threads=setting.threads), workers=1),
            complexity=lambda *_: None,
            facts={},
        )
        extracted = extraction.extract(Prepared(part, backbone.preprocess), [VIEW])[VIEW]
        found[name] = torch.as_tensor(extracted.values)
    return part, found


def probed(features: torch.Tensor, drawn: Drawn, labels: torch.Tensor, seed: int) -> dict[float, Probed]:
    """The probes of one backbone, on every fold, by penalty."""
    validations: list[list[Validated]] = [[] for _ in PENALTIES]
    tests: list[float] = []
    for fold in range(FOLDS):
        data = load_data(drawn, split_seed=seed, shots=None, fold=fold)
        train, validation = (
            torch.as_tensor([part.sample(i) for i in range(len(part))]) for part in (data.train, data.validation)
        )
        heads = multinomial(features[train], labels[train], PENALTIES)
        if fold == 0:
            tests = [accuracy(head, features, labels, torch.as_tensor(drawn.rest)) for head in heads]
        for found, head in zip(validations, heads, strict=True):
            score = accuracy(head, features, labels, validation)
            found.append(Validated(fold=fold, score=score, samples=len(validation)))
    return {penalty: Probed(*found) for penalty, *found in zip(PENALTIES, validations, tests, strict=True)}


def accuracy(head: torch.nn.Module, features: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> float:
    """Share of the samples that a head is right about."""
    with torch.inference_mode():
        return float((head(features[rows]).argmax(1) == labels[rows]).float().mean())


def chosen(finalists: dict[tuple[str, float], Probed], folds: int) -> float:
    """Accuracy of the finalist that is the answer after so many folds."""
    contenders = [
        Contender(of=one, validations=one.validations[:folds], names=(name, f"{penalty}"), is_default=False)
        for (name, penalty), one in finalists.items()
    ]
    return in_order(contenders, "accuracy")[0].of.test


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--pixels", type=int, default=128, help="along each edge")
    given = parser.parse_args()
    part, by_backbone = features(given.pixels)
    labels = torch.from_numpy(part.labels)
    choices = [f"{count} fold{'s' * (count > 1)}" for count in CHOICES]
    gains = [f"gain of {count}, points" for count in CHOICES[1:]]
    print(f"| photos | to validate | {' | '.join(choices)} | best possible | {' | '.join(gains)} |")
    print("|--:" * (3 + len(choices) + len(gains)) + "|")
    for size in given.sizes:
        rows = []
        for seed in range(given.draws):
            drawn = Drawn(part, size, seed)
            finalists = {
                (name, penalty): one
                for name, known in by_backbone.items()
                for penalty, one in probed(known, drawn, labels, seed).items()
            }
            found = [chosen(finalists, folds) for folds in CHOICES]
            rows.append([100 * score for score in (*found, max(one.test for one in finalists.values()))])
        means = [f"{fmean(column):.1f}" for column in zip(*rows, strict=True)]
        more = [[row[place] - row[0] for row in rows] for place in range(1, len(CHOICES))]
        told = [f"{fmean(gain):+.2f} ± {stdev(gain) / len(gain) ** 0.5:.2f}" for gain in more]
        print(f"| {size} | {size // FOLDS} | {' | '.join(means)} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
