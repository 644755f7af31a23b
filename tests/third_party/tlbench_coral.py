"""A plugin as a third party writes it: five small MobileNets whose weights lie in a folder, not on a hub.

The folder is `weights` inside `$TLBENCH_REAL_DATA`. Its files are the quantised TensorFlow Lite models of
google-coral/test_data, dequantised to float16. Batch norm is folded into weight and bias, so fine-tuning has to keep
its statistics frozen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from tlbench.components import IMAGE, Backbone, Facts, Preprocess
from tlbench.errors import BenchmarkError, WeightsError
from tlbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import nn

SIZE = 128
"""Pixels along each edge of an input: one size for all, so that they differ in nothing but the network."""


@final
class CoralMobileNet(Backbone):
    """A MobileNet of the first or second generation, of a certain width."""

    modality = IMAGE

    def __init__(
        self,
        name: str,
        architecture: str,
        parameters: int,
        accuracy: float | None,
        pretraining_data: str = "ImageNet-1k",
    ) -> None:
        self.name = self._stem = name
        self.summary = f"MobileNet pretrained on {pretraining_data}, {parameters / 1e6:.1f} M parameters"
        self._preprocess: Mapping[str, Any] = {}
        self._facts = Facts(
            architecture=architecture,
            kind="convolutional",
            pretraining="supervised",
            pretraining_data=pretraining_data,
            parameters=parameters,
            accuracy=accuracy,
            licence="Apache-2.0",
        )

    @property
    def facts(self) -> Facts:
        """As the source of the files describes them."""
        return self._facts

    @property
    def preprocess(self) -> Preprocess:
        """Pixels scaled to [-1, 1], as the networks were trained."""
        from tlbench.evaluation.images import ImagePreprocess

        half = (0.5, 0.5, 0.5)
        usual = ImagePreprocess(size=(SIZE, SIZE), mean=half, std=half, interpolation="bilinear", crop=0.875)
        return usual.overridden(self._preprocess)

    def weights(self) -> str:
        """The hash of the file."""
        return f"sha256:{hashlib.sha256(self._file().read_bytes()).hexdigest()}"

    def load(self, pretrained: bool) -> nn.Module:
        """The network as timm builds it, without its classifier."""
        module = _BUILD[str(self._facts.architecture)]()
        if pretrained and not next(module.parameters()).is_meta:
            from safetensors.torch import load_file

            state = load_file(self._file())
            module.load_state_dict(
                {
                    name: tensor.float() if tensor.is_floating_point() else tensor
                    for name, tensor in state.items()
                    if not name.startswith("classifier.")
                }
            )
        return module

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """Stem, each block, and the last convolution with the last block, as timm groups them."""
        from timm.models import group_parameters

        matcher = cast(Any, module).group_matcher()
        return list(group_parameters(module, matcher).values())

    def derive(
        self, *, name: str, weights: Path | None, options: Mapping[str, Any], preprocess: Mapping[str, Any]
    ) -> Backbone:
        """The same network and weights with another preprocessing, such as a smaller size."""
        if weights is not None or options:
            raise BenchmarkError(f"backbone '{name}': its base '{self.name}' takes a preprocess alone")
        derived = copy(self)
        derived.name, derived._preprocess = name, {**self._preprocess, **preprocess}
        _ = derived.preprocess  # refuses what it cannot be
        return derived

    def _file(self) -> Path:
        root = os.environ.get("TLBENCH_REAL_DATA")
        if not root:
            raise WeightsError(
                f"the weights of '{self.name}' lie in the folder weights of $TLBENCH_REAL_DATA, which is not set: "
                "set it to the folder that holds them"
            )
        file = Path(root, "weights", f"{self._stem}.safetensors")
        if not file.is_file():
            raise WeightsError(f"no weights of '{self.name}' at {file}: put them there or set TLBENCH_REAL_DATA")
        return file


def _first_generation(width: float) -> nn.Module:
    from timm.models.efficientnet import _gen_mobilenet_v1

    module: nn.Module = _gen_mobilenet_v1("mobilenetv1_100", width, pad_type="same", num_classes=0)
    return module


def _second_generation() -> nn.Module:
    from timm import create_model

    module: nn.Module = create_model("mobilenetv2_100", pad_type="same", num_classes=0)
    return module


_BUILD: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv1_025": partial(_first_generation, 0.25),
    "mobilenetv1_050": partial(_first_generation, 0.5),
    "mobilenetv1_075": partial(_first_generation, 0.75),
    "mobilenetv2_100": _second_generation,
}


@hookimpl
def register_backbones() -> Iterable[Backbone]:
    """The four ImageNet models from the smallest to the largest, then the bird specialist.

    Accuracies are those of the weights before quantisation: the table in TensorFlow's slim/nets/mobilenet_v1.md, and
    Sandler et al. (2018), table 4.
    """
    return [
        CoralMobileNet("mobilenetv1_025_128", "mobilenetv1_025", 213_072, 0.415),
        CoralMobileNet("mobilenetv1_050_160", "mobilenetv1_050", 818_592, 0.591),
        CoralMobileNet("mobilenetv1_075_192", "mobilenetv1_075", 1_816_560, 0.672),
        CoralMobileNet("mobilenetv2_100_224", "mobilenetv2_100", 2_223_872, 0.720),
        CoralMobileNet("mobilenetv2_100_224_inatbird", "mobilenetv2_100", 2_223_872, None, "iNaturalist 2017 birds"),
    ]
