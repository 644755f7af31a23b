"""The searches that are not tlbench's, replayed: the same logic as live, on recorded trainings."""

from __future__ import annotations

import optuna

from searches.rungs import Rungs, rungs_up_to
from searches.simulation import Replayed, Simulation
from searches.space import DECAYS, IMAGE_RATES, Suggest

TRIED_SHARE = 1 / 3
"""Part of the time in which the search that trains for one epoch first looks at new recipes."""

DEFAULT_RATE = 3e-4


def optuna_median(simulation: Simulation) -> None:
    """TPE and the median pruner with their defaults; every trial trains from the files."""
    _optuna(simulation, optuna.samplers.TPESampler(seed=simulation.seed), optuna.pruners.MedianPruner())


def at_random(simulation: Simulation) -> None:
    """Recipes at random, each trained to the end from the files."""
    _optuna(simulation, optuna.samplers.RandomSampler(seed=simulation.seed), optuna.pruners.NopPruner())


def asha(simulation: Simulation) -> None:
    """Promotion-type ASHA over recipes at random, on arrays."""
    simulation.now = simulation.table.seconds("start", "arrays")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=simulation.seed))
    rungs, trainings = Rungs(epochs=rungs_up_to(simulation.epochs)), list[Replayed]()
    while not simulation.is_over:
        promoted = rungs.next()
        if promoted is None:
            promoted = len(trainings), 0
            trainings.append(_training(study.ask(), simulation, "arrays"))
        number, rung = promoted
        rungs.scores[rung][number] = _train(trainings[number], rungs.epochs[rung])


def one_epoch(simulation: Simulation) -> None:
    """One epoch for many recipes at random, then the best of them to the end (Egele et al. 2023), on arrays."""
    simulation.now = simulation.table.seconds("start", "arrays")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=simulation.seed))
    tried = list[tuple[float, Replayed]]()
    while simulation.now < TRIED_SHARE * simulation.seconds:
        training = _training(study.ask(), simulation, "arrays")
        tried.append((training.run_epoch(), training))
    for _, training in sorted(tried, key=lambda one: -one[0]):
        if simulation.is_over:
            return
        _train(training, simulation.epochs)


def defaults(simulation: Simulation) -> None:
    """No search: the backbone that is best by publication, fine-tuned with the default recipe, on arrays."""
    simulation.now = simulation.table.seconds("start", "arrays")
    known = simulation.table.facts["backbones"]
    champion = max(known, key=lambda name: known[name]["accuracy"] or 0.0)
    _train(Replayed(simulation, champion, "full", DEFAULT_RATE, "arrays"), simulation.epochs)


def _optuna(simulation: Simulation, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner) -> None:
    simulation.now = simulation.table.seconds("start", "files")
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    while not simulation.is_over:
        trial = study.ask()
        training, best = _training(trial, simulation, "files"), 0.0
        state = optuna.trial.TrialState.COMPLETE
        while training.epoch < simulation.epochs and not simulation.is_over:
            score = training.run_epoch()
            best = max(best, score)
            trial.report(score, training.epoch - 1)
            if trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        study.tell(trial, best if state == optuna.trial.TrialState.COMPLETE else None, state)


def _training(trial: Suggest, simulation: Simulation, pipeline: str) -> Replayed:
    """The same space as live; weight decay is drawn and makes no difference, for the table has but one."""
    backbone = trial.suggest_categorical("backbone", simulation.table.backbones)
    strategy = trial.suggest_categorical("strategy", ("head", "full"))
    rate = trial.suggest_float("learning_rate", *IMAGE_RATES, log=True)
    trial.suggest_float("weight_decay", *DECAYS, log=True)
    return Replayed(simulation, backbone, strategy, rate, pipeline)


def _train(training: Replayed, until: int) -> float:
    score = 0.0
    while training.epoch < until:
        score = training.run_epoch()
    return score
