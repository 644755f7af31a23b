"""The backbone: one timm architecture with one set of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE, Backbone, Facts
from tlbench.errors import BenchmarkError
from tlbench_timm import lineage
from tlbench_timm.curated import curated
from tlbench_timm.published import published_facts

if TYPE_CHECKING:
    from torch import nn

    from tlbench.evaluation.images import ImagePreprocess
    from tlbench_timm.geometry import Geometry
    from tlbench_timm.weights import Checkpoint

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_DECIDED = {
    "pretrained": "the strategy",
    "pretrained_cfg": "the base's tag",
    "pretrained_cfg_overlay": "the base's tag",
    "checkpoint_path": "'weights'",
    "num_classes": "the data set",
    "in_chans": "RGB input",
    "img_size": "'preprocess = { size = ... }'",
    "features_only": "the engine",
    "cache_dir": "HF_HOME",
}
"""Arguments of `timm.create_model` that are not the user's to give as options, and what decides them."""


@final
class TimmBackbone(Backbone):
    """A timm model without its classifier, with the weights and the preprocessing that belong to its tag."""

    modality = IMAGE

    def __init__(
        self,
        timm_name: str,
        *,
        name: str | None = None,
        file: Path | None = None,
        options: Mapping[str, Any] | None = None,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        """Take ``architecture.tag`` exactly; the rest is what a benchmark file declares under a `name` of its own."""
        entry = curated().get(timm_name)
        self.name = name or timm_name
        self.default = name is None and entry is not None and entry.default
        self._timm_name, self._file = timm_name, file
        self._options, self._declared = dict(options or {}), dict(preprocess or {})
        self.summary = _summary(timm_name, name, file)

    @cached_property
    def facts(self) -> Facts:
        """What is published; of weights of the user's own, what the architecture decides; of options, its kind."""
        facts = published_facts(self._timm_name) or _facts_from_timm(self._timm_name)
        if "size" in self._declared:  # what was measured at another size is not known at this one
            facts = replace(facts, macs=None, accuracy=None)
        if self._file is None and not self._options:
            return facts
        own = Facts(architecture=facts.architecture, kind=facts.kind)
        return own if self._options else replace(own, parameters=facts.parameters, macs=facts.macs)

    @cached_property
    def preprocess(self) -> ImagePreprocess:
        """What the weights were trained with: timm's configuration of the tag, at its training size."""
        from timm.data import resolve_data_config
        from timm.models import get_pretrained_cfg

        from tlbench.evaluation.images import ImagePreprocess

        published = get_pretrained_cfg(self._timm_name)
        config = resolve_data_config(pretrained_cfg=published.to_dict())
        return ImagePreprocess(
            size=tuple(config["input_size"][1:]),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            crop=config["crop_pct"],
            crop_mode=config["crop_mode"],
        ).overridden(self._declared)

    @property
    def layout(self) -> str:  # type: ignore[override]
        """Axes of the unpooled features."""
        return self._geometry.layout

    @property
    def prefix_tokens(self) -> int:  # type: ignore[override]
        """Class, distillation and register tokens before the patches."""
        return self._geometry.prefix_tokens

    @property
    def pools(self) -> tuple[str, ...]:  # type: ignore[override]
        """How the features may be pooled."""
        return self._geometry.pools

    @cached_property
    def drop_path(self) -> bool:  # type: ignore[override]
        """Whether the architecture has stochastic depth: seen by building it so on the meta device."""
        import torch

        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                module = self._build({}, drop_path=0.1)
        except TypeError:  # the builder knows no such argument
            return False
        return any(type(part).__name__.startswith("DropPath") for part in module.modules())

    def weights(self) -> str:
        """Identify the weights by the hub's commit, or by the hash of the file where they are not from the hub."""
        return self._checkpoint.identity

    def load(self, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        """Build the model, which keeps timm's attributes; its weights never come from code in the file."""
        build = partial(self._build, drop_path=drop_path)
        if not pretrained:
            return build({})
        from tlbench_timm.loading import load_into

        return load_into(build, self._checkpoint.path, self._architecture)

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """Group parameters as timm does for layer-wise learning rates; by children where a model has no grouping."""
        from timm.models import group_parameters

        matcher = getattr(module, "group_matcher", None)
        if matcher is not None:
            return [list(names) for names in group_parameters(module, matcher(coarse=False)).values()]
        groups: dict[str, list[str]] = {}
        for name, _ in module.named_parameters():
            groups.setdefault(name.partition(".")[0], []).append(name)
        return list(groups.values())

    def derive(
        self, *, name: str, weights: Path | None, options: Mapping[str, Any], preprocess: Mapping[str, Any]
    ) -> Backbone:
        """Take the user's own weights (safetensors or a torch file), options of `timm.create_model`, preprocessing.

        What is not given stays as it is here, so that one declaration may build on another. A size that differs from
        the architecture's own is told to the builder, where that needs it. The classifier in the file is left aside,
        however many classes it has.
        """
        _check_declaration(name, weights, options)
        derived = TimmBackbone(
            self._timm_name,
            name=name,
            file=weights or self._file,
            options={**self._options, **options},
            preprocess={**self._declared, **preprocess},
        )
        try:
            _ = derived.preprocess
        except BenchmarkError as error:
            raise BenchmarkError(f"backbone '{name}': {error}") from error
        try:
            _ = derived._geometry
        except Exception as error:  # whatever a builder raises, it is the declaration that it cannot follow
            given = f"options {dict(options)} and size {list(derived.preprocess.size)}"
            raise BenchmarkError(
                f"backbone '{name}': timm cannot build {self._architecture} with {given}: {error}"
            ) from error
        return derived

    @property
    def _architecture(self) -> str:
        return self._timm_name.partition(".")[0]

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        from tlbench_timm.weights import declared, published

        return published(self._timm_name) if self._file is None else declared(self._file)

    @cached_property
    def _geometry(self) -> Geometry:
        import torch

        from tlbench_timm.geometry import observe

        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return observe(self._build({}), self.preprocess.size)

    @property
    def _sized(self) -> Mapping[str, Any]:
        """The size to build for, where the architecture is built for one and it is not that of the weights.

        As an argument: overlaid on timm's configuration it would say that the file's position embeddings have it too.
        """
        from timm.models import get_pretrained_cfg

        published, size = get_pretrained_cfg(self._timm_name), self.preprocess.size
        differs = published.fixed_input_size and size != tuple(published.input_size[1:])
        return {"img_size": size} if differs else {}

    def _build(self, overlay: Mapping[str, Any], drop_path: float = 0.0) -> nn.Module:
        """Build the headless model; with a `file` in `overlay`, timm fills it from there."""
        import timm

        stochastic = {"drop_path_rate": drop_path} if drop_path else {}
        module: nn.Module = timm.create_model(
            self._timm_name,
            pretrained="file" in overlay,
            pretrained_cfg_overlay=dict(overlay),
            num_classes=0,
            **self._sized,
            **{**self._options, **stochastic},
        )
        return module


def _summary(timm_name: str, name: str | None, file: Path | None) -> str:
    if file is not None:
        return f"{timm_name.partition('.')[0]} with the weights of {file.name}"
    if name is not None:
        return f"{timm_name} as the benchmark file declares it"
    method, data = lineage.pretraining(timm_name)
    origin = f"{method} on {data}" if method and data else "from timm's list of models"
    entry = curated().get(timm_name)
    return origin if entry is None else f"{entry.family}, {origin}"


def _facts_from_timm(timm_name: str) -> Facts:
    from timm.models import get_pretrained_cfg, model_entrypoint

    architecture = timm_name.partition(".")[0]
    module = model_entrypoint(architecture).__module__.rpartition(".")[2]
    method, data = lineage.pretraining(timm_name)
    published = get_pretrained_cfg(timm_name)
    return Facts(
        architecture=architecture,
        kind=lineage.kind(architecture, module),
        pretraining=method,
        pretraining_data=data,
        licence=published.license if published is not None else None,
    )


def _check_declaration(name: str, weights: Path | None, options: Mapping[str, Any]) -> None:
    for option in options:
        if option in _DECIDED:
            raise BenchmarkError(f"backbone '{name}': option '{option}' is decided by {_DECIDED[option]}: leave it out")
    if weights is None:
        return
    if not weights.is_file():
        raise BenchmarkError(f"backbone '{name}': no weights file {weights}")
    if weights.suffix not in _SUFFIXES:
        raise BenchmarkError(f"backbone '{name}': weights {weights.name}: needed is a file {', '.join(_SUFFIXES)}")
