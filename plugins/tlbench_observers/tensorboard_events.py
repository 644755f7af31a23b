"""TensorBoard: a folder of events per trial in `observers/tensorboard`, with curve, scores and recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlbench.hookspecs import hookimpl
from tlbench_observers import record

if TYPE_CHECKING:
    from tlbench.measurement import Measurement


@hookimpl
def start_observing(folder: Path) -> None:
    """Import what writes, and make sure of the folder."""
    from torch.utils import tensorboard  # noqa: F401

    record.own_folder(folder, "tensorboard")


@hookimpl
def trial_finished(measurement: Measurement, folder: Path) -> None:
    """Write a trial's events anew: `tensorboard --logdir` shows them under its cell, stage and key."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    from tlbench.files import discard

    path = _path(measurement, record.own_folder(folder, "tensorboard"))
    discard(path)  # of the same trial, run before
    start_s, end_s = record.started(measurement).timestamp(), record.ended(measurement).timestamp()
    facts, numbers = record.facts(measurement), record.numbers(measurement)
    recipe = {name: "none" if value is None else value for name, value in record.recipe(measurement).items()}
    with SummaryWriter(str(path)) as writer:
        # `add_hparams` would write into a folder of its own, and the numbers into another.
        for summary in hparams({**recipe, **facts}, dict.fromkeys(numbers, 0)):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for epoch, elapsed_s, values in record.curve(measurement):
            for name, value in values.items():
                writer.add_scalar(f"epoch/{name}", value, epoch, start_s + elapsed_s)
        for name, value in numbers.items():
            writer.add_scalar(name, value, 0, end_s)
        writer.add_text("trial", "\n".join(f"- {name}: {value}" for name, value in facts.items()), 0, end_s)


def _path(measurement: Measurement, root: Path) -> Path:
    """The folder of a trial: data set, backbone, strategy, and what it is. A name may be a path of the user's."""
    trial = measurement.trial
    names = (reference.name.replace("/", "_")[:200] for reference in (trial.dataset, trial.backbone, trial.strategy))
    return root.joinpath(*names, f"{trial.stage}-{measurement.key}")
