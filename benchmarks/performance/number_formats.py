"""What number formats and layouts are worth: seconds of passes and training steps, and what rounding does to probes.

    python benchmarks/performance/number_formats.py

prints two Markdown tables. The first has, for networks with random weights, the least time of some rounds in turn, as
the engine measures it before it chooses: passes of up to 32 samples, of which it leaves out those in bfloat16 with
channels first, and training steps of up to 8. The second has the test accuracy of the default probe of pretrained
MobileNets on real images (the setting of search_live.py), on features that were computed in float32, and in bfloat16
with channels last; it needs $TLBENCH_REAL_DATA and the plugin in tests/third_party.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_live import SHOTS, machine
from searches.prices import arms_of
from searches.setting import Setting
from tlbench.catalog import Catalog
from tlbench.evaluation import formats
from tlbench.evaluation.device import Compute, keep_freed_memory
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, Evaluator
from tlbench.evaluation.formats import measured, passing, training
from tlbench.evaluation.model import Classifier, build
from tlbench.plugins import discover
from tlbench.search.survey import Survey
from tlbench.spaces import resolve
from tlbench.store import Store
from tlbench.trial import Job

NETWORKS = (
    ("timm/mobilenetv2_100.ra_in1k", 128),
    ("timm/resnet18.a1_in1k", 128),
    ("timm/convnext_atto.d2_in1k", 128),
    ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", 224),
)
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every process does that evaluates trials
    formats.ROUNDS, formats.MOST_S = given.rounds, 60.0
    usual = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=given.threads)
    print(f"{machine()['processor']}, threads: {given.threads}, torch {torch.__version__}")
    print_seconds(usual)
    if "TLBENCH_REAL_DATA" in os.environ:
        print_probes(usual)


def print_seconds(usual: Compute) -> None:
    """A row for the passes of every network, and one for its training."""
    print("\n| network | pixels | work | float32, ms | channels last | bfloat16 | both | faster |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for name, size in NETWORKS:
        backbone = Catalog(discover()).backbone(name).component
        preprocess = backbone.preprocess.overridden({"size": size})
        model = build(backbone, resolve(), 10, pretrained=False, seed=0)
        model.example = preprocess.batch([preprocess.example()], {}, False, torch.Generator(), usual.device)
        ways = [replace(usual, dtype=dtype, channels_last=last) for dtype in DTYPES for last in (False, True)]
        passes = list(measured(passing(model, usual), ways).values())
        first, last = (_steps(model, usual, ways[::2], last) for last in (False, True))
        for work, (plain, *others) in (("pass", passes), ("step", [first[0], last[0], first[1], last[1]])):
            cells = " | ".join(f"{1000 * seconds:.1f}" for seconds in (plain, *others))
            print(f"| {name.partition('/')[2]} | {size} | {work} | {cells} | {plain / min(others):.2f} |", flush=True)


def _steps(model: Classifier, usual: Compute, ways: Sequence[Compute], channels_last: bool) -> list[float]:
    work = training(model, usual, channels_last)
    assert work is not None
    return list(measured(work, ways).values())


def print_probes(usual: Compute) -> None:
    """A row for every pretrained network: test accuracy of the default probe on features from either way."""
    setting = Setting(data="cifar10", size=64, shots=SHOTS["cifar10"], epochs=1, threads=usual.threads)
    benchmark = setting.benchmark("formats", strategies=["basic/linear-probe"])
    catalog = Catalog(discover(), benchmark)
    print("\n| network | float32 | bfloat16, channels last | same class, % |")
    print("|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLBENCH_CACHE"] = folder
        for arm in arms_of(Survey(benchmark, catalog, skip_bad=False)):
            told: dict[str, Any] = {
                "stage": "final",
                "seed": 0,
                "epochs": 0,
                "metric": "accuracy",
                "evaluator": EVALUATOR_VERSION,
            }
            job, labels, scores = Job(trial=arm.trial(arm.defaults(), **told)), [], []
            for number, way in enumerate((usual, replace(usual, dtype=torch.bfloat16, channels_last=True))):
                evaluator = Evaluator(catalog, Store(Path(folder, str(number))), way, {})
                (found,) = evaluator.evaluate(job, lambda *_: False)
                kept = evaluator.store.predictions(found.key)
                assert kept is not None
                labels.append(kept.logits.argmax(axis=1))
                scores.append(f"{found.score('test', 'accuracy'):.3f}")
            same = 100 * np.mean(labels[0] == labels[1])
            print(f"| {arm.backbone.name} | {' | '.join(scores)} | {same:.1f} |", flush=True)


if __name__ == "__main__":
    main()
