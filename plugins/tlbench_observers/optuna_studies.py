"""Optuna's dashboard: every cell as a study in `observers/optuna.db`, which is fed and never searched with."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tlbench.hookspecs import hookimpl
from tlbench_observers import record
from tlbench_observers.record import Scalar

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from tlbench.measurement import Measurement


@hookimpl
def start_observing(folder: Path) -> None:
    """Open the storage, which brings its tables with it."""
    _storage(folder.absolute())


@hookimpl
def trial_finished(measurement: Measurement, folder: Path) -> None:
    """Add the trial to the study of its cell; finals have a study of their own, screens, which have no score, none."""
    if measurement.trial.stage == "screen":
        return
    storage, name = _storage(folder.absolute()), _study_name(measurement)
    study = _study(storage, name, measurement.trial.metric)
    told: list[FrozenTrial] = study.get_trials(deepcopy=False)
    known: dict[str, BaseDistribution] = {}
    for trial in told:
        known.update(trial.distributions)
    params = record.recipe(measurement)
    wanted = {name: known[name] for name in params if name in known and has(known[name], params[name])}
    for name in params.keys() - wanted.keys():
        wanted[name] = distribution([*(trial.params[name] for trial in told if name in trial.params), params[name]])
    if outgrown := [name for name in wanted if name in known and wanted[name] != known[name]]:
        study = _begun_anew(study, storage, told, {name: wanted[name] for name in outgrown})
    study.add_trial(_trial(measurement, wanted))


def distribution(values: Sequence[Scalar]) -> BaseDistribution:
    """One that has all these values. A measurement tells values only, and a study needs to know where they came from.

    Numbers range between powers of ten, on a logarithmic scale where all are positive, so that a new one is seldom
    outside. All else is a choice.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        return CategoricalDistribution(list({(type(value), value): value for value in values}.values()))
    low, high = min(_decade(value)[0] for value in numbers), max(_decade(value)[1] for value in numbers)
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(round(low), round(high), log=low >= 1)
    return FloatDistribution(low, high, log=low > 0)


def has(known: BaseDistribution, value: Scalar) -> bool:
    """Whether a distribution has this value, True being another than 1."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(known, CategoricalDistribution):
        return any(type(choice) is type(value) and choice == value for choice in known.choices)
    assert isinstance(known, FloatDistribution | IntDistribution)
    kinds = (int, float) if isinstance(known, FloatDistribution) else (int,)
    return type(value) in kinds and known.low <= value <= known.high  # type: ignore[operator]


def _decade(value: float) -> tuple[float, float]:
    """The powers of ten on both sides of a number; 0 and the next one where it is smaller than any of use."""
    size = abs(value)
    if size < 1e-12:
        return 0.0, 1.0
    exponent = math.floor(math.log10(size))
    low, high = min(10.0**exponent, size), max(10.0 ** (exponent + 1), size)
    return (low, high) if value > 0 else (-high, -low)


def _trial(measurement: Measurement, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """The trial as Optuna keeps it; its score is the one the search went by, of a final that on all validation data."""
    from optuna.trial import TrialState, create_trial

    trial = measurement.trial
    score = measurement.score("validation" if trial.stage == "final" else "search", trial.metric)
    known = score is not None and math.isfinite(score)
    state = TrialState.COMPLETE if measurement.status == "complete" and known else TrialState.FAIL
    if measurement.status == "pruned":
        state = TrialState.PRUNED
    frozen = create_trial(
        state=state,
        value=score if state == TrialState.COMPLETE else None,
        params=record.recipe(measurement),
        distributions=dict(distributions),
        user_attrs={**record.facts(measurement), **record.numbers(measurement)},
        intermediate_values={
            epoch: values["search_score"] for epoch, _, values in record.curve(measurement) if "search_score" in values
        },
    )
    frozen.datetime_start, frozen.datetime_complete = map(
        _local, (record.started(measurement), record.ended(measurement))
    )
    return frozen


def _local(moment: datetime) -> datetime:
    """A time as Optuna writes it: of the machine's zone, without saying so."""
    return moment.astimezone().replace(tzinfo=None)


def _study_name(measurement: Measurement) -> str:
    return record.cell(measurement) + (" finals" if measurement.trial.stage == "final" else "")


@cache
def _storage(folder: Path) -> BaseStorage:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.get_storage(
        f"sqlite:///{record.own_folder(folder) / 'optuna.db'}"
    )  # keeps in memory what it has read


def _study(storage: BaseStorage, name: str, metric: str) -> Study:
    import optuna

    from tlbench.benchmark import higher_is_better

    direction = (
        optuna.study.StudyDirection.MAXIMIZE if higher_is_better(metric) else optuna.study.StudyDirection.MINIMIZE
    )
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    if "metric" not in study.user_attrs:
        study.set_user_attr("metric", metric)
    return study


def _begun_anew(
    study: Study, storage: BaseStorage, told: Sequence[FrozenTrial], wider: Mapping[str, BaseDistribution]
) -> Study:
    """The study once more, with wider distributions: no trial of a study may have others than the rest."""
    import optuna

    name, metric = study.study_name, study.user_attrs["metric"]
    optuna.delete_study(study_name=name, storage=storage)
    anew = _study(storage, name, metric)
    for trial in told:
        trial = copy.copy(trial)
        trial.distributions = {key: wider.get(key, known) for key, known in trial.distributions.items()}
        anew.add_trial(trial)
    return anew
