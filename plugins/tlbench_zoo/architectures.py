"""Architectures: miniature networks of six families, built with timm's own classes for images of 32 pixels.

Strides are a quarter of what the full-size members have: photographs of 224 pixels become maps of 7 x 7 there, and
images of 32 pixels become maps of 2 x 2 to 8 x 8 here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import ConvNormAct
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.inception_v3 import InceptionA
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIZE = 32
"""Pixels along each edge of an input."""


class Inception(nn.Module):
    """A stem and three blocks of Inception v3 (Szegedy et al. 2016) with all their branches."""

    def __init__(self) -> None:
        super().__init__()
        layer: Any = partial(ConvNormAct, norm_layer=partial(nn.BatchNorm2d, eps=0.001))
        self.stem = nn.Sequential(
            layer(3, 32, kernel_size=3, stride=2, padding=1),
            layer(32, 64, kernel_size=3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(
            InceptionA(64, 32, conv_block=layer),
            nn.Sequential(InceptionA(256, 64, conv_block=layer), nn.MaxPool2d(3, stride=2, padding=1)),
            InceptionA(288, 64, conv_block=layer),
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Stem and blocks, as timm's networks describe their layers."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Unpooled features [n, 288, 4, 4]."""
        return self.blocks(self.stem(x))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Pooled features [n, 288]."""
        return x.mean((2, 3))


def _resnet() -> Any:
    module = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(32, 64, 96, 160), stem_width=32)
    module.maxpool = nn.Identity()
    return module


def _efficientnet() -> Any:
    stages = ["ds_r1_k3_s1_e1_c24_se0.25", "ir_r2_k3_s2_e4_c40_se0.25", "ir_r2_k5_s2_e4_c64_se0.25",
              "ir_r2_k3_s2_e4_c96_se0.25"]  # fmt: skip
    blocks = decode_arch_def([[stage] for stage in stages])
    return EfficientNet(blocks, num_classes=0, num_features=256, stem_size=24, act_layer=nn.SiLU)


def _vit() -> Any:
    return VisionTransformer(
        img_size=SIZE, patch_size=4, embed_dim=96, depth=4, num_heads=3, num_classes=0, global_pool="avg"
    )


def _convnext() -> Any:
    return ConvNeXt(depths=(1, 1, 2, 1), dims=(40, 80, 128, 192), patch_size=2, output_stride=16, num_classes=0)


def _vgg() -> Any:
    """Without the two hidden layers of its classifier, which hold nine tenths of a VGG's parameters."""
    widths = (32, "M", 64, "M", 96, 96, "M", 160, 160)
    module = VGG(list(widths), num_classes=0, norm_layer=nn.BatchNorm2d, mlp_ratio=0.01)
    module.pre_logits = nn.Identity()
    return module


BUILDERS: dict[str, Callable[[], Any]] = {
    "resnet_mini": _resnet,
    "vgg_mini": _vgg,
    "inception_mini": Inception,
    "efficientnet_mini": _efficientnet,
    "convnext_mini": _convnext,
    "vit_mini": _vit,
}
"""Headless networks with fresh weights from torch's global generator, by name."""
