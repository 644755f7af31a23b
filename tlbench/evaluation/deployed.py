"""The deployed model: a classifier as it would serve, in one of the ways it can be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from tlbench.catalog import Catalog, Entry
from tlbench.components import Backbone, Preprocess
from tlbench.errors import SpeedError, TlbenchError, WeightsError
from tlbench.evaluation.device import Compute, set_tf32, tf32_allowed, tf32_kept
from tlbench.evaluation.graphs import ONNX, lacking, open_onnx, write_graphs
from tlbench.evaluation.heads import UNPOOLED, LinearHead
from tlbench.evaluation.hub import one_line
from tlbench.evaluation.machine import machine, quota, version
from tlbench.evaluation.model import Classifier, Shape, build, example, move
from tlbench.evaluation.saved import declaration, description, load_model, read_recipe
from tlbench.evaluation.shipped import SavedModel
from tlbench.evaluation.variant import Source, Variant
from tlbench.plugins import Plugins
from tlbench.spaces import resolve
from tlbench.speed import Setting, Subject
from tlbench.trial import Reference, Trial

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft", "onnxruntime")
"""What a model may be made of and run by: their versions are part of a cost key."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Deployed:
    """A classifier in eval mode on the CPU, with the preprocessing that belongs to it."""

    model: nn.Module
    preprocess: Preprocess
    modality: str
    subject: Subject
    random: bool
    """Whether the weights are fresh ones: no figure depends on them."""

    @property
    def example(self) -> Any:
        """Inputs of one sample of the usual shape, on the CPU."""
        return self.preprocess.batch([self.preprocess.example()], {}, False, torch.Generator(), torch.device("cpu"))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A model that can be loaded."""

    backbone: Backbone
    load: Callable[[], Deployed]


def find(source: Source, plugins: Plugins) -> Found:
    """The model a source stands for, not yet loaded. Raises `TlbenchError` for a name or file that is not there."""
    if source.saved is not None:
        return _saved(Path(source.saved), plugins)
    catalog = Catalog(plugins, saved=[declaration(one) for one in source.declared])
    entry = catalog.backbone(source.backbone)
    return Found(backbone=entry.component, load=lambda: _fresh(source, entry, catalog))


def _saved(path: Path, plugins: Plugins) -> Found:
    _, trial, origins = read_recipe(path)
    backbone: Backbone = Catalog(plugins, saved=origins).backbone(trial.backbone.name).component

    def load() -> Deployed:
        model = load_model(path).model
        return _deployed(model, backbone, trial.backbone, trial.declared, trial.params["pool"], random=False)

    return Found(backbone=backbone, load=load)


def _fresh(source: Source, entry: Entry, catalog: Catalog) -> Deployed:
    """A backbone with a fresh head: with random weights where pretrained ones are not asked for, or not to be had."""
    backbone, params, random = entry.component, resolve(), not source.pretrained
    try:
        model = build(backbone, params, source.classes, source.pretrained, seed=0)
    except WeightsError:
        random, model = True, build(backbone, params, source.classes, False, seed=0)
    reference = Reference(name=entry.full_name, version=backbone.version)
    return _deployed(model, backbone, reference, declared_as(catalog, entry.full_name), params["pool"], random)


def declared_as(catalog: Catalog, name: str) -> tuple[Mapping[str, Any], ...]:
    """Base and options of a backbone that is declared, and of its bases, as a trial tells them."""
    return tuple({"base": one.base, "options": dict(one.options)} for one in catalog.lineage(name))


def subject_of(trial: Trial, head: Mapping[str, Any], backbone: Backbone) -> Subject:
    """What a trial deploys, without building it."""
    return _subject(trial.backbone, trial.declared, backbone, trial.params["pool"], head)


def fresh_subject(entry: Entry, catalog: Catalog, shape: Shape, classes: int) -> Subject:
    """A backbone with a fresh linear head, without building it."""
    reference = Reference(name=entry.full_name, version=entry.component.version)
    head = {"kind": LinearHead.kind, "width": shape.width, "classes": classes}
    return _subject(reference, declared_as(catalog, entry.full_name), entry.component, resolve()["pool"], head)


def _deployed(
    model: nn.Module,
    backbone: Backbone,
    reference: Reference,
    declared: tuple[Mapping[str, Any], ...],
    pool: str,
    random: bool,
) -> Deployed:
    subject = _subject(reference, declared, backbone, pool, head_identity(model))
    return Deployed(
        model=model.eval(),
        preprocess=backbone.preprocess,
        modality=backbone.modality,
        subject=subject,
        random=random,
    )


def _subject(
    reference: Reference,
    declared: tuple[Mapping[str, Any], ...],
    backbone: Backbone,
    pool: str,
    head: Mapping[str, Any],
) -> Subject:
    inputs = example(backbone)
    named = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    return Subject(
        backbone=reference,
        declared=declared,
        preprocess=backbone.preprocess.identity,
        pool=pool,
        head=head,
        inputs={name: list(tensor.shape[1:]) for name, tensor in named.items()},
    )


def head_identity(model: nn.Module) -> Mapping[str, Any]:
    """What a head's speed depends on: its description, or its class and size where a plugin made it."""
    known = description(model)
    if known is not None:
        return known
    head = getattr(model, "head", model)
    return {"kind": type(head).__qualname__, "elements": sum(tensor.numel() for tensor in head.state_dict().values())}


Run = Callable[[Any], object]
"""From inputs, as `Running.inputs` makes them, to logits."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Running:
    """A deployed model ready to run in one way."""

    deployed: Deployed
    variant: Variant
    compute: Compute
    run: Run
    setting: Setting
    placed_bytes: int
    """What the model takes of a GPU's memory before it has run."""

    def answer(self, inputs: Any) -> None:
        """Compute the logits; on a GPU they may not be there yet."""
        with torch.inference_mode():
            self.run(inputs)

    def inputs(self, batch: int) -> Any:
        """Inputs of `batch` samples of the usual shape, on the device, in the variant's number format and layout."""
        return self.converted([self.deployed.preprocess.example()] * batch)

    def converted(self, arrays: Sequence[np.ndarray]) -> Any:
        """Prepared arrays as inputs."""
        device = self.compute.device
        inputs = self.deployed.preprocess.batch(arrays, {}, False, torch.Generator(), device)
        inputs = move(inputs, device)
        if not isinstance(inputs, Tensor):
            return inputs
        inputs = inputs.to(torch_dtype(self.variant)) if inputs.is_floating_point() else inputs
        if self.variant.layout == "channels_last" and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs


def start(deployed: Deployed, variant: Variant, compute: Compute) -> Running:
    """Put the model on the device as the variant says, and let this process compute so from now on.

    Raises `SpeedError` for what cannot be had here.
    """
    if variant.layout == "channels_last" and all(len(shape) != 3 for shape in deployed.subject.inputs.values()):
        raise SpeedError("channels last is a layout of maps, and its inputs are none")
    use(variant, compute)
    before = compute.allocated_bytes()
    run = _onnx(deployed, variant, compute) if variant.runtime == "onnxruntime" else _torch(deployed, variant, compute)
    return Running(
        deployed=deployed,
        variant=variant,
        compute=compute,
        run=run,
        setting=setting(variant, compute),
        placed_bytes=compute.allocated_bytes() - before,
    )


def use(variant: Variant, compute: Compute) -> None:
    """Let a GPU compute float32 as the variant says from now on, with TF32 or without."""
    if compute.device.type == "cuda":
        set_tf32(variant.dtype == "tf32")


def expected(variant: Variant, compute: Compute) -> Setting:
    """The setting in which `start` would run a model; leaves the process as it is."""
    with tf32_kept(compute):
        use(variant, compute)
        return setting(variant, compute)


def setting(variant: Variant, compute: Compute) -> Setting:
    """Machine and way of running, as observed."""
    known, gpu = machine(), compute.device.type == "cuda"
    found: dict[str, Any] = {**{name: known[name] for name in ("processor", "cores")}, "quota_cores": quota()}
    if gpu:
        found |= {"gpu": torch.cuda.get_device_name(compute.device), "cuda": torch.version.cuda}
    return Setting(
        machine=found,
        device=compute.device.type,
        dtype=_observed(variant, gpu),
        layout=variant.layout,
        compile=variant.compile,
        runtime=f"{variant.runtime} {version(variant.runtime)}",
        threads=torch.get_num_threads(),
    )


def libraries() -> dict[str, str | None]:
    """Versions of what models are made of."""
    return {name: version(name) for name in LIBRARIES}


def _observed(variant: Variant, gpu: bool) -> str:
    """The number format that is computed in: what torch calls float32 may be TF32 on a GPU (pitfall 12)."""
    if torch_dtype(variant) != torch.float32:
        return variant.dtype
    return "tf32" if gpu and any(tf32_allowed()) else "float32"


def torch_dtype(variant: Variant) -> torch.dtype:
    """The type of the tensors; TF32 is a way to multiply float32."""
    found: torch.dtype = getattr(torch, "float32" if variant.dtype == "tf32" else variant.dtype)
    return found


def _torch(deployed: Deployed, variant: Variant, compute: Compute) -> Run:
    plain = variant == Variant() and compute.device.type == "cpu"
    model = deployed.model if plain else deepcopy(deployed.model).to(compute.device)
    if torch_dtype(variant) != torch.float32:
        model = _cast(model, torch_dtype(variant))
    if variant.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    run: Run = model
    if variant.compile != "none":
        run = torch.compile(model, mode=None if variant.compile == "default" else variant.compile)
    return run


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The backbone in another number format; the head stays, as `Classifier` computes it in float32."""
    if not isinstance(model, Classifier):
        raise SpeedError("a model that a strategy made by itself is measured in float32 alone")
    model.backbone.to(dtype)
    if isinstance(model.head, UNPOOLED):
        model.head.to(dtype)
    return model


def _onnx(deployed: Deployed, variant: Variant, compute: Compute) -> Run:
    if replace(variant, runtime="torch") != Variant() or compute.device.type != "cpu":
        raise SpeedError("ONNX Runtime is measured in float32, contiguous, not compiled, on the CPU")
    missing = lacking(ONNX)
    if missing:
        raise SpeedError(f"ONNX Runtime needs {', '.join(missing)}: pip install 'tlbench[onnx]'")
    saved = SavedModel(deployed.model, deployed.preprocess, deployed.modality, {"class_names": ()})
    with TemporaryDirectory() as folder:
        (graph,) = write_graphs(saved, Path(folder), [ONNX])
        if graph.problem:
            raise SpeedError(f"no ONNX graph of '{deployed.subject.backbone.name}': {graph.problem}")
        return open_onnx(Path(folder) / ONNX, compute.threads)


def failure_of(error: Exception) -> str:
    """Why a variant did not run, on one line."""
    return str(error) if isinstance(error, TlbenchError) else one_line(error)
