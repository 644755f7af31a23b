"""Keeping: whose model stays while a search goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from runs import measurement, trial
from searching import arm, write_model
from tlbench.measurement import Measurement
from tlbench.search.keeping import Keeper, bar
from tlbench.store import Store

ARM = arm()
DATASET = ARM.dataset.name


def answered(number: int, score: float, samples: int = 400, metric: str = "accuracy") -> Measurement:
    facts = {"weights": ARM.weights, "preprocess": {}, "fingerprint": ARM.fingerprint, "metric": metric}
    of = trial(number, backbone=ARM.backbone.name, strategy=ARM.strategy.name, dataset=DATASET, **facts)
    return replace(measurement(of, search=score, validation=score), counts={"validation": samples})


def contend(store: Store, contenders: list[Measurement], preferred: int | None, metric: str = "accuracy") -> str:
    """The one whose model is left."""
    keeper = Keeper(store, metric, [ARM])
    if preferred is not None:
        keeper.prefer(contenders[preferred].key)
    for each in contenders:
        store.put(each, None)
        store.save_model(each.key, write_model, {})
        keeper.add("study", each)
    (left,) = store.model_keys()
    return left


@pytest.mark.parametrize(
    ("scores", "preferred", "left"),
    [
        ([0.60, 0.61], None, 1),
        ([0.61, 0.60], None, 0),
        ([0.60, 0.62], 0, 0),  # better by 0.8 standard errors
        ([0.60, 0.63], 0, 1),  # by 1.2
        ([0.62, 0.60], 1, 1),
        ([0.63, 0.60], 1, 0),
        ([0.62, 0.60, 0.62], 1, 1),  # whatever comes later has to be better by as much, too
        ([0.62, 0.60, 0.63], 1, 2),
    ],
)
def test_the_preferred_gives_way_only_to_what_is_better_by_a_standard_error(
    tmp_path: Path, scores: list[float], preferred: int | None, left: int
) -> None:
    contenders = [answered(number, score) for number, score in enumerate(scores)]
    assert contend(Store(tmp_path), contenders, preferred) == contenders[left].key


def test_more_samples_tell_smaller_differences(tmp_path: Path) -> None:
    contenders = [answered(0, 0.60, samples=4000), answered(1, 0.62, samples=4000)]
    assert contend(Store(tmp_path), contenders, preferred=0) == contenders[1].key


def test_of_a_loss_no_error_is_known(tmp_path: Path) -> None:
    contenders = [answered(0, 0.60, metric="nll"), answered(1, 0.599, metric="nll")]
    assert contend(Store(tmp_path), contenders, preferred=0, metric="nll") == contenders[1].key


def test_the_threshold_is_what_a_trial_has_to_beat(tmp_path: Path) -> None:
    keeper, store = Keeper(Store(tmp_path), "accuracy", [ARM]), Store(tmp_path)
    first, second = answered(0, 0.64), answered(1, 0.5)
    assert keeper.threshold(DATASET, first.key) is None
    store.save_model(first.key, write_model, {})
    keeper.add("study", first)
    assert keeper.threshold(DATASET, second.key) == 0.64
    keeper.prefer(second.key)
    error = math.sqrt(0.64 * 0.36 / 400)
    assert keeper.threshold(DATASET, second.key) == pytest.approx(0.64 - error)
    keeper.prefer(first.key)
    assert keeper.threshold(DATASET, second.key) == 0.64
    assert keeper.threshold(DATASET, "another") == pytest.approx(0.64 + error)


@pytest.mark.parametrize("best", [-1.0, 0.0, 1.0, 1.5])
def test_a_share_without_a_spread_has_no_error(best: float) -> None:
    assert bar(best, 400, "accuracy", 1) == best
    assert bar(0.5, 0, "accuracy", 1) == 0.5
