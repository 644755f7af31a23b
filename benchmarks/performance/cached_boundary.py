"""What an epoch takes that trains the last block or stage alone: on cached activations, on samples, next to full.

    python benchmarks/performance/cached_boundary.py

prints two Markdown tables. Weights are random, since they change no cost; samples are noise. Per round, in turn: full
fine-tuning, partial fine-tuning, and the same on activations cached at the freeze boundary. Reported are medians of
seconds per epoch, and the median and quartiles of ratios within a round. Steps alone are counted, the first of each run
left out; what filling the cache takes, once for all trials with that boundary, is shown apart. The second table holds
training losses: with and without cache they are one trajectory but for rounding.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tlbench.catalog import Catalog
from tlbench.components import Backbone, Split
from tlbench.evaluation.boundary import Boundaries
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.device import Compute
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import build, shape
from tlbench.evaluation.train import Run, Task, train
from tlbench.plugins import discover
from tlbench.spaces import Context, Params, resolve
from tlbench.strategies import TrainedStrategy

BACKBONES = ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k:1", "timm/resnet18.a1_in1k:2")
"""And how many layer groups train: the last block of the one, both blocks of the last stage of the other."""

CLASSES = 10


@dataclass(kw_only=True)
class Bench:
    """One backbone, and the samples that everything is trained on."""

    backbone: Backbone
    trained: int
    """Layer groups that train in partial fine-tuning."""

    strategies: dict[str, TrainedStrategy]
    train: Prepared
    validation: Prepared
    batch: int
    compute: Compute

    def run(self, name: str, epochs: int, boundaries: Boundaries | None = None) -> Run:
        """A training run of a strategy; with a boundaries on cached activations."""
        backbone, strategy = self.backbone, self.strategies[name]
        params = self._params(strategy)
        task = Task(
            strategy=strategy,
            params=params,
            preprocess=backbone.preprocess,
            train=self.train,
            validation=self.validation,
            chooses=np.ones(len(self.validation.part), bool),
            metric="accuracy",
            classes=CLASSES,
            epochs=epochs,
            seed=0,
            compute=self.compute,
            report=lambda *_: False,
            boundaries=boundaries,
        )
        return train(build(backbone, params, CLASSES, pretrained=False, seed=0), task)

    def _params(self, strategy: TrainedStrategy) -> Params:
        groups = shape(self.backbone).layer_groups
        context = Context(
            modality=self.backbone.modality,
            kind=self.backbone.facts.kind,
            layer_groups=groups,
            pools=self.backbone.pools,
            classes=CLASSES,
            train_size=len(self.train.part),
        )
        own = strategy.defaults(context)
        frozen = {"frozen_blocks": groups - self.trained} if "frozen_blocks" in own else {}
        return resolve(own, {**frozen, "batch_size": self.batch, "augmentation": "none"})


def bench(catalog: Catalog, name: str, samples: int, batch: int, compute: Compute) -> Bench:
    """A backbone, and noise for it."""
    name, _, trained = name.rpartition(":")
    backbone: Backbone = catalog.backbone(name).component
    parts = [_noise(backbone, part, size, seed) for seed, (part, size) in enumerate((("train", samples), ("other", 8)))]
    strategies = {each: catalog.strategy(f"basic/{each}").component for each in ("full", "partial")}
    return Bench(
        backbone=backbone,
        trained=int(trained),
        strategies=strategies,
        train=parts[0],
        validation=parts[1],
        batch=batch,
        compute=compute,
    )


def _noise(backbone: Backbone, name: str, size: int, seed: int) -> Prepared:
    images: Any = np.random.default_rng(seed).integers(0, 256, (size, *backbone.preprocess.example().shape), np.uint8)
    ids, labels = [f"{name}/{index}" for index in range(size)], [index % CLASSES for index in range(size)]
    split = Split(ids, labels, [f"{label}" for label in range(CLASSES)], images)
    return Prepared(as_part(split, name), backbone.preprocess)


def seconds(run: Run, samples: int) -> float:
    """Of an epoch as all but the first step of a run were."""
    assert run.samples_per_s is not None
    return samples / run.samples_per_s


def told(ratios: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME:GROUPS")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="of a partial run; of full fine-tuning there is one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    catalog = Catalog(discover())
    compute = Compute(device=torch.device(given.device), dtype=torch.float32, threads=given.threads)
    losses: list[str] = []
    print("| backbone | boundary | full, s | partial, s | cached, s | partial / cached | full / cached | filling, s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in given.backbones:
        of, boundaries = bench(catalog, name, given.samples, given.batch, compute), Boundaries(memory=Memory(1), key=())
        rounds = [
            (of.run("full", 1), of.run("partial", given.epochs), of.run("partial", given.epochs, boundaries))
            for _ in range(given.rounds)
        ]
        times = [[seconds(run, given.samples) for run in runs] for runs in rounds]
        full, partial, cached = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = told([mine / its for _, mine, its in times]), told([mine / its for mine, _, its in times])
        found = rounds[-1][2]
        medians = f"{full:.3f} | {partial:.3f} | {cached:.3f} | {ratios[0]} | {ratios[1]}"
        name = name.rpartition(":")[0]
        print(f"| {name} | {found.feed_counts['boundary']} | {medians} | {found.feed_cost['boundary_s']:.2f} |")
        pairs = [
            (one.epoch, one.train_loss or 0.0, other.train_loss or 0.0)
            for one, other in zip(rounds[-1][1].curve, found.curve, strict=True)
        ]
        losses += [
            f"| {name} | {epoch} | {one:.7f} | {other:.7f} | {abs(one / other - 1):.1e} |"
            for epoch, one, other in pairs
        ]
    print("\n| backbone | epoch | loss, samples | loss, cached | relative difference |")
    print("|---|--:|--:|--:|--:|")
    print("\n".join(losses))


if __name__ == "__main__":
    main()
