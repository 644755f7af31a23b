"""The live comparison of searches: what is an incumbent, what is scored and when, and what the table says of it."""

from __future__ import annotations

import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from searches.assignment import Assignment
from searches.feeds import ArrayFeed, FeatureFeed, FileFeed
from searches.incumbents import Incumbents
from searches.own_pipeline import asha, defaults
from searches.scoring import score
from searches.setting import MOBILENETS, Samples, Setting, read_split, read_test, write_split
from searches.training import Recipe, Training, accuracy, build

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "performance" / "search_live.py"
SETTING = Setting(data="cifar10", size=32, shots=2, epochs=2, threads=1)
SMALLEST = MOBILENETS[0]


@pytest.fixture
def split(coral: Path, real_data: Path, tmp_path: Path) -> Path:
    """The split of the smallest setting, of validation and test a few samples."""
    write_split(tmp_path, SETTING)
    return tmp_path


def few(samples: Samples, count: int = 40) -> Samples:
    step = len(samples.labels) // count
    return Samples(ids=samples.ids[::step], items=samples.items[::step], labels=samples.labels[::step])


def assignment(split: Path, seconds: float) -> Assignment:
    parts, names = read_split(split)
    incumbents = Incumbents(split / "incumbents", time.time())
    return Assignment(setting=SETTING, parts=parts, classes=len(names), incumbents=incumbents, seed=0, seconds=seconds)


def write_text(text: str) -> Any:
    return lambda path: path.write_text(text)


def test_only_what_is_better_becomes_the_incumbent(tmp_path: Path) -> None:
    log = Incumbents(tmp_path / "log", time.time() - 5.0)
    for validation in (0.3, 0.2, 0.3, 0.5):
        log.offer(validation, write_text(str(validation)), "made")
    log.offer(0.4, write_text("final"), "made", always=True)
    found = Incumbents(tmp_path / "log", log.start).read()
    assert [one.validation for one in found] == [0.3, 0.5, 0.4]
    assert [(log.folder / one.file).read_text() for one in found] == ["0.3", "0.5", "final"]
    assert all(5.0 <= one.elapsed_s < 60.0 for one in found)
    assert [one.elapsed_s for one in found] == sorted(one.elapsed_s for one in found)


def test_the_split_is_disjoint_and_test_lies_apart(split: Path) -> None:
    parts, names = read_split(split)
    test = read_test(split)
    assert {name: len(part.labels) for name, part in parts.items()} == {"train": 20, "validation": 400}
    assert len(names) == 10
    assert len(test.labels) == 1000
    ids = [set(part.ids) for part in (*parts.values(), test)]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert not any("test/" in item for part in parts.values() for item in part.items)


def test_feeds_agree_on_what_is_not_augmented(split: Path) -> None:
    parts, _ = read_split(split)
    of_files, of_arrays = FileFeed(SETTING, parts), ArrayFeed(SETTING, parts)
    files, arrays = (next(feed.batches("validation", None)) for feed in (of_files, of_arrays))
    assert files[1].tolist() == arrays[1].tolist()
    assert torch.allclose(files[0], arrays[0], atol=0.05)


def test_a_head_trains_alone_and_fine_tuning_keeps_statistics(split: Path) -> None:
    parts, _ = read_split(split)
    feed = ArrayFeed(SETTING, parts)
    for strategy, same in (("head", True), ("full", False)):
        training = Training(SETTING, Recipe(backbone=SMALLEST, strategy=strategy, learning_rate=1e-3), feed, 10, 0)
        before = {name: tensor.clone() for name, tensor in training.network.backbone.state_dict().items()}
        training.run_epoch()
        after = training.network.backbone.state_dict()
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items()) is same
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items() if "running" in name)


def test_features_of_a_frozen_backbone_train_the_same_head(split: Path) -> None:
    parts, _ = read_split(split)
    feed = ArrayFeed(SETTING, parts)
    recipe = Recipe(backbone=SMALLEST, strategy="head", learning_rate=3e-3)
    whole = Training(SETTING, recipe, feed, 10, 0)
    kept = Training(SETTING, recipe, FeatureFeed(build(SETTING, SMALLEST, 10, 0), dict.fromkeys(parts, feed)), 10, 0)
    assert accuracy(kept.network, kept.feed, "validation") == accuracy(whole.network, feed, "validation")
    scores = [[training.run_epoch() for _ in range(2)][-1] for training in (whole, kept)]
    assert scores[0] == pytest.approx(scores[1], abs=0.06)


def test_incumbents_are_scored_on_test_afterwards(split: Path) -> None:
    given = assignment(split, seconds=600.0)
    defaults(given)
    found = given.incumbents.read()
    assert 1 <= len(found) <= SETTING.epochs
    assert given.incumbents.trials == 1
    curve = score(SETTING, given.incumbents, few(read_test(split)), given.classes, given.seconds)
    assert [point.validation for point in curve] == [round(one.validation, 4) for one in found]
    assert all(0.0 <= point.test <= 1.0 for point in curve)
    assert score(SETTING, given.incumbents, few(read_test(split)), given.classes, found[0].elapsed_s / 2) == []


def test_asha_ends_with_its_time(split: Path) -> None:
    given = replace(assignment(split, seconds=0.0), seconds=3.0)
    asha(given)
    assert given.incumbents.trials >= 1
    assert given.incumbents.read()


def record(method: str, seed: int, curve: list[tuple[float, float]]) -> dict[str, Any]:
    setting = {"data": "cifar10", "size": 32, "shots": 2, "epochs": 2, "threads": 1}
    points = [{"elapsed_s": time_s, "validation": test, "test": test, "what": ""} for time_s, test in curve]
    machine = {"processor": "abacus", "torch": "1", "optuna": "1", "ray": "1"}
    shared = {"setting": setting, "machine": machine, "date_utc": "2026-01-01"}
    if method == "probe":
        return {"method": method, "seed": None, "test": 0.6, **shared}
    return {"method": method, "seed": seed, "seconds": 100.0, "trials": 1, "curve": points, **shared}


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [record("probe", 0, [])]
    for seed in range(3):
        lines.append(record("optuna", seed, [(30.0, 0.5), (50.0 + 10 * seed, 0.7)]))
        lines.append(record("tlbench", seed, [(6.0, 0.65), (40.0, 0.8)]))
    out = tmp_path / "live.jsonl"
    out.write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(out), "--table"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    found = {(row[0].partition(":")[0], row[1]): row[2:] for row in rows if len(row) == 5}
    assert found["best linear probe", "optuna"] == ["60.0 [50.0, 70.0]", "60.0", "10.0 [8.3, 11.7]"]
    assert found["best linear probe", "tlbench"] == ["6.0 [6.0, 6.0]", "6.0", "1.0 [1.0, 1.0]"]
    assert found["99 % of the best", "optuna"][0] == "> 100 [> 100, > 100], 3 never"
    assert found["99 % of the best", "optuna"][2].startswith("at least 2.5")
    assert found["optuna's last", "tlbench"][0] == "40.0 [40.0, 40.0]"
