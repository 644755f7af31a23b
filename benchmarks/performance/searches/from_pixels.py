"""Searches as their documentation shows them: every trial trains from the files."""

from __future__ import annotations

from functools import partial
from typing import Any

from searches.assignment import Assignment
from searches.setting import Setting
from searches.space import Suggest, Suggestions, recipe_of


def optuna_median(given: Assignment) -> None:
    """Optuna: TPE and the median pruner with their defaults, one process."""
    import optuna
    import torch

    from searches.feeds import FileFeed
    from searches.training import Training

    torch.set_num_threads(given.setting.threads)
    feed = FileFeed(given.setting, given.parts)

    def objective(trial: optuna.Trial) -> float:
        given.incumbents.count_trial()
        training = Training(given.setting, recipe_of(trial, given.setting), feed, given.classes, given.seed)
        best = 0.0
        for epoch in range(given.setting.epochs):
            score = training.run_epoch()
            given.incumbents.offer(score, training.save, f"{training.recipe.backbone} {training.recipe.strategy}")
            best = max(best, score)
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    sampler = optuna.samplers.TPESampler(seed=given.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner())
    study.optimize(objective, timeout=given.seconds - given.incumbents.elapsed_s)


def ray_asha(given: Assignment) -> None:
    """Ray Tune: OptunaSearch and ASHA with their defaults, a core per trial as Ray gives it."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, Any]) -> None:
        from searches.feeds import FileFeed
        from searches.training import Training

        given.incumbents.count_trial()
        setting = given.setting
        recipe = recipe_of(Suggestions(config), setting)
        training = Training(setting, recipe, FileFeed(setting, given.parts), given.classes, given.seed)
        for _ in range(given.setting.epochs):
            score = training.run_epoch()
            given.incumbents.offer(score, training.save, f"{training.recipe.backbone} {training.recipe.strategy}")
            tune.report({"accuracy": score})

    ray.init(num_cpus=given.setting.threads, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(partial(_suggest, given.setting), metric="accuracy", mode="max", seed=given.seed),
            scheduler=ASHAScheduler(max_t=given.setting.epochs),
            num_samples=-1,
            time_budget_s=given.seconds - given.incumbents.elapsed_s,
        ),
        run_config=tune.RunConfig(storage_path=str(given.incumbents.folder.parent / "ray"), verbose=0),
    )
    tuner.fit()


def _suggest(setting: Setting, trial: Suggest) -> None:
    """Ray takes the values from the trial; a function of its own would not survive being pickled."""
    recipe_of(trial, setting)
