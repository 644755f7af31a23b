"""Lineage: what timm's names say of an architecture's kind and of how its weights were made."""

from __future__ import annotations

import re
from functools import cache

_KINDS = {
    "convolutional": """byobnet convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet focalnet
        ghostnet hardcorenas hgnet hrnet inception_next inception_resnet_v2 inception_v3 inception_v4 lcnetv2 mambaout
        mobilenetv3 nasnet nfnet pnasnet rdnet regnet repghost repvit res2net resnest resnet resnetv2 rexnet selecsls
        senet sknet starnet tresnet vgg vovnet xception xception_aligned""",
    "transformer": """beit cait convit crossvit davit deepseek_vit deit eva gcvit gemma4_vit hiera hieradet_sam2 mvitv2
        naflexvit nest pvt_v2 qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins
        vision_transformer vision_transformer_relpos vision_transformer_sam volo xcit""",
    "hybrid": """byoanet coat csatv2 edgenext efficientformer efficientformer_v2 efficientvit_mit efficientvit_msra
        fastvit iformer levit lowformer maxxvit metaformer mobilenetv5 mobilevit nextvit pit shvit swiftformer tiny_vit
        visformer vision_transformer_hybrid vitamin""",
    "mlp": "mlp_mixer",
}
_KIND_OF = {module: kind for kind, modules in _KINDS.items() for module in modules.split()}

_DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-21k",
    "dino": "ImageNet-1k",
    "mae": "ImageNet-1k",
    "fcmae": "ImageNet-1k",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "sat493m": "SAT-493M",
    "openai": "WIT-400M",
    "laion400m": "LAION-400M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-Aesthetic",
    "datacompxl": "DataComp-XL",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "webli": "WebLI",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
    "jft": "JFT-300M",
}
_SELF_SUPERVISED = {"dino", "dinov2", "dinov3", "mae", "fcmae", "mim", "ijepa"}
_IMAGE_TEXT = {"clip", "siglip", "openai", "webli", "laion2b", "laion400m", "datacompxl", "dfn2b", "dfn5b", "metaclip"}
_SEMI_SUPERVISED = {"ssl", "swsl", "ns"}


def kind(architecture: str, module: str) -> str | None:
    """Say `convolutional`, `transformer`, `hybrid` or `mlp`, by the module of timm that builds the architecture."""
    if module == "mobilenetv3" and "_hybrid_" in architecture:
        return "hybrid"
    return _KIND_OF.get(module)


@cache
def pretraining(name: str) -> tuple[str | None, str | None]:
    """Say how and on what the weights called ``architecture.tag`` were made; None where the name does not tell.

    Weights fine-tuned on labelled images are `supervised`, whatever came before; the data names every stage once.
    """
    architecture, _, tag = name.partition(".")
    tokens = re.split(r"[_.]", tag)
    data = list(dict.fromkeys(_DATA[token] for token in tokens if token in _DATA))
    return _method(set(tokens), set(architecture.split("_"))), ", ".join(data) or None


def _method(tokens: set[str], architecture: set[str]) -> str | None:
    labelled = bool(tokens & {"in1k", "in12k", "in21k", "in22k"})
    if tokens & _SEMI_SUPERVISED:
        return "semi-supervised"
    if "ft" in tokens and labelled:
        return "supervised"
    if (tokens | architecture) & _SELF_SUPERVISED:
        return "self-supervised"
    if (tokens | architecture) & _IMAGE_TEXT:
        return "image-text"
    return "supervised" if labelled else None
