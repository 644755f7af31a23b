"""Publication: write `published.csv`, the figures of every model that timm has weights for.

``python -m tlbench_timm.publish results-imagenet.csv`` with the table of that name from timm's repository, which gives
the accuracies. Parameters and multiply-accumulates are counted here, all of them in the same way: those that timm
publishes leave out recurrent layers, differential attention and convolutions padded by name, and of some models they
are those with branches merged. It takes fifteen minutes of one core.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg, list_models, model_entrypoint
from torch.utils.flop_counter import FlopCounterMode

from tlbench_timm import lineage
from tlbench_timm.backbone import TimmBackbone
from tlbench_timm.published import COLUMNS


def table(accuracies: Path) -> Iterator[Mapping[str, Any]]:
    """One row per model with weights, by name; encoders that timm does not build for classification have none."""
    published = _accuracies(accuracies)
    for name in sorted(list_models(pretrained=True)):
        try:
            yield row(name, published.get(name, {}))
        except NotImplementedError as error:
            sys.stderr.write(f"{name} is left out: {error}\n")


def row(name: str, accuracies: Mapping[str, float]) -> Mapping[str, Any]:
    """Count what the model called ``architecture.tag`` has and does; take the accuracy at the size of its weights."""
    architecture, licence = name.partition(".")[0], get_pretrained_cfg(name).license
    backbone = TimmBackbone(name)
    height, width = backbone.preprocess.size
    size = str(height) if height == width else f"{height}x{width}"
    with torch.device("meta"):
        module = backbone.load(pretrained=False).eval().requires_grad_(False)
    return {
        "name": name,
        "size": size,
        "kind": lineage.kind(architecture, model_entrypoint(architecture).__module__.rpartition(".")[2]),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "macs": _macs(module, (height, width)),
        "accuracy": accuracies.get(size),
        "licence": None if licence == "unknown" else licence,
    }


def _macs(module: Any, size: tuple[int, int]) -> int:
    """Count multiply-accumulates from pixels to pooled features, as torch does on the meta device, attention included.

    Those of convolutions and matrix products: element-wise work, at most 5 % more, is not counted.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module.forward_head(module.forward_features(torch.zeros(1, 3, *size)), pre_logits=True)
    flops: int = counter.get_total_flops()
    return flops // 2


def _accuracies(table: Path) -> Mapping[str, Mapping[str, float]]:
    """Read ImageNet-1k top-1 fractions by name and image size: a backbone is used at its training size."""
    found: dict[str, dict[str, float]] = {}
    with table.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            found.setdefault(line["model"], {})[line["img_size"]] = round(float(line["top1"]) / 100, 5)
    return found


def main() -> None:
    """Write the table beside this module."""
    if len(sys.argv) != 2:
        raise SystemExit("python -m tlbench_timm.publish TABLE")
    rows = list(table(Path(sys.argv[1])))  # before the file is opened: a backbone looks its name up in the old one
    with Path(__file__).with_name("published.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
