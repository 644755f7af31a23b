"""The backbone: one checkpoint of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE, TEXT, Backbone, Facts, Preprocess
from tlbench.errors import BenchmarkError, TlbenchError
from tlbench_transformers.checkpoint import POOLING_FILE, Checkpoint
from tlbench_transformers.curated import curated

if TYPE_CHECKING:
    from torch import nn

    from tlbench_transformers.architecture import Architecture
    from tlbench_transformers.geometry import Geometry

_TWIN_SEED = 0


@final
class TransformersBackbone(Backbone):
    """A text or vision model without its head, with the tokenizer or image processor that belongs to it.

    Its module is a `module.TextModel` or `module.ImageModel`. With `pretrained = false` among the options of a
    benchmark file it is a twin: the same architecture and preprocessing, but weights that a fixed seed draws stand for
    the pretrained ones. What pretraining brings is what a backbone has over its twin.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str | None = None,
        folder: Path | None = None,
        options: Mapping[str, Any] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        pretrained: bool = True,
    ) -> None:
        """Take a listed name, a hub id or a `folder`; the rest is what a benchmark file declares under a `name`."""
        entry = None if folder is not None else curated().get(source)
        self.name = name or source
        self.default = name is None and entry is not None and entry.default
        self._source, self._folder, self._entry, self._pretrained = source, folder, entry, pretrained
        self._options, self._declared = dict(options or {}), dict(preprocess or {})
        self.found_in = None if folder is None else ("checkpoint", folder)
        self.summary = self._summary(name is not None)

    @cached_property
    def modality(self) -> str:  # type: ignore[override]
        """`text` or `image`, as the list or the configuration says."""
        return self._entry.modality if self._entry is not None else self._architecture.modality

    @property
    def described_in(self) -> tuple[str, Path] | None:
        """The checkpoint's folder, the hub's in its cache included."""
        return ("checkpoint", self._checkpoint.described)

    @cached_property
    def facts(self) -> Facts:
        """What is published; of checkpoints that are not listed, and of changed ones, the architecture alone.

        Its kind is that of its like in the list; of others, a model that makes tokens is taken for a transformer.
        """
        if self._entry is None:
            like = (entry.facts.kind for entry in curated().values() if entry.facts.architecture == self._type)
            kind = next(like, None) or ("transformer" if self.layout == "NLC" else None)
            return Facts(architecture=self._type, kind=kind)
        facts = self._entry.facts
        if self._pretrained and not self._options:
            return facts
        parameters = None if self._options else facts.parameters
        return Facts(architecture=facts.architecture, kind=facts.kind, parameters=parameters)

    @cached_property
    def preprocess(self) -> Preprocess:
        """The tokenizer's or the image processor's work."""
        folder = self._checkpoint.described
        if self.modality == IMAGE:
            from tlbench_transformers.pixels import image_preprocess

            return image_preprocess(folder, self._what).overridden(self._declared)
        from tlbench_transformers.tokens import text_preprocess

        return text_preprocess(self._tokenizer, folder, self._architecture, self._declared, self._what)

    @property
    def layout(self) -> str:  # type: ignore[override]
        """Axes of the unpooled features."""
        return "NLC" if self.modality == TEXT else self._geometry.layout

    @property
    def prefix_tokens(self) -> int:  # type: ignore[override]
        """Class and register tokens before the patches; none before words, where the mask says what counts."""
        return 0 if self.modality == TEXT else self._geometry.prefix_tokens

    @cached_property
    def pools(self) -> tuple[str, ...]:  # type: ignore[override]
        """How the features may be pooled."""
        if self.modality == IMAGE:
            return self._geometry.pools
        from tlbench_transformers.pooling import pools

        return pools(self._architecture.is_decoder, self._has_first_token)

    @property
    def drop_path(self) -> bool:  # type: ignore[override]
        """Whether the configuration has a rate of stochastic depth."""
        return self._architecture.has_drop_path

    def weights(self) -> str:
        """Identify them by the hub's commit or a hash of the folder's files; a twin's by seed and architecture."""
        return self._checkpoint.identity if self._pretrained else f"random:{_TWIN_SEED} {self._checkpoint.architecture}"

    def random_weights(self) -> str:
        """Identify fresh weights by the architecture: a folder, and a repository, may come to hold another one."""
        return f"random {self._checkpoint.architecture}"

    def load(self, pretrained: bool, drop_path: float = 0.0) -> nn.Module:
        """Build the model; a twin's pretrained weights are drawn by a generator of their own."""
        import torch

        if not pretrained:
            return self._wrapped(self._architecture.fresh(drop_path))
        if self._pretrained:
            return self._wrapped(self._architecture.filled(self._checkpoint.filled, drop_path))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_TWIN_SEED)
            return self._wrapped(self._architecture.fresh(drop_path))

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """Group parameters into embeddings, each block and what follows the last."""
        from tlbench_transformers.layers import layers

        return layers(module.get_submodule("model"), "model.")

    def derive(
        self, *, name: str, weights: Path | None, options: Mapping[str, Any], preprocess: Mapping[str, Any]
    ) -> Backbone:
        """Take a checkpoint folder of the same architecture, values of the configuration, `pretrained`, preprocessing.

        What is not given stays as it is here, so that one declaration may build on another.
        """
        given = dict(options)
        pretrained = given.pop("pretrained", self._pretrained)
        if not isinstance(pretrained, bool):
            raise BenchmarkError(f"backbone '{name}': option pretrained = {pretrained!r}: needed is true or false")
        derived = TransformersBackbone(
            self._source,
            name=name,
            folder=self._folder if weights is None else checkpoint_folder(name, weights),
            options={**self._options, **given},
            preprocess={**self._declared, **preprocess},
            pretrained=pretrained,
        )
        self._check_derived(derived)
        return derived

    def _check_derived(self, derived: TransformersBackbone) -> None:
        """Refuse what cannot be built, preprocessed for, or is of another type than this one."""
        mine, theirs = self._type, derived._architecture.config.model_type
        if mine != theirs:
            raise BenchmarkError(
                f"{derived._what}: {derived._folder} holds a '{theirs}', but the base '{self.name}' is a '{mine}': take"
                " 'transformers/checkpoint' as base"
            )
        try:
            _ = derived._architecture.outline
            _ = derived.preprocess
        except TlbenchError as error:
            message = str(error)
            raise BenchmarkError(
                message if message.startswith(derived._what) else f"{derived._what}: {message}"
            ) from error

    @property
    def _type(self) -> str | None:
        """Of the architecture: transformers' `model_type`."""
        return self._architecture.config.model_type if self._entry is None else self._entry.facts.architecture

    @property
    def _what(self) -> str:
        return f"backbone '{self.name}'"

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        entry = self._entry
        if entry is None:
            return Checkpoint(self.name, None, (self._source,), self._folder)
        required = (POOLING_FILE,) if entry.facts.pretraining == "contrastive" else ()
        return Checkpoint(self.name, entry.modality, (entry.repository, self._source), required=required)

    @cached_property
    def _architecture(self) -> Architecture:
        from tlbench_transformers.architecture import Architecture

        return Architecture.of_folder(self._checkpoint.described, self._what, self._options)

    @cached_property
    def _tokenizer(self) -> Any:
        from tlbench_transformers.tokens import read_tokenizer

        return read_tokenizer(self._checkpoint.described, self._what)

    @cached_property
    def _has_first_token(self) -> bool:
        from tlbench_transformers.tokens import begins_with_special_token

        return begins_with_special_token(self._tokenizer)

    @cached_property
    def _geometry(self) -> Geometry:
        from tlbench.evaluation.images import ImagePreprocess
        from tlbench_transformers.geometry import observe

        assert isinstance(self.preprocess, ImagePreprocess)
        return observe(self._architecture.outline, self.preprocess.size)

    def _wrapped(self, model: nn.Module) -> nn.Module:
        from tlbench.evaluation.pool import Pool
        from tlbench_transformers.module import ImageModel, TextModel

        if self.modality == IMAGE:
            geometry = self._geometry
            return ImageModel(model, Pool(geometry.pooling, geometry.layout, geometry.prefix_tokens))
        from tlbench_transformers.pooling import native

        architecture = self._architecture
        folder = self._checkpoint.described
        return TextModel(model, native(folder, architecture.config, architecture.is_decoder, self._has_first_token))

    def _summary(self, declared: bool) -> str:
        if declared:
            twin = "" if self._pretrained else ", its weights random"
            return f"{self._source} as the benchmark file declares it{twin}"
        if self._folder is not None:
            return "a checkpoint folder"
        if self._entry is None:
            return "from the hub"
        facts = self._entry.facts
        data = f" on {facts.pretraining_data}" if facts.pretraining_data else ""
        return f"{self._entry.family}, {facts.pretraining}{data}"


def checkpoint_folder(name: str, path: Path) -> Path:
    """Check that a declaration's `weights` are a folder with a config.json. Raises `BenchmarkError`."""
    if not path.is_dir():
        raise BenchmarkError(f"backbone '{name}': weights {path}: needed is a checkpoint folder, with config.json")
    if not (path / "config.json").is_file():
        raise BenchmarkError(f"backbone '{name}': {path} has no config.json: needed is a checkpoint folder")
    return path
