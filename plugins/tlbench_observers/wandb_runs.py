"""Weights & Biases: a run per trial in `observers/wandb`, offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.hookspecs import hookimpl
from tlbench_observers import record

if TYPE_CHECKING:
    from tlbench.measurement import Measurement


@hookimpl
def start_observing(folder: Path) -> None:
    """Import the client, log in where runs are to leave this machine, and make sure of the folder."""
    import wandb

    if _mode() == "online":
        wandb.login()  # before anything is trained: it may ask for a key, or refuse
    record.own_folder(folder, "wandb")


@hookimpl
def trial_finished(measurement: Measurement, folder: Path) -> None:
    """Write a run; offline ones wait for `wandb sync`."""
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",  # what is printed meanwhile is of other trials
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
    )
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or folder.absolute().name,
        mode=_mode(),
        dir=record.own_folder(folder, "wandb").parent,  # the client appends its own name
        name=record.cell(measurement),
        group=record.cell(measurement),
        job_type=measurement.trial.stage,
        tags=[measurement.status],
        config={**record.recipe(measurement), "trial": record.facts(measurement)},
        reinit="create_new",
        settings=settings,
    )
    for epoch, elapsed_s, values in record.curve(measurement):
        run.log({"epoch": epoch, "elapsed_s": elapsed_s, **values})
    run.summary.update({**record.numbers(measurement), "status": measurement.status})
    run.finish(exit_code=int(measurement.status == "failed"))


def _mode() -> Any:
    return os.environ.get("WANDB_MODE") or "offline"
