"""Predicting: the command that says what a fitted model makes of the user's files."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, final

import click

from tlbench.commands.models import find_model
from tlbench.components import IMAGE, TEXT
from tlbench.errors import DataError, StoreError

if TYPE_CHECKING:
    import numpy as np

    from tlbench.evaluation.shipped import SavedModel

    Prediction = tuple[str, np.ndarray]
    """Name and class probabilities of a sample."""

MOST_COLUMNS = 8
"""Classes that a table has a column for; of more it shows the most probable."""

MOST_SHOWN = 3
MOST_NAMED = 20
"""Skipped samples that are named; the others are counted."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[INPUT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--text", multiple=True, help="A text to predict; may be given several times.")
@click.option("--column", help="The table's column of texts; found by name and content where it is not given.")
@click.option("--format", "format_", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
def predict(
    model: Path, inputs: tuple[Path, ...], text: tuple[str, ...], column: str | None, format_: str, output: Path | None
) -> None:
    """Predict images or texts with a fitted model.

    MODEL is a models/<key>.safetensors of a run's folder, or such a folder (its answer), or what 'tlbench export'
    wrote. INPUT is an image, a folder with images in it, a table of texts, a .txt file with a text on each line, or -,
    which is lines on the standard input.

    Samples that cannot be used are named and left out. A table shows the most probable classes where there are many;
    csv and json have the probability of each.
    """
    from tlbench.evaluation.saved import load_model

    shipped = load_model(find_model(model))
    named = _samples(shipped.modality, inputs, text, column)
    label = "path" if shipped.modality == IMAGE else "row"
    layout = _Layout(label=label, names=[name for name, _ in named], class_names=shipped.class_names)
    skipped = _Skipped()
    with warnings.catch_warnings(), _opened(output) as stream:
        warnings.simplefilter("ignore")  # Pillow's, of metadata and of large images
        predictions = _predicted(shipped, named, skipped)
        first = next(predictions, None)
        if first is None:
            raise DataError(f"none of {len(named)} samples could be predicted")
        stream.writelines(_FORMATS[format_](layout, chain([first], predictions)))
    skipped.sum_up(len(named))


def _samples(modality: str, inputs: Sequence[Path], texts: Sequence[str], column: str | None) -> list[tuple[str, str]]:
    from tlbench.samples.inputs import STANDARD_INPUT, image_samples, text_samples

    if modality == IMAGE:
        if texts or column is not None:
            raise DataError("the model takes images: --text and --column are for models that take texts")
        return image_samples(inputs)
    if modality != TEXT:
        raise DataError(f"the model takes samples of modality '{modality}': images and texts are what can be read here")
    if not inputs and not texts:
        if sys.stdin.isatty():
            raise DataError("nothing to predict: give a table, --text TEXT, or texts on the standard input, one a line")
        inputs = [STANDARD_INPUT]
    return text_samples(inputs, column, texts, sys.stdin.buffer)


def _predicted(model: SavedModel, named: Sequence[tuple[str, str]], skipped: _Skipped) -> Iterator[Prediction]:
    """Name and class probabilities of every sample that can be used."""
    from tlbench.evaluation.shipped import probabilities

    used = [(name, sample) for name, sample in named if sample.strip()]
    for name in [name for name, sample in named if not sample.strip()]:
        skipped.add(f"{name}: the text is empty")
    outcomes = model.outcomes(sample for _, sample in used)
    for (name, _), outcome in zip(used, outcomes, strict=True):
        if isinstance(outcome, DataError):
            skipped.add(str(outcome))
        else:
            yield name, probabilities(outcome)


@final
class _Skipped:
    """Samples that cannot be used: the first are named on stderr, all counted."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, reason: str) -> None:
        self.count += 1
        if self.count <= MOST_NAMED:
            click.echo(f"tlbench: skipped: {' '.join(reason.split())}", err=True)

    def sum_up(self, total: int) -> None:
        if self.count:
            click.echo(f"tlbench: {self.count} of {total} samples skipped", err=True)


@final
@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What the formats have to know beforehand."""

    label: str
    """Of the names: `path` or `row`."""

    names: Sequence[str]
    class_names: Sequence[str]


def _csv(layout: _Layout, predictions: Iterable[Prediction]) -> Iterator[str]:
    yield _csv_line([layout.label, "predicted", *(f"probability_{name}" for name in layout.class_names)])
    for name, values in predictions:
        yield _csv_line([name, _class(layout, values), *map(str, values)])


def _csv_line(values: Sequence[str]) -> str:
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _json(layout: _Layout, predictions: Iterable[Prediction]) -> Iterator[str]:
    before = "[\n"
    for name, values in predictions:
        chances = {each: float(str(value)) for each, value in zip(layout.class_names, values, strict=True)}
        record = {layout.label: name, "predicted": _class(layout, values), "probabilities": chances}
        yield before + json.dumps(record, ensure_ascii=False)
        before = ",\n"
    yield "\n]\n"


def _table(layout: _Layout, predictions: Iterable[Prediction]) -> Iterator[str]:
    name_width = max(len(layout.label), *map(len, layout.names))
    class_width = max(len("predicted"), *map(len, layout.class_names))
    cells = _columns if len(layout.class_names) <= MOST_COLUMNS else _most_probable
    heading = [f"{name:>6}" for name in layout.class_names] if cells is _columns else ["most probable"]
    yield "  ".join([layout.label.ljust(name_width), "predicted".ljust(class_width), *heading]) + "\n"
    for name, values in predictions:
        line = [name.ljust(name_width), _class(layout, values).ljust(class_width), *cells(layout, values)]
        yield "  ".join(line) + "\n"


def _columns(layout: _Layout, values: np.ndarray) -> list[str]:
    pairs = zip(layout.class_names, values, strict=True)
    return [f"{value:.4f}".rjust(max(6, len(name))) for name, value in pairs]


def _most_probable(layout: _Layout, values: np.ndarray) -> list[str]:
    most = (-values).argsort(kind="stable")[:MOST_SHOWN]
    return [", ".join(f"{layout.class_names[index]} {values[index]:.4f}" for index in most)]


def _class(layout: _Layout, values: np.ndarray) -> str:
    return layout.class_names[int(values.argmax(axis=0))]


_FORMATS: Mapping[str, Callable[[_Layout, Iterable[Prediction]], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
}


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """The stream to write to. A file gets its name when all is written."""
    if output is None:
        yield sys.stdout
        return
    from tlbench import files

    part = files.part_of(output.parent)
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        part.replace(output)
    except OSError as error:
        raise StoreError(f"cannot write '{output}': {error.strerror or error}") from error
    finally:
        files.discard(part)
