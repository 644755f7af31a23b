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
import time
from pathlib import Path

from scipy.stats import spearmanr

from tlbench.benchmark import Device
from tlbench.evaluation.deployed import Running, find, start
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.speed import Protocol, measure_running
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import discover
from tlbench.speed import SpeedRecord

TABLE = "tables/timm-benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"
ARCHITECTURES = [
    "lcnet_100",
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "mnasnet_100",
    "mobilenetv2_100",
    "efficientnet_lite0",
    "ghostnet_100",
    "mobilenetv3_large_100",
    "tinynet_c",
    "efficientnet_b0",
    "regnetx_002",
    "regnety_002",
    "regnety_004",
    "regnetx_008",
    "levit_128",
    "edgenext_small",
    "convnext_atto",
    "convnextv2_atto",
    "convnext_femto",
    "pit_ti_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "visformer_tiny",
    "resmlp_12_224",
    "poolformer_s12",
    "resnet10t",
    "resnet18",
    "resnet26",
    "resnet34",
    "resnet50",
    "mobilenetv4_conv_medium",
    "regnety_016",
    "repvgg_a0",
    "convnext_nano",
    "convnextv2_nano",
    "vit_base_patch32_224",
    "vit_small_patch16_224",
    "deit_small_patch16_224",
    "regnety_032",
    "convnext_tiny",
    "densenet121",
    "tf_efficientnetv2_s",
    "swin_tiny_patch4_window7_224",
    "inception_v3",
    "resnext50_32x4d",
    "resnet101",
    "inception_v4",
    "vgg11",
    "mixer_b16_224",
    "vit_base_patch16_224",
    "beit_base_patch16_224",
    "wide_resnet50_2",
    "vgg16",
]
"""Those published as the fastest first."""
MOST_S = 25.0
"""After which no other measurement of an architecture begins: one that something speaks against is made again."""

PROTOCOL = Protocol(calls=60, batches=(1,), blocks=3, block_s=0.1, most_s=1.5, warm_up_s=1.5)


def published(folder: Path) -> dict[tuple[str, int], float]:
    """Milliseconds per image by architecture and image size."""
    with (folder / TABLE).open(encoding="utf-8") as file:
        return {
            (row["model"].partition(".")[0], int(row["infer_img_size"])): float(row["infer_step_time"])
            for row in csv.DictReader(file)
        }


def measured(running: Running) -> tuple[SpeedRecord, int]:
    """The first measurement that nothing speaks against, or the last one; and how many were made."""
    begun, attempts = time.monotonic(), 1
    record = measure_running(running, PROTOCOL)
    while not record.speed_ok and time.monotonic() - begun < MOST_S:
        record, attempts = measure_running(running, PROTOCOL), attempts + 1
    return record, attempts


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
        deployed = find(Source(backbone=f"timm/{name}", classes=1000), plugins).load()
        running = start(deployed, Variant(), compute)
        record, attempts = measured(running)
        size, latency = record.subject.inputs["inputs"][-1], record.latency
        time_ms = known[name, size]
        why = f"yes, attempt {attempts}" if record.speed_ok else f"no: {'; '.join(record.doubts)}"
        print(f"| {name} | {size} | {latency.p50_ms:.1f} | {latency.p90_ms:.1f} | {time_ms:.1f} | {why} |", flush=True)
        if record.speed_ok:
            pairs.append((latency.p50_ms, time_ms))
    print(
        f"\nSpearman's rank correlation over {len(pairs)} architectures: {spearmanr(*zip(*pairs, strict=True))[0]:.3f}"
    )


if __name__ == "__main__":
    main()
