"""Scoring: what the incumbents of a search are worth on test, looked at when the search is over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from searches.feeds import FileFeed
from searches.incumbents import Incumbent, Incumbents
from searches.setting import Samples, Setting
from searches.training import accuracy, build


@final
@dataclass(frozen=True, kw_only=True)
class Point:
    """From when on an incumbent was that, and its accuracies."""

    elapsed_s: float
    validation: float
    test: float
    what: str


def score(setting: Setting, incumbents: Incumbents, test: Samples, classes: int, seconds: float) -> list[Point]:
    """The curve of a search: every incumbent that was saved within its time, scored on test."""
    found = [one for one in incumbents.read() if one.elapsed_s <= seconds]
    return [_point(one, _accuracy(setting, incumbents.folder / one.file, test, classes)) for one in found]


def _point(incumbent: Incumbent, test: float) -> Point:
    return Point(
        elapsed_s=round(incumbent.elapsed_s, 2),
        validation=round(incumbent.validation, 4),
        test=round(test, 4),
        what=incumbent.what,
    )


def _accuracy(setting: Setting, file: Path, test: Samples, classes: int) -> float:
    if file.is_dir():
        return _of_shipped(file, test)
    saved: dict[str, Any] = torch.load(file)
    network = build(setting, saved["recipe"]["backbone"], classes, seed=0)
    network.load_state_dict(saved["state"])
    return accuracy(network, FileFeed(setting, {"test": test}), "test")


def _of_shipped(folder: Path, test: Samples) -> float:
    """A model that tlbench saved, used as anyone would."""
    import tlbench

    model = tlbench.load_model(folder)
    samples = [Path(item) if Path(item).is_absolute() else item for item in test.items]
    return float((model.logits(samples).argmax(1) == torch.tensor(test.labels).numpy()).mean())
