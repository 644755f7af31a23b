"""Whether latencies measured here put architectures in the order of timm's published ones.

    python benchmarks/performance/speed_ranks.py

prints a Markdown table and Spearman's rank correlation. Published are times of a compiled model on another processor
(an Intel i9-10940X, batch 1), read from the folder that TLBENCH_REAL_DATA names; measured is what `tlbench measure`
measures, with fewer calls: not compiled, float32, this machine. Rows whose figures something speaks against do not
count.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

from scipy.stats import spearmanr

from tlbench.benchmark import Device
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.speed import Protocol, measure
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import discover

TABLE = "tables/timm-benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"
ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11",
    "vgg16",
    "densenet121",
    "efficientnet_b0",
    "tf_efficientnetv2_s",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium",
    "regnety_004",
    "regnety_016",
    "regnety_032",
    "convnext_atto",
    "convnext_nano",
    "convnext_tiny",
    "convnextv2_atto",
    "convnextv2_nano",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch32_224",
    "vit_base_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_b16_224",
    "inception_v3",
    "inception_v4",
    "beit_base_patch16_224",
)
ATTEMPTS = 4
"""Measurements of an architecture at most: one that something speaks against is made again."""
PROTOCOL = Protocol(calls=60, batches=(1,), blocks=3, most_s=5.0)


def published(folder: Path) -> dict[tuple[str, int], float]:
    """Milliseconds per image by architecture and image size."""
    with (folder / TABLE).open(encoding="utf-8") as file:
        return {
            (row["model"].partition(".")[0], int(row["infer_img_size"])): float(row["infer_step_time"])
            for row in csv.DictReader(file)
        }


def main() -> None:
    """Print the table and the correlation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    compute = open_compute(Device(kind="cpu", threads=parser.parse_args().threads), workers=1)
    if "TLBENCH_REAL_DATA" not in os.environ:
        raise SystemExit("TLBENCH_REAL_DATA is not set: no published table to compare with")
    known, plugins = published(Path(os.environ["TLBENCH_REAL_DATA"])), discover()
    pairs = []
    print("| architecture | size | p50 here, ms | p90, ms | published, ms | reliable |")
    print("| :-- | --: | --: | --: | --: | :-- |")
    for name in ARCHITECTURES:
        source = Source(backbone=f"timm/{name}", classes=1000)
        for _ in range(ATTEMPTS):
            record = measure(source, Variant(), compute, PROTOCOL, plugins)
            if record.speed_ok:
                break
        size, latency = record.subject.inputs["inputs"][-1], record.latency
        time_ms = known[name, size]
        why = "yes" if record.speed_ok else f"no: {'; '.join(record.doubts)}"
        print(f"| {name} | {size} | {latency.p50_ms:.1f} | {latency.p90_ms:.1f} | {time_ms:.1f} | {why} |", flush=True)
        if record.speed_ok:
            pairs.append((latency.p50_ms, time_ms))
    print(
        f"\nSpearman's rank correlation over {len(pairs)} architectures: {spearmanr(*zip(*pairs, strict=True))[0]:.3f}"
    )


if __name__ == "__main__":
    main()
