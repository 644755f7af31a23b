"""Exporting: a fitted model as a folder that says everything about itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from safetensors.torch import save as to_bytes

from tlbench import files
from tlbench.benchmark import BackboneDeclaration
from tlbench.catalog import Catalog
from tlbench.components import TEXT, Backbone
from tlbench.errors import StoreError
from tlbench.evaluation.card import card
from tlbench.evaluation.graphs import LOGITS, ONNX, PIXELS, PT2, Graph, write_graphs
from tlbench.evaluation.saved import load_model, read_recipe, tensors_file, whole_tensors
from tlbench.evaluation.shipped import SavedModel
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Trial

TENSORS, RECIPE, PREPROCESSING, CARD = "model.safetensors", "recipe.json", "preprocessing.json", "README.md"
BACKBONE = "backbone"
"""Folder of what describes a backbone of the user's own: its configuration and tokenizer."""

_OURS = {TENSORS, RECIPE, PREPROCESSING, CARD, BACKBONE, ONNX, f"{ONNX}.data", PT2}
_WEIGHTS = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
    "*.index.json",
)


@final
@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    graphs: Sequence[Graph]


def export(path: Path, to: Path, graphs: Sequence[str], command: str) -> Exported:
    """Write the model at `path` to the folder `to`, whole or not at all, with `graphs` (`model.onnx`, `model.pt2`).

    A graph that cannot be written or disagrees with the model is reported and left out. `command` is how the user asked
    for it. Raises `StoreError` for a folder that holds anything but an export of the same model, and what `load_model`
    raises.
    """
    recipe, trial, origins = read_recipe(path)
    _check_free(to, trial)
    shipped, catalog = load_model(path), Catalog(discover(), saved=origins)
    backbone: Backbone = catalog.backbone(trial.backbone.name).component
    whole = {
        **recipe,
        "key": trial.key,
        "adapter": None,
        "facts": recipe.get("facts") or asdict(backbone.facts),
        "result": recipe.get("result") or _result(tensors_file(path), trial),
    }
    with _written(to) as folder:
        whole["declared"] = _described(_rooted(origins, trial, catalog), folder)
        files.write(folder / TENSORS, to_bytes(whole_tensors(shipped.model)))
        _write_json(folder / RECIPE, whole)
        _write_json(folder / PREPROCESSING, preprocessing(shipped))
        made = write_graphs(shipped, folder, graphs)
        text = card(shipped, whole, made, command, to.name)
        files.write(folder / CARD, text.encode())
    return Exported(folder=to, graphs=made)


def preprocessing(shipped: SavedModel) -> dict[str, Any]:
    """What happens to a sample before the model and to its logits after, for who uses it with another program."""
    example = shipped.preprocess.example()
    return {
        "modality": shipped.modality,
        "steps": list(shipped.preprocess.in_words),
        "identity": dict(shipped.preprocess.identity),
        "inputs": ["input_ids", "attention_mask"] if shipped.modality == TEXT else [PIXELS],
        "prepared_example": {"shape": list(example.shape), "dtype": str(example.dtype)},
        "output": f"{LOGITS}, float32 [batch, {len(shipped.class_names)}]: their softmax is the probabilities",
        "class_names": list(shipped.class_names),
    }


def _check_free(to: Path, trial: Trial) -> None:
    """Refuse to write where something else is."""
    if to.is_dir() and not any(to.iterdir()):
        return
    if not to.is_dir():
        if to.exists():
            raise StoreError(f"{to} is a file: a folder that is new or empty is needed")
        return
    try:
        same = read_recipe(to)[1].key == trial.key
    except StoreError:
        same = False
    others = sorted(path.name for path in to.iterdir() if path.name not in _OURS)
    if not same or others:
        what = f"'{others[0]}'" if others else "another model"
        raise StoreError(f"the folder {to} holds {what}: give one that is new, empty or an export of the same model")


@contextmanager
def _written(to: Path) -> Iterator[Path]:
    """A folder that gets the name `to` when all is in it."""
    part = files.part_of(to.parent)
    try:
        part.mkdir(parents=True)
        yield part
        files.sync(part)
        files.replace_folder(part, to)
    except OSError as error:
        raise StoreError(f"cannot write the folder '{to}': {error.strerror or error}") from error
    finally:
        files.discard(part)


def _rooted(origins: Sequence[BackboneDeclaration], trial: Trial, catalog: Catalog) -> Sequence[BackboneDeclaration]:
    """The declarations, and one more where what describes the architecture is in a cache of the plugin's."""
    if any(each.weights is not None and each.weights.is_dir() for each in origins):
        return origins
    root = catalog.backbone(origins[-1].base if origins else trial.backbone.name)
    if root.component.described_in is None:
        return origins
    base, folder = root.component.described_in
    return [*origins, BackboneDeclaration(name=root.full_name, base=f"{root.plugin}/{base}", weights=folder)]


def _described(origins: Sequence[BackboneDeclaration], folder: Path) -> list[dict[str, Any]]:
    """Declarations for a recipe in `folder`, to which what describes their architectures is copied, weights left out.

    A file of weights is not needed: the exported model has them.
    """
    declared, names = [], dict[Path, str]()
    for declaration in origins:
        weights = declaration.weights
        if weights is not None and weights.is_dir() and weights not in names:
            names[weights] = BACKBONE if not names else f"{BACKBONE}/base-{len(names)}"
            shutil.copytree(weights, folder / names[weights], ignore=shutil.ignore_patterns(".*", *_WEIGHTS))
        declared.append({**asdict(declaration), "weights": None if weights is None else names.get(weights)})
    return declared


def _result(file: Path, trial: Trial) -> dict[str, Any] | None:
    """Scores and versions, where the model is still in the folder of its run."""
    run = file.parent.parent
    if not (run / "measurements").is_dir():
        return None
    measurement: Measurement | None = Store(run).get(trial.key)
    if measurement is None:
        return None
    observed = measurement.provenance
    return {
        "scores": measurement.scores,
        "counts": measurement.counts,
        "libraries": observed.get("libraries", {}),
        "plugins": observed.get("plugins", {}),
        "ended_utc": observed.get("ended_utc"),
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    files.write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())
