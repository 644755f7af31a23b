"""Sampling: Optuna's studies, samplers and pruners, made from the names that a benchmark file gives."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import optuna
from optuna.samplers import BaseSampler

from tlbench.benchmark import NamedOptions, Search, higher_is_better
from tlbench.errors import BenchmarkError

optuna.logging.set_verbosity(optuna.logging.WARNING)


@final
class OptunaStudy(optuna.Study):
    """A study in memory that notes when its sampler has nothing left, instead of refusing outside of `optimize`."""

    def __init__(self, name: str, search: Search, sampler: BaseSampler) -> None:
        """The name is given, because `HyperbandPruner` hashes it."""
        direction = optuna.study.StudyDirection
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study([direction.MAXIMIZE if higher_is_better(search.metric) else direction.MINIMIZE], name)
        super().__init__(name, storage, sampler, _make(optuna.pruners, "pruner", search.pruner))
        self.exhausted = False

    def stop(self) -> None:
        """Called by samplers that have tried everything."""
        self.exhausted = True


def make_sampler(choice: NamedOptions, study_seed: int, ask_seed: int) -> BaseSampler:
    """A sampler for one ask.

    Those that walk through one sequence of points (a grid in random order, a scrambled Sobol sequence) need the same
    seed at every ask, else they take up another sequence each time.
    """
    if choice.name not in ("GridSampler", "QMCSampler"):
        sampler: BaseSampler = _make(optuna.samplers, "sampler", choice, seed=ask_seed)
        return sampler
    independent = optuna.samplers.RandomSampler(seed=ask_seed)  # for what is no part of the sequence
    sampler = _make(optuna.samplers, "sampler", choice, seed=study_seed, independent_sampler=independent)
    return sampler


def fixed_sampler(params: Mapping[str, Any], seed: int) -> BaseSampler:
    """A sampler that gives `params`. `Study.enqueue_trial` would too, but makes `GridSampler` leave out a point."""
    with quiet():
        return optuna.samplers.PartialFixedSampler(dict(params), optuna.samplers.RandomSampler(seed=seed))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a class is experimental: whoever names it in a file has chosen it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _make(module: Any, kind: str, choice: NamedOptions, **more: Any) -> Any:
    """The class of `module` that a benchmark file names, with its options."""
    known = [name for name in dir(module) if name.lower().endswith(kind) and not name.startswith("Base")]
    if choice.name not in known:
        raise BenchmarkError(f"search.{kind}.name = '{choice.name}': Optuna has {', '.join(known)}")
    kept = {
        name: value
        for name, value in more.items()
        if name in inspect.signature(getattr(module, choice.name)).parameters
    }
    try:
        with quiet():
            return getattr(module, choice.name)(**{**kept, **choice.options})
    except Exception as error:  # options that do not fit, or a package that is not installed
        raise BenchmarkError(f"search.{kind} = {choice.name}: {error}") from error
