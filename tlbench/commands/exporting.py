"""Exporting: the command that turns a fitted model into a folder that stands by itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlbench.commands.models import find_model
from tlbench.commands.output import INCOMPLETE

if TYPE_CHECKING:
    from tlbench.evaluation.graphs import Graph


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder to write: new, empty, or an earlier export of the model.",
)
@click.option(
    "--graphs",
    type=click.Choice(["all", "onnx", "pt2", "none"]),
    default="all",
    show_default=True,
    help="What to write besides the weights: model.onnx, and model.pt2, which torch.export.load reads.",
)
def export(model: Path, to: Path, graphs: str) -> None:
    """Export a fitted model: merged weights, ONNX, torch.export, preprocessing and a model card.

    MODEL is a models/<key>.safetensors of a run's folder, or such a folder (its answer). Each graph is compared
    with the model it was made from. Exit status 1: one could not be written.
    """
    from tlbench.evaluation import exporting
    from tlbench.evaluation.graphs import ONNX, PT2, lacking

    found = find_model(model)
    wanted = {"all": [ONNX, PT2], "onnx": [ONNX], "pt2": [PT2], "none": []}[graphs]
    missing = lacking(ONNX) if ONNX in wanted else []
    if missing:
        wanted.remove(ONNX)
        click.echo(
            f"tlbench: {ONNX} is left out: it needs {', '.join(missing)} (pip install 'tlbench[onnx]')", err=True
        )
    command = shlex.join(["tlbench", "export", str(model), "--to", str(to)])
    exported = exporting.export(found, to, wanted, command=command)
    for file in sorted(path for path in exported.folder.iterdir() if path.is_file()):
        click.echo(f"{file}  {_size(file)}{_compared(file.name, exported.graphs)}")
    failed = [graph for graph in exported.graphs if graph.problem is not None]
    for graph in failed:
        click.echo(f"tlbench: error: {graph.name} was not written: {graph.problem}", err=True)
    if failed:
        click.get_current_context().exit(INCOMPLETE)


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _compared(name: str, graphs: Sequence[Graph]) -> str:
    for graph in graphs:
        if graph.name == name:
            return f", logits within {graph.logits:.1e} of torch's, probabilities within {graph.probabilities:.1e}"
    return ""
