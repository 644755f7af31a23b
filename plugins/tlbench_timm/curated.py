"""The curated backbones: those of timm's models that are listed, and among them the pool of a search without a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import final

from tlbench_timm.published import published_names

CHOICE = {
    "ResNet": "resnet18.a1_in1k* resnet34.a1_in1k resnet50.a1_in1k* resnet50.tv_in1k resnet101.a1h_in1k",
    "ResNeXt": "resnext50_32x4d.a1h_in1k",
    "Wide ResNet": "wide_resnet50_2.racm_in1k",
    "Inception": "inception_v3.tv_in1k inception_v4.tf_in1k inception_resnet_v2.tf_in1k",
    "Xception": "legacy_xception.tf_in1k",
    "VGG": "vgg11.tv_in1k vgg16.tv_in1k vgg16_bn.tv_in1k vgg19.tv_in1k",
    "DenseNet": "densenet121.ra_in1k",
    "EfficientNet": """efficientnet_b0.ra_in1k* efficientnet_b1.ra4_e3600_r240_in1k efficientnet_b2.ra_in1k
        efficientnet_b3.ra2_in1k efficientnet_b4.ra2_in1k""",
    "EfficientNetV2": "tf_efficientnetv2_s.in21k_ft_in1k* efficientnetv2_rw_s.ra2_in1k",
    "MobileNetV2": "mobilenetv2_100.ra_in1k*",
    "MobileNetV3": "mobilenetv3_small_100.lamb_in1k* mobilenetv3_large_100.ra_in1k*",
    "MobileNetV4": "mobilenetv4_conv_small.e2400_r224_in1k* mobilenetv4_conv_medium.e500_r256_in1k*",
    "RegNetY": "regnety_004.tv2_in1k regnety_016.tv2_in1k regnety_032.ra_in1k*",
    "ConvNeXt": """convnext_atto.d2_in1k* convnext_nano.in12k_ft_in1k* convnext_tiny.in12k_ft_in1k*
        convnext_tiny.fb_in1k convnext_small.in12k_ft_in1k convnext_base.fb_in22k_ft_in1k""",
    "ConvNeXt V2": """convnextv2_atto.fcmae_ft_in1k convnextv2_nano.fcmae_ft_in22k_in1k
        convnextv2_tiny.fcmae_ft_in22k_in1k convnextv2_base.fcmae_ft_in22k_in1k""",
    "ViT": """vit_tiny_patch16_224.augreg_in21k_ft_in1k* vit_small_patch16_224.augreg_in21k_ft_in1k*
        vit_base_patch16_224.augreg2_in21k_ft_in1k* vit_base_patch32_224.augreg_in21k_ft_in1k""",
    "DeiT": "deit_tiny_patch16_224.fb_in1k deit_small_patch16_224.fb_in1k deit_base_patch16_224.fb_in1k",
    "DINOv2": """vit_small_patch14_dinov2.lvd142m* vit_base_patch14_dinov2.lvd142m
        vit_small_patch14_reg4_dinov2.lvd142m vit_base_patch14_reg4_dinov2.lvd142m""",
    "DINOv3": """vit_small_patch16_dinov3.lvd1689m* vit_base_patch16_dinov3.lvd1689m*
        convnext_tiny.dinov3_lvd1689m* convnext_small.dinov3_lvd1689m""",
    "CLIP": """vit_base_patch16_clip_224.openai* vit_base_patch16_clip_224.laion2b
        vit_base_patch16_clip_224.laion2b_ft_in12k_in1k""",
    "SigLIP": "vit_base_patch16_siglip_224.webli vit_base_patch16_siglip_224.v2_webli*",
    "Swin": """swin_tiny_patch4_window7_224.ms_in1k* swin_small_patch4_window7_224.ms_in22k_ft_in1k
        swin_base_patch4_window7_224.ms_in22k_ft_in1k""",
    "Swin V2": "swinv2_tiny_window8_256.ms_in1k",
    "BEiT": "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "MLP-Mixer": "mixer_b16_224.goog_in21k_ft_in1k",
    "MaxViT": "maxvit_tiny_tf_224.in1k*",
    "CoAtNet": "coatnet_0_rw_224.sw_in1k",
}
"""Families and their weights; a star: in the pool of a search without a list. Every miniature is added."""


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a backbone stands in the list."""

    family: str
    """The architecture's name in the literature: `ResNet`, `DINOv2`."""

    default: bool


@cache
def curated() -> Mapping[str, Entry]:
    """Give the list, by ``architecture.tag``: the choice, then timm's miniatures for tests."""
    chosen = {
        name.rstrip("*"): Entry(family=family, default=name.endswith("*"))
        for family, members in CHOICE.items()
        for name in members.split()
    }
    miniature = Entry(family="miniature", default=False)
    return {**chosen, **{name: miniature for name in published_names() if name.startswith("test_")}}
