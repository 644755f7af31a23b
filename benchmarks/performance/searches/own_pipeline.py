"""Searches on tlbench's own data pipeline and precision, in one process, without anything else of it."""

from __future__ import annotations

import optuna

from searches.assignment import Assignment
from searches.feeds import ArrayFeed
from searches.incumbents import Incumbents
from searches.rungs import Rungs, rungs_up_to
from searches.space import recipe_of
from searches.training import Recipe, Training

DEFAULT_RATES = {"image": 3e-4, "text": 1e-4}
"""Of fine-tuning, as tlbench's strategy `full` has them."""


def asha(given: Assignment) -> None:
    """ASHA over the same space; paused trainings stay in memory and go on where they were."""
    feed = ArrayFeed(given.setting, given.parts)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=given.seed))
    rungs = Rungs(epochs=rungs_up_to(given.setting.epochs))
    trainings: dict[int, Training] = {}
    while given.incumbents.elapsed_s < given.seconds:
        promoted = rungs.next()
        if promoted is None:
            number, rung = len(trainings), 0
            recipe = recipe_of(study.ask(), given.setting)
            trainings[number] = Training(given.setting, recipe, feed, given.classes, given.seed)
            given.incumbents.count_trial()
        else:
            number, rung = promoted
        rungs.scores[rung][number] = _train(trainings[number], rungs.epochs[rung], given.incumbents)


def defaults(given: Assignment) -> None:
    """No search: the backbone that is best by publication, fine-tuned with the default recipe."""
    setting = given.setting
    rate = DEFAULT_RATES["text" if setting.is_text else "image"]
    recipe = Recipe(backbone=setting.champion, strategy="full", learning_rate=rate)
    training = Training(setting, recipe, ArrayFeed(setting, given.parts), given.classes, given.seed)
    given.incumbents.count_trial()
    _train(training, setting.epochs, given.incumbents)


def _train(training: Training, until: int, incumbents: Incumbents) -> float:
    """Go on to an epoch; the validation accuracy there."""
    score = 0.0
    while training.epoch < until:
        score = training.run_epoch()
        incumbents.offer(score, training.save, f"{training.recipe.backbone} {training.recipe.strategy}")
    return score
