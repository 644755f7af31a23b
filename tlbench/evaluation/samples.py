"""Samples: the data set of a trial, cut into parts and prepared for whoever looks at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import final

from tlbench.components import Dataset, Preprocess
from tlbench.evaluation.data import Data, Part, Prepared, load_data
from tlbench.evaluation.shelf import Shelf
from tlbench.strategies import ControlStrategy
from tlbench.trial import Trial, canonical_json

Eyes = Preprocess | ControlStrategy
"""What prepares samples: a backbone's preprocessing, or a control."""


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """A data set cut into parts, prepared for one backbone."""

    data: Data
    train: Prepared
    validation: Prepared


def cut_samples(
    trial: Trial, dataset: Dataset, excluded: frozenset[str], prepare: Callable[[Part], Prepared]
) -> Samples:
    """The training and validation samples of a trial."""
    data = load_data(
        dataset,
        split_seed=trial.split_seed,
        shots=trial.shots,
        excluded=excluded,
        fraction=trial.fraction,
        fold=trial.fold,
    )
    return Samples(data=data, train=prepare(data.train), validation=prepare(data.validation))


def samples_key(trial: Trial, shelf: Shelf) -> Hashable:
    """Everything that prepared samples depend on: what their shelf knows them by, and which of them they are."""
    return trial.split_seed, trial.shots, trial.fraction, trial.fold, canonical_json(shelf.facts)
