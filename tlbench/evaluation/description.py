"""Description: what was understood of a data set, in a few plain sentences, before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tlbench.components import Dataset, Problem, Split
from tlbench.entrypoints import one_line
from tlbench.evaluation.copies import Copies, find_copies
from tlbench.evaluation.data import Data

IMBALANCED = 10
"""Times as many samples in the largest class as in the smallest from which accuracy says little of the small ones."""

_SHOWN = 3
_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@final
@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set as it is going to be used."""

    name: str
    modality: str
    class_counts: Mapping[str, int]
    """Usable samples of each class, before validation and test are taken out where the data set brings none."""

    train: int
    """Samples to train on; with `shots`, so many of each class."""

    validation: int
    shots: int | None
    own_validation: bool
    """Whether the data set brings a validation split; else it is a stratified fifth. Likewise below."""

    own_test: bool
    folds: int
    """Folds that finals validate on in turn."""

    unusable: Mapping[str, Sequence[str]]
    """Where samples lie that cannot be used, by the reason."""

    copies: Copies

    @property
    def imbalance(self) -> float:
        """Size of the largest class over that of the smallest."""
        return max(self.class_counts.values()) / min(self.class_counts.values())

    def lines(self) -> list[str]:
        """Plain sentences for a terminal, each on one line."""
        return [one_line(line) for line in (self._content(), self._parts(), *self._advice())]

    def _content(self) -> str:
        sizes = self.class_counts.values()
        low, high = min(sizes), max(sizes)
        each = f"{low} to {high} each" if low < high else f"{low} each"
        names = _some(list(self.class_counts))
        return f"{self.name}: {self._counted(sum(sizes))} in {len(sizes)} classes ({names}), {each}"

    def _parts(self) -> str:
        origin = {
            (True, True): "validation and test are splits of their own",
            (True, False): "validation is a split of its own, test a stratified fifth",
            (False, True): "test is a split of its own, validation a stratified fifth",
            (False, False): "validation and test are a stratified fifth each, the data bring none",
        }[self.own_validation, self.own_test]
        if self.folds > 1:
            origin += "; as they are few, finals validate on another fifth with every seed"
        few = "" if self.shots is None else f" (at most {self.shots} of a class)"
        return f"{self._counted(self.train)} to train on{few}, {self.validation} to validate; {origin}"

    def _advice(self) -> Iterator[str]:
        if self.imbalance > IMBALANCED:
            smallest, largest = (f(self.class_counts, key=self.class_counts.__getitem__) for f in (min, max))
            yield (
                f"class '{_short(largest)}' is {self.imbalance:.0f} times as large as '{_short(smallest)}': "
                'metric = "balanced_accuracy" counts every class alike'
            )
        if self.unusable:
            total = self._counted(sum(map(len, self.unusable.values())))
            reasons = (f"{_short(reason)} ({_some(where)})" for reason, where in self.unusable.items())
            yield f"{total} cannot be used and will be left out: {'; '.join(reasons)}"
        for leak in self.copies.leaks:
            yield (
                f"{self._counted(leak.count)} for {_WORDS[leak.scored]} {'is' if leak.count == 1 else 'are'} there for "
                f"{_WORDS[leak.seen]}, too, such as {leak.example}: scores come out too high"
            )
        if self.copies.repeated:
            repeat = "repeats" if self.copies.repeated == 1 else "repeat"
            yield f"{self._counted(self.copies.repeated)} to train on {repeat} another one"
        if self.copies.contradictory:
            there = "is there" if self.copies.contradictory == 1 else "are there"
            found = f"{self._counted(self.copies.contradictory)} {there} in more than one class"
            yield f"{found}, such as {self.copies.contradiction}"

    def _counted(self, number: int) -> str:
        return f"{number} {self.modality}" + "s" * (number != 1)


def describe(dataset: Dataset, data: Data, shots: int | None, problems: Sequence[Problem]) -> Description:
    """What `data`, loaded from `dataset` without the samples in `problems`, is. The test split is not opened."""
    unusable: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for problem in problems:
        reason = spelled.setdefault(re.sub(r"\d+", "0", problem.reason), problem.reason)  # counts of bytes differ
        unusable.setdefault(reason, []).append(problem.place or problem.sample_id)
    return Description(
        name=dataset.name,
        modality=dataset.modality,
        class_counts=_class_counts(data.train.split, {problem.sample_id for problem in problems}),
        train=len(data.train),
        validation=len(data.validation),
        shots=shots,
        own_validation=data.validation.split is not data.train.split,
        own_test=dataset.has_test,
        folds=data.folds,
        unusable=unusable,
        copies=find_copies(dataset, data, shots),
    )


def _class_counts(split: Split, excluded: set[str]) -> dict[str, int]:
    pairs = zip(split.ids, split.labels, strict=True)
    counts = Counter(label for identifier, label in pairs if identifier not in excluded)
    return {name: counts[label] for label, name in enumerate(split.class_names)}


def _some(words: Sequence[str]) -> str:
    """The first few of `words`, and how many more there are."""
    shown = ", ".join(map(_short, words[:_SHOWN]))
    return shown + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _short(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
