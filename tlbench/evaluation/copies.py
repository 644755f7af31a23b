"""Copies: samples that have the same content, and the scores they spoil."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tlbench.components import Dataset
from tlbench.evaluation.data import Data

_PAIRS = (("train", "test"), ("train", "validation"), ("validation", "test"))


@final
@dataclass(frozen=True, kw_only=True)
class Leak:
    """Samples of one part whose content another part has, too."""

    seen: str
    """`train` or `validation`: the part that has it as well."""

    scored: str
    """`validation` or `test`: the part that should hold new samples alone."""

    count: int
    """Samples of `scored`."""

    example: str


@final
@dataclass(frozen=True, kw_only=True)
class Copies:
    """What the copies in a data set do."""

    leaks: Sequence[Leak]
    repeated: int
    """Training samples whose content another one has, too, beyond the first of each."""

    contradictory: int
    """Contents that lie in several classes of training and validation."""

    contradiction: str | None
    """The first of them and its classes."""


def find_copies(dataset: Dataset, data: Data, shots: int | None) -> Copies:
    """The copies that `dataset` knows of, by the part of `data` they fall in. The test split is not opened.

    Where test is a fifth of the training split and `shots` leaves others of it unused, the two cannot be told apart
    and no copy counts as a test sample.
    """
    groups = dataset.duplicates()
    part = _parts(dataset, data, shots)
    found = {(seen, scored): _leaks(groups, part, seen, scored) for seen, scored in _PAIRS}
    splits = (data.train.split, data.validation.split)
    labels = {name: label for split in splits for name, label in zip(split.ids, split.labels, strict=True)}
    classes = [{labels[name]: name for name in reversed(group) if name in labels} for group in groups]
    torn = [by_label for by_label in classes if len(by_label) > 1]
    return Copies(
        leaks=tuple(
            Leak(seen=seen, scored=scored, count=len(pairs), example=_shown(pairs[0], data))
            for (seen, scored), pairs in found.items()
            if pairs
        ),
        repeated=sum(max(0, sum(part(name) == "train" for name in group) - 1) for group in groups),
        contradictory=len(torn),
        contradiction=_contradiction(torn[0], data) if torn else None,
    )


def _parts(dataset: Dataset, data: Data, shots: int | None) -> Callable[[str], str | None]:
    """The part in which the sample of an id is used; None where it is not, or cannot be told."""
    train, validation, split = set(data.train.ids), set(data.validation.ids), set(data.train.split.ids)

    def part(name: str) -> str | None:
        if name in train or name in validation:
            return "train" if name in train else "validation"
        return "test" if name not in split or (not dataset.has_test and shots is None) else None

    return part


def _leaks(
    groups: Sequence[Sequence[str]], part: Callable[[str], str | None], seen: str, scored: str
) -> list[tuple[str, str]]:
    """A sample of `scored` and one of `seen`, for each of the former that has such a copy."""
    pairs = []
    for group in groups:
        first = next((name for name in group if part(name) == seen), None)
        pairs += [(name, first) for name in group if first is not None and part(name) == scored]
    return pairs


def _contradiction(names: Mapping[int, str], data: Data) -> str:
    classes = " and ".join(f"'{data.class_names[label]}'" for label in sorted(names))
    return f"{_shown(sorted(names.values()), data)} in {classes}"


def _shown(names: Sequence[str], data: Data) -> str:
    """The text that the samples called `names` share, or where samples are no texts, their ids."""
    for split in (data.train.split, data.validation.split):
        for index, name in enumerate(split.ids):
            if name in names:
                sample = split[index]
                return f"'{sample[:40]}'" if isinstance(sample, str) else " = ".join(names)
    return " = ".join(names)
