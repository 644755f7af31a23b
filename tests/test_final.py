"""The test door: opened by finals alone, counted, and closed to data that would make a score worthless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tiny
from tlbench.components import Dataset, Split, Splits
from tlbench.errors import DataError
from tlbench.evaluation.data import load_data
from tlbench.evaluation.final import TestDoor


class Flowers(Dataset):
    """As many samples of each class per split as given; ids may be overridden."""

    name, summary, modality, fingerprint = "flowers", "flowers", "image", "0"

    def __init__(self, train: Sequence[int], test: Sequence[int] | None, **more: Any) -> None:
        self.counts = {"train": train, "test": test}
        self.has_test = test is not None
        self.ids, self.classes = more.get("ids", {}), more.get("classes", {})
        self.opened = 0

    def load(self, seed: int) -> Splits:
        return Splits(self._split("train"))

    def load_test(self, seed: int) -> Split:
        self.opened += 1
        return self._split("test")

    def _split(self, name: str) -> Split:
        counts = self.counts[name]
        assert counts is not None
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        ids = self.ids.get(name, [f"{name}/{index:03}" for index in range(len(labels))])
        return Split(ids, labels, self.classes.get(name, ("rose", "tulip")), list(range(len(labels))))


def opened(dataset: Flowers, excluded: frozenset[str] = frozenset()) -> Any:
    data = load_data(dataset, split_seed=0, shots=None, excluded=excluded)
    return TestDoor(dataset, 0, excluded).open(data)


def test_openings_are_counted() -> None:
    dataset = Flowers([10, 10], [5, 5])
    data = load_data(dataset, split_seed=0, shots=None)
    door = TestDoor(dataset, 0, frozenset())
    assert (door.openings, dataset.opened) == (0, 0)
    door.open(data)
    door.open(data)
    assert (door.openings, dataset.opened) == (2, 2)


def test_every_sample_once_in_the_order_of_ids() -> None:
    part = opened(Flowers([10, 10], [51, 50]))
    assert len(part) == len(set(part.ids)) == 101
    assert list(part.ids) == sorted(part.ids)


def test_samples_left_out_stay_out() -> None:
    excluded = frozenset({"test/000", "test/007", "train/003"})
    part = opened(Flowers([10, 10], [5, 5]), excluded)
    assert set(part.ids) == {f"test/{index:03}" for index in range(10)} - excluded


def test_a_data_set_without_a_test_split_gives_the_fifth_that_nobody_saw() -> None:
    dataset = Flowers([50, 50], None)
    data = load_data(dataset, split_seed=0, shots=None)
    part = opened(dataset)
    assert dataset.opened == 0
    assert len(part) == 20
    everything = [*part.ids, *data.train.ids, *data.validation.ids]
    assert len(set(everything)) == len(everything) == 100
    assert np.bincount(part.labels).tolist() == [10, 10]


def test_data_that_would_make_the_score_worthless_is_refused() -> None:
    ids = ["train/000", *(f"test/{index:03}" for index in range(9))]
    with pytest.raises(DataError, match="'train/000' first"):
        opened(Flowers([10, 10], [5, 5], ids={"test": ids}))
    with pytest.raises(DataError, match="no samples"):
        opened(Flowers([10, 10], [0, 0]))
    with pytest.raises(DataError, match="the classes of train and test disagree: lily, tulip"):
        opened(Flowers([10, 10], [5, 5], classes={"test": ("rose", "lily")}))
    with pytest.raises(DataError, match="their order"):
        opened(Flowers([10, 10], [5, 5], classes={"test": ("tulip", "rose")}))


def test_blobs_have_a_test_split_of_their_own() -> None:
    """The tiny data set's parts are disjoint, as its users here take for granted."""
    data = load_data(tiny.Blobs(), split_seed=0, shots=None)
    part = TestDoor(tiny.Blobs(), 0, frozenset()).open(data)
    assert not set(part.ids) & {*data.train.ids, *data.validation.ids}
