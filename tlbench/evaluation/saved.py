"""Saved models: a recipe and a safetensors file, and the way back to a callable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from tlbench import files
from tlbench.benchmark import BackboneDeclaration
from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.errors import StoreError
from tlbench.evaluation.adapters import Adapter, restore
from tlbench.evaluation.heads import restored
from tlbench.evaluation.model import Classifier, build, seeded
from tlbench.evaluation.pool import Pool
from tlbench.evaluation.shipped import SavedModel
from tlbench.plugins import discover
from tlbench.spaces import resolve
from tlbench.store import Store
from tlbench.strategies import TrainedStrategy
from tlbench.trial import Trial, canonical_json


def save(
    store: Store,
    trial: Trial,
    model: nn.Module,
    class_names: Sequence[str],
    origins: Sequence[BackboneDeclaration],
    adapter: Adapter | None = None,
) -> None:
    """Store a deployed model under the trial's key: all of it, or the adapter alone where there is one."""
    recipe = {
        "trial": asdict(trial),
        "class_names": list(class_names),
        "head": description(model),
        "adapter": None if adapter is None else {"weights": trial.weights, "left_out": adapter.left_out},
        "declared": [_saved(declaration, whole=adapter is None) for declaration in origins],
    }
    content = to_bytes(whole_tensors(model) if adapter is None else _contiguous(adapter.tensors))
    store.save_model(trial.key, lambda path: files.write(path, content), recipe)


def whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state as safetensors takes it: on the CPU, and no two names for one memory."""
    return _contiguous(model.state_dict())


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def load_model(path: str | Path) -> SavedModel:
    """The model at `path`, a `models/<key>.safetensors` of a results folder or an exported folder, on the CPU.

    An adapter is put onto the pretrained weights it was fitted on and merged. Raises `StoreError` where the file or its
    recipe is missing, damaged or does not fit, `WeightsError` where pretrained weights are needed and out of reach.
    """
    file = tensors_file(Path(path))
    recipe, trial, origins = read_recipe(Path(path))
    catalog = Catalog(discover(), saved=origins)
    backbone = catalog.backbone(trial.backbone.name).component
    if canonical_json(backbone.preprocess.identity) != canonical_json(trial.preprocess):
        raise StoreError(
            f"{file} was fitted with another preprocessing than '{trial.backbone.name}' has now: its plugin has changed"
        )
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise StoreError(f"{file} does not fit its recipe: {error}") from error
    if recipe.get("adapter"):
        model = _merged(file, recipe, trial, catalog, tensors)
    else:
        model = _whole(file, recipe, trial, backbone, tensors)
    return SavedModel(model.eval(), backbone.preprocess, backbone.modality, recipe)


def tensors_file(path: Path) -> Path:
    """The file of tensors that `path` stands for: itself, or that of an exported folder."""
    return path / "model.safetensors" if path.is_dir() else path


def recipe_file(file: Path) -> Path:
    """Where the recipe of a file of tensors is."""
    return file.with_name("recipe.json") if file.name == "model.safetensors" else file.with_suffix(".recipe.json")


def _whole(
    file: Path, recipe: Mapping[str, Any], trial: Trial, backbone: Backbone, tensors: Mapping[str, Tensor]
) -> nn.Module:
    pool = Pool(trial.params["pool"], backbone.layout, backbone.prefix_tokens)
    model = Classifier(backbone.load(pretrained=False), pool, _head(file, recipe))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise StoreError(f"{file} does not fit its recipe: {error}") from error
    return model


def _merged(
    file: Path, recipe: Mapping[str, Any], trial: Trial, catalog: Catalog, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """The pretrained model adapted as for training, with the tensors that training left, and deployed."""
    name, backbone = trial.backbone.name, catalog.backbone(trial.backbone.name).component
    strategy: TrainedStrategy = catalog.strategy(trial.strategy.name).component
    if strategy.version != trial.strategy.version:
        raise StoreError(
            f"{file} is an adapter of version {trial.strategy.version} of '{trial.strategy.name}', which has version "
            f"{strategy.version} now: export it with the tlbench that wrote it, or run the benchmark again"
        )
    weights = backbone.weights()
    if weights != recipe["adapter"]["weights"]:
        raise StoreError(
            f"{file} is an adapter for the weights {recipe['adapter']['weights']} of '{name}', and those here are "
            f"{weights}: bring back the former or run the benchmark again"
        )
    model = build(backbone, resolve(trial.params), len(recipe["class_names"]), strategy.pretrained, trial.seed)
    with seeded(trial.seed, "adapt"):
        strategy.adapt(model, trial.params)
    try:
        restore(model, Adapter(tensors=tensors, left_out=recipe["adapter"]["left_out"]))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{file} is an adapter that '{name}' as it is here does not fit: {error}") from error
    return strategy.deploy(model)


def read_recipe(path: Path) -> tuple[dict[str, Any], Trial, list[BackboneDeclaration]]:
    """The recipe of the model at `path`, its trial, and what declares the user's own backbones. Raises `StoreError`."""
    file = tensors_file(path)
    described = recipe_file(file)
    if not file.is_file() or not described.is_file():
        needed = "a .safetensors file with its .recipe.json beside it, or a folder that 'tlbench export' wrote"
        raise StoreError(f"no saved model at {path}: needed is {needed}")
    try:
        recipe = json.loads(described.read_text())
        declared = [declaration(each, file.parent) for each in recipe["declared"]]
        trial, origins = Trial.from_json(recipe["trial"]), declared
        recipe["class_names"] = list(recipe["class_names"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{described} is damaged ({type(error).__name__}: {error}): run the benchmark again"
        ) from error
    return recipe, trial, origins


def _saved(declaration: BackboneDeclaration, whole: bool) -> dict[str, Any]:
    """A declaration for the recipe.

    A file of weights is left out beside a `whole` model, which has them all; a folder says what the architecture is.
    """
    weights = declaration.weights
    needed = weights is not None and (weights.is_dir() or not whole)
    return declaration_json(declaration if needed else replace(declaration, weights=None))


def declaration_json(declaration: BackboneDeclaration) -> dict[str, Any]:
    """JSON of a declaration, for `declaration` in whatever working directory."""
    weights = declaration.weights
    return {**asdict(declaration), "weights": None if weights is None else str(weights.absolute())}


def description(model: nn.Module) -> dict[str, Any] | None:
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


def declaration(saved: Mapping[str, Any], folder: Path = Path()) -> BackboneDeclaration:
    """The declaration whose JSON this is; an exported `folder` holds what its recipe names relative to it."""
    return BackboneDeclaration(**{**saved, "weights": None if saved["weights"] is None else folder / saved["weights"]})
