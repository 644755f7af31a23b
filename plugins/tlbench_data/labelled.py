"""Labelled rows: from samples that come in rows, some perhaps without a label, to the splits of a data set."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, final

from tlbench.components import Dataset, Problem, Split, Splits
from tlbench.errors import DataError
from tlbench_data.copies import copies
from tlbench_data.fingerprint import fingerprint

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
MOST_NUMBERS = 20
"""Numbers that are different in most rows are no classes where there are more than so many."""

NO_LABEL = "it has no label"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of one split, in their order."""

    place: str
    """Where they are, for messages: a file's name."""

    labels: Sequence[str | None]
    """The class of each row; None where it has no label."""

    digests: Sequence[str]
    """sha256 of each row's content, without the label."""

    samples: Any
    """Anything with `__getitem__(int)` that returns a raw sample."""

    faults: Callable[[], Sequence[str | None]]
    """Why each row cannot be used, None where it can."""

    names: Sequence[str] | None = None
    """Ids that the rows have of their own; None: `identifiers` makes them."""

    def without(self, word: str) -> Rows:
        """The same rows with `word` for a label that is missing."""
        return replace(self, labels=[None if label == word else label for label in self.labels])


class RowDataset(Dataset):
    """A data set made of rows, each known by its content unless it has a name of its own."""

    @abstractmethod
    def read(self) -> Mapping[str, Rows]:
        """The rows of `train` and, where there are any, of `validation` and `test`."""

    def order(self, classes: Sequence[str]) -> Sequence[str]:
        """The classes in the order of their labels: numbers by value, words by their letters."""
        if all(map(_NUMBER.fullmatch, classes)):
            return sorted(classes, key=lambda name: (float(name), name))
        return sorted(classes)

    @property
    def has_test(self) -> bool:  # type: ignore[override]  # a fact of the data, read when first asked for
        """Whether there are test rows."""
        return "test" in self._rows

    @property
    def fingerprint(self) -> str:
        """Hash over ids, labels and contents of the rows that have a label."""
        return fingerprint(chain.from_iterable(self._hashed(name) for name in self._rows))

    def problems(self) -> Sequence[Problem]:
        """Rows without a label, which no split has, and rows that cannot be used."""
        return self._problems

    def duplicates(self) -> Sequence[Sequence[str]]:
        """Rows of the same content, whatever their labels."""
        unusable = {problem.sample_id for problem in self._problems}
        hashed = chain.from_iterable(self._hashed(name) for name in self._rows)
        return copies((identifier, digest) for identifier, _, digest in hashed if identifier not in unusable)

    def load(self, seed: int) -> Splits:
        """Training rows and, where the data set has them, validation rows."""
        return Splits(self._split("train"), self._split("validation") if "validation" in self._rows else None)

    def load_test(self, seed: int) -> Split:
        """The test rows."""
        if not self.has_test:
            raise DataError(f"data set '{self.name}' has no test split of its own")
        return self._split("test")

    @cached_property
    def _rows(self) -> Mapping[str, Rows]:
        with naming(self.name):
            return self.read()

    @cached_property
    def _ids(self) -> Mapping[str, Sequence[str]]:
        return {name: rows.names or identifiers(name, rows) for name, rows in self._rows.items()}

    @cached_property
    def _classes(self) -> Mapping[str, int]:
        """Labels by class, the classes being those of the training rows."""
        with naming(self.name):
            return {name: label for label, name in enumerate(self.order(sorted(_classes(self._rows))))}

    @cached_property
    def _problems(self) -> tuple[Problem, ...]:
        found = []
        for name, rows in self._rows.items():
            for number, (label, fault) in enumerate(zip(rows.labels, rows.faults(), strict=True)):
                reason = NO_LABEL if label is None else fault
                if reason:
                    found.append(Problem(self._ids[name][number], reason, f"row {number + 1} of {rows.place}"))
        return tuple(found)

    def _labelled(self, name: str) -> list[tuple[int, int]]:
        """Number and label of every row that has a label."""
        labels = enumerate(self._rows[name].labels)
        return [(number, self._classes[label]) for number, label in labels if label is not None]

    def _hashed(self, name: str) -> list[tuple[str, int, str]]:
        ids, digests = self._ids[name], self._rows[name].digests
        return [(ids[number], label, digests[number]) for number, label in self._labelled(name)]

    def _split(self, name: str) -> Split:
        labelled = self._labelled(name)
        numbers = [number for number, _ in labelled]
        ids = [self._ids[name][number] for number in numbers]
        return Split(ids, [label for _, label in labelled], tuple(self._classes), _Kept(self._rows[name], numbers))


@final
class _Kept:
    """The samples of some rows."""

    def __init__(self, rows: Rows, numbers: Sequence[int]) -> None:
        self._samples, self._numbers = rows.samples, numbers

    def __getitem__(self, index: int) -> Any:
        return self._samples[self._numbers[index]]


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the data set's name before what is wrong with its data."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data set '{name}': {error}") from error


def identifiers(split: str, rows: Rows) -> list[str]:
    """A name for every row: the split, `/` and 64 bits of a hash of label and content; `-2`, `-3` for exact copies.

    Row numbers would not do: ids decide which samples validate and test, and a row put in at the top, or a file sorted
    anew, would deal all of them again. Copies are interchangeable, so that their numbers do no harm.
    """
    seen: Counter[str] = Counter()
    names = []
    for label, digest in zip(rows.labels, rows.digests, strict=True):
        name = sha256(f"{label or ''}\x1f{digest}")[:16]
        seen[name] += 1
        names.append(f"{split}/{name}" + (f"-{seen[name]}" if seen[name] > 1 else ""))
    return names


def sha256(text: str) -> str:
    """The hash of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def blank(texts: Sequence[str]) -> list[str | None]:
    """The fault of every text without a character that can be seen."""
    return [None if text.strip() else "its text is empty" for text in texts]


def _classes(rows: Mapping[str, Rows]) -> set[str]:
    """The classes of the training rows, which the other splits may not add to."""
    train = rows["train"]
    found = {label for label in train.labels if label is not None}
    if len(found) < 2:
        only = f"a single class, '{min(found)}'" if found else "no labels"
        raise DataError(f"{train.place} has {only}; at least 2 classes are needed")
    if len(found) > MOST_NUMBERS and 2 * len(found) > len(train.labels) and all(map(_NUMBER.fullmatch, found)):
        raise DataError(
            f"{train.place} has {len(found)} different numbers as labels in {len(train.labels)} rows: they look like "
            "quantities, and what is built is classification: name the column of classes, or turn ranges into classes"
        )
    for other in rows.values():
        for label in sorted({label for label in other.labels if label is not None} - found)[:1]:
            raise DataError(f"class '{label}' in {other.place} has no rows in {train.place} to train on")
    return found
