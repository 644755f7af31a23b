"""The template: what a benchmark file derives a backbone from that is a checkpoint folder of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

from tlbench.components import TEXT, Backbone, Preprocess
from tlbench.errors import BenchmarkError
from tlbench_transformers.backbone import TransformersBackbone, checkpoint_folder

if TYPE_CHECKING:
    from torch import nn


@final
class CheckpointTemplate(Backbone):
    """No backbone itself: ``[[backbone]]`` with this base and a folder as `weights` makes one, of text or images."""

    name = "checkpoint"
    summary = "a checkpoint folder of your own (needs weights: [[backbone]] with base and weights)"
    modality = TEXT

    @property
    def preprocess(self) -> Preprocess:
        """Nothing to preprocess for."""
        self._refuse()

    def weights(self) -> str:
        """No weights."""
        self._refuse()

    def load(self, pretrained: bool) -> nn.Module:
        """No model."""
        self._refuse()

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """No layers."""
        self._refuse()

    def recognises(self, path: Path) -> bool:
        """Whether the folder has a config.json."""
        return (path / "config.json").is_file()

    def derive(
        self, *, name: str, weights: Path | None, options: Mapping[str, Any], preprocess: Mapping[str, Any]
    ) -> Backbone:
        """Take the folder at `weights`; options and preprocessing as of any other backbone of this plugin."""
        if weights is None:
            raise BenchmarkError(f"backbone '{name}': needed is a checkpoint folder, such as: weights = \"my-model\"")
        folder = checkpoint_folder(name, weights)
        found = TransformersBackbone(weights.name, folder=folder)
        return found.derive(name=name, weights=None, options=options, preprocess=preprocess)

    def _refuse(self) -> NoReturn:
        raise BenchmarkError(
            "backbone 'transformers/checkpoint' needs a folder: declare one in the benchmark file, [[backbone]] with"
            ' name = "mine/model", base = "transformers/checkpoint", weights = "folder"'
        )
