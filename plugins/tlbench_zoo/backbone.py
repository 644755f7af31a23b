"""The backbone: one miniature network with the weights that lie beside this module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from tlbench.components import IMAGE, Backbone, Facts
from tlbench.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

    from tlbench.evaluation.images import ImagePreprocess

WEIGHTS = Path(__file__).with_name("weights")
"""Where the weights lie: `<name>.safetensors`, float16, and their cards `<name>.md`."""

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Per channel, of pixels scaled to [0, 1]: what the networks were pretrained with."""


@final
@dataclass(frozen=True, kw_only=True)
class Miniature:
    """What is known of a network without building it."""

    name: str
    family: str
    kind: str
    parameters: int
    macs: int
    """Multiply-accumulates for one image of 32 pixels."""

    layout: str = "NCHW"
    prefix_tokens: int = 0
    pools: tuple[str, ...] = ("native", "avg", "max", "gem")


MINIATURES = (
    Miniature(name="resnet_mini", family="ResNet", kind="convolutional", parameters=627_072, macs=17_526_784),
    Miniature(name="vgg_mini", family="VGG", kind="convolutional", parameters=528_000, macs=20_348_928),
    Miniature(name="inception_mini", family="Inception v3", kind="convolutional", parameters=811_392, macs=41_795_584),
    Miniature(
        name="efficientnet_mini", family="EfficientNet", kind="convolutional", parameters=278_304, macs=4_254_368
    ),
    Miniature(name="convnext_mini", family="ConvNeXt", kind="convolutional", parameters=814_464, macs=5_436_928),
    Miniature(
        name="vit_mini",
        family="Vision Transformer",
        kind="transformer",
        parameters=458_592,
        macs=32_293_632,
        layout="NLC",
        prefix_tokens=1,
        pools=("native", "cls", "avg", "max", "cls+avg"),
    ),
)


@final
class ZooBackbone(Backbone):
    """A miniature network for images of 32 pixels. Nothing is downloaded."""

    modality = IMAGE
    default = True

    def __init__(self, miniature: Miniature) -> None:
        self.name = miniature.name
        self.summary = f"{miniature.family} for 32 pixels, pretrained on formulas; comes with tlbench"
        self.layout, self.prefix_tokens, self.pools = miniature.layout, miniature.prefix_tokens, miniature.pools
        self._miniature = miniature

    @property
    def facts(self) -> Facts:
        """What the weights' card says."""
        return Facts(
            architecture=self.name,
            kind=self._miniature.kind,
            pretraining="supervised",
            pretraining_data="rendered formulas",
            parameters=self._miniature.parameters,
            macs=self._miniature.macs,
            licence="Apache-2.0",
        )

    @property
    def preprocess(self) -> ImagePreprocess:
        """Images of 32 pixels, resized to them whole: a crop would cost a fourteenth of what little there is."""
        from tlbench.evaluation.images import ImagePreprocess

        return ImagePreprocess(size=(32, 32), mean=MEAN, std=STD, crop=1.0)

    def weights(self) -> str:
        """The hash of the file."""
        import hashlib

        return f"sha256:{hashlib.sha256(self._file().read_bytes()).hexdigest()}"

    def load(self, pretrained: bool) -> nn.Module:
        """Build the network, and fill it from the file where `pretrained`."""
        from tlbench_zoo.architectures import BUILDERS

        module: nn.Module = BUILDERS[self.name]()
        if pretrained and not next(module.parameters()).is_meta:
            from safetensors.torch import load_file

            state = load_file(self._file())
            module.load_state_dict(
                {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
            )
        return module

    def layers(self, module: nn.Module) -> Sequence[Sequence[str]]:
        """Stem and blocks, as timm groups them."""
        from timm.models import group_parameters

        matcher = cast(Any, module).group_matcher()
        return [list(names) for names in group_parameters(module, matcher).values()]

    def _file(self) -> Path:
        file = WEIGHTS / f"{self.name}.safetensors"
        if not file.is_file():
            raise WeightsError(f"the weights of 'zoo/{self.name}' are not at {file}: install tlbench again")
        return file
