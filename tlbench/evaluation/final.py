"""The test door: the one place where test data is loaded, for finals alone, once per measurement."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from tlbench.components import Dataset
from tlbench.evaluation.data import Data, Part, as_part, check_test, held_out_test
from tlbench.evaluation.shelf import Shelf

SEALED = "sealed"
"""The section of the cache for what is computed of test samples: nothing else ever opens it."""


@final
class TestDoor:
    """Opens the test split of one trial and counts how often that happened."""

    __test__ = False  # no test case, whatever pytest makes of the name

    def __init__(self, dataset: Dataset, split_seed: int, excluded: frozenset[str]) -> None:
        self._dataset, self._split_seed, self._excluded = dataset, split_seed, excluded
        self.openings = 0

    def open(self, data: Data) -> Part:
        """The test part, checked against the training data it is to be compared with. Raises `DataError`."""
        self.openings += 1
        if self._dataset.has_test:
            test = as_part(self._dataset.load_test(self._split_seed), "test", self._excluded)
        else:
            test = held_out_test(self._dataset, split_seed=self._split_seed, excluded=self._excluded)
        check_test(data, test)
        return test

    def shelf(self, shelf: Shelf) -> Shelf:
        """Where what is computed of the test samples is kept, apart from everything that a search can reach."""
        return replace(shelf, section=SEALED)
