"""What a pass over the samples takes that computes features, next to the bare forward passes it cannot do without.

    python benchmarks/performance/feature_pass.py

prints a Markdown table. The bare loop calls the same network on batches of the same size, cut from a tensor that lies
normalised in memory, and keeps nothing. A pass reads or decodes the samples, normalises them and keeps every feature:
`cold` begins with an empty cache, `warm` finds the decoded samples there, `memory` in the process, `found` finds the
features themselves. Each round runs all of them in turn; told is the median ratio to the bare loop of the same round,
and the quartiles, of the time on the clock and of the processors' time, which other processes do not touch.

Images are those of `$TLBENCH_REAL_DATA/cifar10-small`, or noise. Weights are random: no time depends on them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tlbench.catalog import Catalog
from tlbench.components import Backbone, Preprocess, Split
from tlbench.evaluation.data import Part, Prepared, as_part
from tlbench.evaluation.device import Compute, keep_freed_memory
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.features import Extraction
from tlbench.evaluation.images import ImagePreprocess
from tlbench.evaluation.model import Classifier, build
from tlbench.evaluation.shelf import Shelf
from tlbench.plugins import discover
from tlbench.samples.pixels import decode
from tlbench.spaces import resolve

BACKBONE = "timm/mobilenetv2_100.ra_in1k"
VIEWS = ("native", "avg")


@dataclass
class Competitor:
    """A way to run the network over all samples."""

    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)


class Files:
    """Images decoded from the bytes of their files when asked for."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = contents

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self._contents[index])


def images(count: int) -> Part:
    """Real images where there are any, else noise."""
    root = os.environ.get("TLBENCH_REAL_DATA")
    paths = sorted(Path(root, "cifar10-small", "train").rglob("*.png")) if root else []
    contents = [path.read_bytes() for path in paths[:count]] or [_noise(number) for number in range(count)]
    ids = [f"{number:06}" for number in range(len(contents))]
    return as_part(Split(ids, [0] * len(ids), ["a"], Files(contents)), "train")


def _noise(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@dataclass
class Passes:
    """A network, and the ways to run it."""

    model: Classifier
    preprocess: Preprocess
    part: Part
    compute: Compute
    disk: Disk = field(default_factory=Disk)
    _numbers: Any = field(default_factory=itertools.count)

    def competitors(self) -> dict[str, Competitor]:
        """By name; those that find something have been run before."""
        warm, kept = self._prepared("warm"), Prepared(self.part, self.preprocess)
        everything = range(len(self.part))
        for prepared in (warm, kept):
            prepared.arrays(everything)
        self._extract(warm, "found")
        inputs = self._inputs(kept, everything)
        return {
            "bare loop": Competitor(lambda: self._bare(inputs)),
            "cold": Competitor(lambda: self._extract(self._prepared(f"cold {next(self._numbers)}"), "fresh")),
            "warm": Competitor(lambda: self._extract(self._prepared("warm"), str(next(self._numbers)))),
            "memory": Competitor(lambda: self._extract(kept, "")),
            "found": Competitor(lambda: self._extract(self._prepared("warm"), "found")),
        }

    def _prepared(self, name: str) -> Prepared:
        return Prepared(self.part, self.preprocess, shelf=Shelf(disk=self.disk, facts={"name": name}))

    def _inputs(self, prepared: Prepared, indices: Sequence[int]) -> torch.Tensor:
        arrays = prepared.arrays(indices)
        inputs = self.preprocess.batch(arrays, {}, False, torch.Generator(), self.compute.device)
        assert isinstance(inputs, torch.Tensor)
        return inputs

    def _bare(self, inputs: torch.Tensor) -> None:
        size = self.compute.samples_that_fit(inputs[0].numel())
        with torch.inference_mode():
            for batch in inputs.split(size):
                self.model.features(batch)
        self.compute.synchronise()

    def _extract(self, prepared: Prepared, name: str) -> None:
        extraction = Extraction(
            build=lambda: self.model,
            preprocess=self.preprocess,
            compute=self.compute,
            complexity=lambda _: None,
            facts={"name": name},
        )
        extraction.extract(prepared, VIEWS)


def measure(passes: Passes, rounds: int) -> dict[str, Competitor]:
    """Every competitor, round by round."""
    found = passes.competitors()
    for number in range(rounds + 1):
        for competitor in found.values():
            start, processor = time.perf_counter(), time.process_time()
            competitor.run()
            if number:  # the first round warms up
                competitor.seconds.append(time.perf_counter() - start)
                competitor.processor_s.append(time.process_time() - processor)
    return found


def _ratio(mine: Sequence[float], its: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles([one / other for one, other in zip(mine, its, strict=True)], n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--size", type=int, default=128, help="pixels along each edge")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every process does that evaluates trials
    backbone: Backbone = Catalog(discover()).backbone(given.backbone).component
    assert isinstance(backbone.preprocess, ImagePreprocess)
    preprocess = backbone.preprocess.overridden({"size": given.size})
    compute = Compute(device=torch.device(given.device), dtype=torch.float32, threads=given.threads)
    model = build(backbone, resolve(), 2, pretrained=False, seed=0).eval().requires_grad_(False).to(compute.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLBENCH_CACHE"] = folder
        passes = Passes(model=model, preprocess=preprocess, part=images(given.samples), compute=compute)
        found = measure(passes, given.rounds)
    bare = found["bare loop"]
    print("| pass | samples/s | time / bare loop's [quartiles] | processor time / bare loop's [quartiles] |")
    print("|---|--:|--:|--:|")
    for name, one in found.items():
        speed = len(passes.part) / statistics.median(one.seconds)
        print(f"| {name} | {speed:.0f} | {_ratio(one.seconds, bare.seconds)} | ", end="")
        print(f"{_ratio(one.processor_s, bare.processor_s)} |")


if __name__ == "__main__":
    main()
