"""The data of a trial: which samples train, validate and test, and their prepared arrays."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from tlbench.components import Dataset, Preprocess, Split
from tlbench.errors import DataError
from tlbench.evaluation.arrays import row_of
from tlbench.evaluation.shelf import Shelf
from tlbench.samples.threads import Each
from tlbench.seeds import hash_order
from tlbench.strategies import ControlStrategy

FOLDS = 5
"""A fold is a fifth of every class: what validates where the data set brings no validation split."""

SMALL = 200
"""Validation samples below which finals are cross-validated: of 200 the standard error of 75 % is three points."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Samples of a split, in the order of their ids."""

    name: str
    """`train`, `validation` or `test`."""

    split: Split
    indices: np.ndarray
    """Index into the split, int64 [n]."""

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Sample ids, ascending."""
        return tuple(self.split.ids[index] for index in self.indices)

    @cached_property
    def rows(self) -> tuple[bytes, ...]:
        """By what the samples are found in a cache."""
        return tuple(map(row_of, self.ids))

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices, int64 [n]."""
        labels: np.ndarray = np.asarray(self.split.labels, np.int64)[self.indices]
        return labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, whether they occur here or not."""
        return tuple(self.split.class_names)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def sample(self, position: int) -> Any:
        """The raw sample at `position` of this part."""
        return self.split[int(self.indices[position])]

    def take(self, name: str, positions: np.ndarray) -> Part:
        """The samples at `positions`, in the order of their ids."""
        return Part(name=name, split=self.split, indices=self.indices[np.sort(positions)])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What a search may see: training and validation samples."""

    train: Part
    validation: Part
    search: np.ndarray
    """bool over validation: True guides the search (`search`), False chooses among finalists (`pick`)."""

    folds: int = 1
    """Folds that finals validate on in turn: all where validation is a small fifth of train, otherwise one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes."""
        return self.train.class_names


def load_data(
    dataset: Dataset,
    *,
    split_seed: int,
    shots: int | None,
    excluded: frozenset[str] = frozenset(),
    fraction: float = 1.0,
    fold: int = 0,
) -> Data:
    """Training and validation samples without those in `excluded`, every class in each part it is split into.

    Where the data set brings no test split, a stratified fifth of train is kept away from both (`held_out_test`
    returns it); where it brings no validation split, a fifth of the rest validates: the first, or another `fold`.
    `shots` training samples per class (all of a smaller class), then a `fraction` of them, are kept; validation is
    not reduced. Every choice follows the hashed ids within a class: it depends neither on the order of samples nor
    on a random generator, and smaller subsets are contained in larger ones. Raises `DataError` for data that cannot
    be split so.
    """
    if (shots is not None and shots < 1) or not 0 < fraction <= 1:
        raise ValueError(f"shots = {shots}, fraction = {fraction}: at least 1 and a number in (0, 1] are needed")
    train, validation = _loaded(dataset, split_seed, excluded)
    possible = 1 if validation is not None else FOLDS
    if not 0 <= fold < possible:
        raise ValueError(f"fold {fold} of {possible}")
    folds = 1
    if not dataset.has_test:
        train, _ = _fifth(train, "test", split_seed)
    if validation is None:
        train, validation = _fifth(train, "validation", split_seed, fold)
        folds = FOLDS if len(validation) < SMALL else 1
    train = _subset(train, shots, fraction, split_seed)
    return Data(train=train, validation=validation, search=_search_half(validation, split_seed), folds=folds)


def held_out_test(dataset: Dataset, *, split_seed: int, excluded: frozenset[str] = frozenset()) -> Part:
    """The fifth of train that `load_data` leaves alone where the data set brings no test split."""
    train, _ = _loaded(dataset, split_seed, excluded)
    return _fifth(train, "test", split_seed)[1]


def as_part(split: Split, name: str, excluded: frozenset[str] = frozenset()) -> Part:
    """The samples of `split` without those in `excluded`."""
    order = sorted(range(len(split)), key=split.ids.__getitem__)
    kept = [index for index in order if split.ids[index] not in excluded]
    return Part(name=name, split=split, indices=np.array(kept, np.int64))


def check_test(data: Data, test: Part) -> None:
    """Refuse a test part that is empty, has other classes or shares samples with training or validation."""
    if not len(test):
        raise DataError("the test split has no samples")
    _same_classes(data.train, test)
    for label in np.setdiff1d(test.labels, data.train.labels)[:1]:
        raise DataError(f"class '{test.class_names[label]}' occurs in the test split but not in training")
    _disjoint(data.train, test)
    _disjoint(data.validation, test)


def _loaded(dataset: Dataset, split_seed: int, excluded: frozenset[str]) -> tuple[Part, Part | None]:
    splits = dataset.load(split_seed)
    train = as_part(splits.train, "train", excluded)
    validation = None if splits.validation is None else as_part(splits.validation, "validation", excluded)
    sides = ["training"] + ["validation"] * (validation is None) + ["test"] * (not dataset.has_test)
    _enough(dataset, train, sides)
    if validation is not None:
        _same_classes(train, validation)
        _disjoint(train, validation)
        if len(validation) < 2:
            raise DataError(f"data set '{dataset.name}': {len(validation)} validation samples; at least 2 are needed")
    return train, validation


def _enough(dataset: Dataset, train: Part, sides: Sequence[str]) -> None:
    """Every class needs a sample for each of `sides`."""
    if len(train.class_names) < 2:
        raise DataError(f"data set '{dataset.name}': {len(train.class_names)} class; at least 2 are needed")
    counts = np.bincount(train.labels, minlength=len(train.class_names)).tolist()
    few = [label for label, count in enumerate(counts) if count < len(sides)]
    for label in few[:1]:
        count = f"{counts[label]} {dataset.modality}" + "s" * (counts[label] != 1)
        others = f" and {len(few) - 1} more classes have too few" if len(few) > 1 else ""
        needed = f"at least {len(sides)} needed ({', '.join(sides)}): add some or remove the class"
        raise DataError(f"data set '{dataset.name}': class '{train.class_names[label]}' has {count}{others}; {needed}")


def _same_classes(train: Part, other: Part) -> None:
    if train.class_names != other.class_names:
        differing = sorted(set(train.class_names) ^ set(other.class_names)) or ["their order"]
        raise DataError(f"the classes of {train.name} and {other.name} disagree: {', '.join(differing[:3])}")


def _disjoint(one: Part, other: Part) -> None:
    shared = sorted(set(one.ids) & set(other.ids))
    if shared:
        raise DataError(f"{len(shared)} samples are in {one.name} and in {other.name}, '{shared[0]}' first")


def _by_class(part: Part, purpose: str, split_seed: int) -> list[np.ndarray]:
    """Positions of each class's samples, in hash order."""
    order = np.array(hash_order(list(part.ids), purpose, split_seed), np.int64)
    grouped = order[np.argsort(part.labels[order], kind="stable")]
    counts = np.bincount(part.labels, minlength=len(part.class_names))
    return np.split(grouped, np.cumsum(counts)[:-1])


def _fifth(part: Part, name: str, split_seed: int, fold: int = 0) -> tuple[Part, Part]:
    """What remains of `part`, and a fifth of every class, at least one sample, called `name`.

    The fifths of other folds have other samples, but in classes of fewer than five.
    """

    def chosen(members: np.ndarray) -> np.ndarray:
        size = max(1, round(len(members) / FOLDS))
        parts = [members[:size], *np.array_split(members[size:], FOLDS - 1)]
        return parts[fold] if len(parts[fold]) else members[[fold % len(members)]]

    taken = np.concatenate([chosen(members) for members in _by_class(part, name, split_seed)])
    rest = np.setdiff1d(np.arange(len(part)), taken)
    return part.take(part.name, rest), part.take(name, taken)


def _subset(train: Part, shots: int | None, fraction: float, split_seed: int) -> Part:
    shot = [members[:shots] for members in _by_class(train, "subset", split_seed)]
    kept = [members[: max(1, round(fraction * len(members)))] for members in shot]
    return train.take(train.name, np.concatenate(kept))


def _search_half(validation: Part, split_seed: int) -> np.ndarray:
    """Every other sample of each class; the odd ones out of all classes alternate, so that no half is ever empty."""
    classes = _by_class(validation, "search", split_seed)
    pairs = [members[: len(members) // 2 * 2] for members in classes]
    odd = np.concatenate([members[len(members) // 2 * 2 :] for members in classes])
    names = [validation.ids[position] for position in odd]
    search = np.zeros(len(validation), bool)
    search[np.concatenate(pairs)[::2]] = True
    search[odd[hash_order(names, "odd", split_seed)][::2]] = True
    return search


@final
class Prepared:
    """Prepared arrays of a part, decoded on demand, by a few threads where that is quicker, and kept on a shelf.

    All processes read them there through the system's page cache. Without a shelf they are kept in memory while that
    allows: `memory_limit_bytes`, a quarter of the machine's by default. Several trials of one process share it.
    """

    def __init__(
        self,
        part: Part,
        preprocess: Preprocess | ControlStrategy,
        memory_limit_bytes: int | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self.part, self.preprocess, self.shelf = part, preprocess, shelf
        quarter_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
        self._free_bytes = quarter_bytes if memory_limit_bytes is None else memory_limit_bytes
        self._decoded = Each(self._decode)
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self._entry = None if shelf is None else shelf.open("samples")

    def arrays(self, indices: Iterable[int]) -> list[np.ndarray]:
        """The prepared arrays at `indices` of the part. They are shared: not to be written to."""
        wanted = [int(index) for index in indices]
        found = self._found(list(dict.fromkeys(wanted)))
        missing = [index for index in dict.fromkeys(wanted) if index not in found]
        if missing:
            fresh = dict(zip(missing, self._decoded(missing), strict=True))
            self._keep(fresh)
            found |= fresh
        return [found[index] for index in wanted]

    @cached_property
    def digests(self) -> list[bytes]:
        """A hash of every sample's prepared array."""
        samples = range(len(self.part))
        blocks = (samples[start : start + 256] for start in samples[::256])
        return [_digest(array) for block in blocks for array in self.arrays(block)]

    def _found(self, indices: list[int]) -> dict[int, np.ndarray]:
        kept = {index: self._kept[index] for index in indices if index in self._kept}
        if self._entry is None or len(kept) == len(indices):
            return kept
        others = [index for index in indices if index not in kept]
        arrays = self._entry.get([self.part.rows[index] for index in others])
        return kept | {index: array for index, array in zip(others, arrays, strict=True) if array is not None}

    def _keep(self, fresh: dict[int, np.ndarray]) -> None:
        rows = self.part.rows
        if self._entry is not None:
            self._entry.put([rows[index] for index in fresh], list(fresh.values()))
            fresh = {index: array for index, array in fresh.items() if rows[index] not in self._entry}
        with self._lock:
            for index, array in fresh.items():
                if index not in self._kept and array.nbytes <= self._free_bytes:
                    self._kept[index] = array
                    self._free_bytes -= array.nbytes

    def _decode(self, index: int) -> np.ndarray:
        return self.preprocess.prepare(self.part.sample(index))


def duplicates(train: Prepared, test: Prepared) -> int:
    """Number of test samples whose prepared array equals that of a training sample bit for bit."""
    known = set(train.digests)
    return sum(digest in known for digest in test.digests)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()
