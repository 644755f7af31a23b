"""The transfer gain: who is compared with whom, the interval, and the sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import Run
from tlbench.leaderboard.gain import Gain, transfer_gains
from tlbench.measurement import Measurement, Predictions

SCRATCH = {"strategy": "basic/scratch", "weights": "random"}


def predict(run: Run, finals: list[Measurement], right: np.ndarray, ids: list[str] | None = None) -> None:
    """Keep predictions with each final: which of its test samples are `right` [finals, samples]."""
    for final, hits in zip(finals, right, strict=True):
        names = ids or [f"test/{index}" for index in range(len(hits))]
        validation = 3
        label = np.zeros(validation + len(hits), np.int64)
        predicted = np.concatenate([np.ones(validation, np.int64), (~hits.astype(bool)).astype(np.int64)])
        run.store.put(
            final,
            Predictions(
                sample_id=[*(f"validation/{index}" for index in range(validation)), *names],
                split=["validation"] * validation + ["test"] * len(hits),
                label=label,
                predicted=predicted,
                logits=np.zeros((len(label), 2), np.float16),
            ),
        )


def test_the_best_on_validation_is_compared_with_its_own_architecture(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    run.cell("s1", "zoo/a", [0.9, 0.92], validations=(0.7, 0.7))
    run.cell("s2", "zoo/b", [0.8, 0.82], validations=(0.9, 0.9))  # chosen: test data chooses nothing
    run.cell("s3", "zoo/a", [0.5, 0.5], validations=(0.95, 0.95), **SCRATCH)
    run.cell("s4", "zoo/b", [0.6, 0.7], validations=(0.5, 0.5), **SCRATCH)
    (gain,) = transfer_gains(run.folder)
    assert (gain.backbone, gain.strategy, gain.scratch_backbone) == ("zoo/b", "basic/full", "zoo/b")
    assert gain.gain == pytest.approx(0.81 - 0.65)
    assert (gain.low, gain.high) == (None, None)  # no predictions were kept
    assert str(gain) == (
        "data/digits: zoo/b with basic/full reaches 81.0 %, the same architecture from scratch 65.0 %: "
        "pretraining brings 16.0 points. From scratch, zoo/a reaches 50.0 %."
    )


def test_another_architecture_from_scratch_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    run.cell("s1", "zoo/a", [0.6])
    run.cell("s2", "zoo/b", [0.7], **SCRATCH)
    (gain,) = transfer_gains(run.folder)
    assert "zoo/b from scratch 70.0 %: pretraining costs 10.0 points." in str(gain)


def test_a_random_twin_is_not_pretrained(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    run.cell("s1", "zoo/twin", [0.7], validations=(0.9,), weights="random:0 sha256:1")
    run.cell("s2", "zoo/a", [0.6])
    (gain,) = transfer_gains(run.folder)
    assert (gain.backbone, gain.scratch_backbone) == ("zoo/a", "zoo/twin")


def test_controls_are_no_transfer_and_no_scratch(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    run.cell("s1", "none", [0.9], weights="none", strategy="controls/majority")
    run.cell("s2", "zoo/a", [0.6])
    assert transfer_gains(run.folder) == []
    run.cell("s3", "zoo/a", [0.5], **SCRATCH)
    assert [gain.backbone for gain in transfer_gains(run.folder)] == ["zoo/a"]


def test_failed_finals_and_other_data_sets_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    run.cell("s1", "zoo/a", [0.8])
    run.cell("s2", "zoo/a", ["no memory"], **SCRATCH)
    run.cell("s3", "zoo/a", [0.5], dataset="data/other", **SCRATCH)
    assert transfer_gains(run.folder) == []


def test_the_interval_is_that_of_paired_test_samples(tmp_path: Path) -> None:
    """Two seeds; both competitors fail on the same hard half, which pairing takes out of the interval."""
    run = Run(tmp_path / "small")
    one, other = run.cell("s1", "zoo/a", [0.5, 0.5]), run.cell("s2", "zoo/a", [0.45, 0.45], **SCRATCH)
    right = np.tile(np.arange(200) < 100, (2, 1))
    against = right.copy()
    against[:, :10] = False
    predict(run, one, right)
    predict(run, other, against)
    (gain,) = transfer_gains(run.folder)
    assert gain.low is not None
    assert gain.high is not None
    half_width = 1.96 * (0.05 * 0.95 / 200) ** 0.5  # of 200 samples, 10 differ
    assert (gain.low, gain.high) == pytest.approx((0.05 - half_width, 0.05 + half_width), abs=0.007)
    assert "pretraining brings 5.0 points [2." in str(gain)
    assert transfer_gains(run.folder) == [gain]


def test_the_gain_is_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    """As its interval is: over all seeds of each it would be 2.5 points, outside of that."""
    run = Run(tmp_path / "small")
    one, other = run.cell("s1", "zoo/a", [0.8, 0.95]), run.cell("s2", "zoo/a", [0.85], **SCRATCH)
    predict(run, one, np.array([np.arange(200) < count for count in (160, 190)]))
    predict(run, other, np.array([np.arange(200) < 170]))
    (gain,) = transfer_gains(run.folder)
    assert gain.gain == pytest.approx(-0.05)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < gain.gain < gain.high < 0
    assert "reaches 87.5 %, the same architecture from scratch 85.0 %: pretraining costs 5.0 points [" in str(gain)
    assert str(gain).endswith("] over the 1 seed that both have.")


def test_samples_are_paired_by_their_ids(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    one, other = run.cell("s1", "zoo/a", [0.5]), run.cell("s2", "zoo/a", [0.5], **SCRATCH)
    hits = np.arange(100) < 50
    names = [f"test/{index}" for index in range(100)]
    predict(run, one, hits[None], names)
    predict(run, other, hits[None, ::-1], names[::-1])
    (gain,) = transfer_gains(run.folder)
    assert (gain.low, gain.high) == (0, 0)
    assert str(gain).endswith("a difference of 0.0 points [0.0, 0.0], which may be chance.")


def test_other_samples_are_no_pairs(tmp_path: Path) -> None:
    run = Run(tmp_path / "small")
    one, other = run.cell("s1", "zoo/a", [0.5]), run.cell("s2", "zoo/a", [0.5], **SCRATCH)
    predict(run, one, np.ones((1, 9)))
    predict(run, other, np.ones((1, 9)), [f"other/{index}" for index in range(9)])
    assert transfer_gains(run.folder)[0].low is None


def gain(**changes: Any) -> Gain:
    fields = {"dataset": "d", "metric": "accuracy", "backbone": "b", "strategy": "s", "test": 0.6}
    scratch = {"scratch_backbone": "b", "scratch_test": 0.7, "other_backbone": None, "other_test": None}
    return Gain(**{**fields, **scratch, "low": None, "high": None, **changes})


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"low": -0.15, "high": -0.05}, "pretraining costs 10.0 points [5.0, 15.0]."),
        ({"low": -0.3, "high": 0.1}, "a difference of -10.0 points [-30.0, 10.0], which may be chance."),
        ({"test": 0.5, "scratch_test": 0.3, "low": 0.1, "high": 0.3}, "pretraining brings 20.0 points [10.0, 30.0]."),
        ({"metric": "nll"}, "reaches 0.600, the same architecture from scratch 0.700: pretraining brings 0.100."),
        ({"metric": "nll", "test": 0.9}, "pretraining costs 0.200."),
    ],
)
def test_what_the_sentence_says(changes: dict[str, Any], end: str) -> None:
    assert str(gain(**changes)).endswith(end)
