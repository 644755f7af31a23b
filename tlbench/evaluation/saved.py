"""Saved models: a recipe and a safetensors file, and the way back to a callable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from tlbench.benchmark import BackboneDeclaration
from tlbench.catalog import Catalog
from tlbench.components import IMAGE, TEXT, Preprocess
from tlbench.errors import DataError, StoreError
from tlbench.evaluation.heads import restored
from tlbench.evaluation.model import Classifier
from tlbench.evaluation.pool import Pool
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.trial import Trial, canonical_json


def save(
    store: Store, trial: Trial, model: nn.Module, class_names: Sequence[str], origins: Sequence[BackboneDeclaration]
) -> None:
    """Store a deployed model under the trial's key."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    recipe = {
        "trial": asdict(trial),
        "class_names": list(class_names),
        "head": _description(model),
        "declared": [{**asdict(declaration), "weights": _described(declaration.weights)} for declaration in origins],
    }

    def write(path: Path) -> None:
        path.write_bytes(to_bytes(tensors))

    store.save_model(trial.key, write, recipe)


@final
class SavedModel:
    """A fitted classifier that takes raw samples."""

    def __init__(self, model: nn.Module, preprocess: Preprocess, modality: str, recipe: Mapping[str, Any]) -> None:
        self.model, self.preprocess, self.modality, self.recipe = model, preprocess, modality, recipe
        self.class_names: tuple[str, ...] = tuple(recipe["class_names"])

    def __call__(self, samples: Sequence[Any]) -> np.ndarray:
        """Class probabilities float32 [n, classes] of raw samples, as the data set gives them.

        Images are uint8 RGB arrays [height, width, 3], texts `str`; `DataError` for others.
        """
        _check_raw(samples, self.modality)
        if not len(samples):
            return np.empty((0, len(self.class_names)), np.float32)
        arrays = [self.preprocess.prepare(sample) for sample in samples]
        with torch.inference_mode():
            inputs = self.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))
            probabilities: np.ndarray = self.model(inputs).softmax(dim=1).numpy()
        return probabilities


def load_model(path: str | Path) -> SavedModel:
    """The model at `path`, a `models/<key>.safetensors` of a results folder, on the CPU.

    Raises `StoreError` where the file or its recipe is missing, damaged or does not fit.
    """
    file = Path(path)
    recipe, trial, origins = _read_recipe(file)
    backbone = Catalog(discover(), saved=origins).backbone(trial.backbone.name).component
    if canonical_json(backbone.preprocess.identity) != canonical_json(trial.preprocess):
        raise StoreError(
            f"{file} was fitted with another preprocessing than '{trial.backbone.name}' has now: its plugin has changed"
        )
    pool = Pool(trial.params["pool"], backbone.layout, backbone.prefix_tokens)
    model = Classifier(backbone.load(pretrained=False), pool, _head(file, recipe))
    try:
        model.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        raise StoreError(f"{file} does not fit its recipe: {error}") from error
    return SavedModel(model.eval(), backbone.preprocess, backbone.modality, recipe)


def _check_raw(samples: Sequence[Any], modality: str) -> None:
    """Refuse what the preprocessing would misread: a single text is a sequence of texts of one letter each."""
    if isinstance(samples, str | bytes | Path):
        raise DataError(f"a sequence of samples is needed, not a single {type(samples).__name__}: put it in a list")
    for index, sample in enumerate(samples):
        if modality == TEXT and not isinstance(sample, str):
            raise DataError(f"sample {index}: a text (str) is needed, not {type(sample).__name__}")
        if modality == IMAGE and not _is_image(sample):
            what = f"{sample.dtype} {list(sample.shape)}" if isinstance(sample, np.ndarray) else type(sample).__name__
            raise DataError(f"sample {index}: an RGB image, uint8 [height, width, 3], is needed, not {what}")


def _is_image(sample: Any) -> bool:
    return isinstance(sample, np.ndarray) and sample.dtype == np.uint8 and sample.ndim == 3 and sample.shape[2] == 3


def _read_recipe(file: Path) -> tuple[dict[str, Any], Trial, list[BackboneDeclaration]]:
    """The recipe beside a file of tensors, its trial, and what declares the user's own backbones."""
    recipe_file = file.with_suffix(".recipe.json")
    if not file.is_file() or not recipe_file.is_file():
        raise StoreError(f"no saved model at {file}: a .safetensors file with its .recipe.json beside it is needed")
    try:
        recipe = json.loads(recipe_file.read_text())
        trial, origins = Trial.from_json(recipe["trial"]), [_declaration(each) for each in recipe["declared"]]
        recipe["class_names"] = list(recipe["class_names"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{recipe_file} is damaged ({type(error).__name__}: {error}): run the benchmark again"
        ) from error
    return recipe, trial, origins


def _described(weights: Path | None) -> str | None:
    """The folder that says what the architecture is; a file of weights says nothing that the saved ones do not."""
    return str(weights.absolute()) if weights is not None and weights.is_dir() else None


def _description(model: nn.Module) -> dict[str, Any] | None:
    """What rebuilds the head; None where a plugin made one of its own."""
    description: dict[str, Any] | None = getattr(getattr(model, "head", None), "description", None)
    return description


def _head(file: Path, recipe: Mapping[str, Any]) -> nn.Module:
    description = recipe.get("head")
    if description is None:
        raise StoreError(f"{file} has a head of its strategy's own making, which only that plugin can rebuild")
    if description.get("classes") != len(recipe["class_names"]):
        raise StoreError(
            f"{file} does not fit its recipe: a head for other than its {len(recipe['class_names'])} classes"
        )
    try:
        return restored(description)
    except (KeyError, TypeError, RuntimeError) as error:
        raise StoreError(f"{file} has a head that this version cannot rebuild: {description}") from error


def _declaration(saved: Mapping[str, Any]) -> BackboneDeclaration:
    return BackboneDeclaration(**{**saved, "weights": None if saved["weights"] is None else Path(saved["weights"])})
