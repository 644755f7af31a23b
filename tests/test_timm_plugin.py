"""The timm plugin against timm's published figures, fabricated caches and files that are not what they claim."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.models
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform
from timm.layers import resample_abs_pos_embed
from torch import nn

import tlbench_timm
from published import PUBLISHED
from tlbench.errors import BenchmarkError, UnknownNameError, WeightsError
from tlbench_timm import lineage
from tlbench_timm.backbone import TimmBackbone
from tlbench_timm.curated import curated

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))

# Default weights of those architectures: training size, interpolation, training crop, mean and std to three digits.
CONTRACTS: dict[str, tuple[int, str, float, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "resnet18.a1_in1k": (224, "bicubic", 0.95, IMAGENET),
    "resnet34.a1_in1k": (224, "bicubic", 0.95, IMAGENET),
    "resnet50.a1_in1k": (224, "bicubic", 0.95, IMAGENET),
    "resnet101.a1h_in1k": (224, "bicubic", 0.95, IMAGENET),
    "resnet152.a1h_in1k": (224, "bicubic", 0.95, IMAGENET),
    "resnext50_32x4d.a1h_in1k": (224, "bicubic", 0.95, IMAGENET),
    "wide_resnet50_2.racm_in1k": (224, "bicubic", 0.875, IMAGENET),
    "inception_v3.tv_in1k": (299, "bicubic", 0.875, HALF),
    "inception_v4.tf_in1k": (299, "bicubic", 0.875, HALF),
    "inception_resnet_v2.tf_in1k": (299, "bicubic", 0.8975, HALF),
    "legacy_xception.tf_in1k": (299, "bicubic", 0.8975, HALF),
    "vgg11.tv_in1k": (224, "bilinear", 0.875, IMAGENET),
    "vgg16.tv_in1k": (224, "bilinear", 0.875, IMAGENET),
    "vgg16_bn.tv_in1k": (224, "bilinear", 0.875, IMAGENET),
    "vgg19.tv_in1k": (224, "bilinear", 0.875, IMAGENET),
    "densenet121.ra_in1k": (224, "bicubic", 0.875, IMAGENET),
    "efficientnet_b0.ra_in1k": (224, "bicubic", 0.875, IMAGENET),
    "efficientnet_b1.ra4_e3600_r240_in1k": (240, "bicubic", 0.9, HALF),
    "efficientnet_b3.ra2_in1k": (288, "bicubic", 0.875, IMAGENET),
    "efficientnet_b4.ra2_in1k": (320, "bicubic", 0.875, IMAGENET),
    "tf_efficientnetv2_s.in21k_ft_in1k": (300, "bicubic", 1.0, HALF),
    "efficientnetv2_rw_s.ra2_in1k": (288, "bicubic", 1.0, IMAGENET),
    "mobilenetv2_100.ra_in1k": (224, "bicubic", 0.875, IMAGENET),
    "mobilenetv3_small_100.lamb_in1k": (224, "bicubic", 0.875, IMAGENET),
    "mobilenetv3_large_100.ra_in1k": (224, "bicubic", 0.875, IMAGENET),
    "mobilenetv4_conv_small.e2400_r224_in1k": (224, "bicubic", 0.875, IMAGENET),
    "regnety_032.ra_in1k": (224, "bicubic", 0.95, IMAGENET),
    "convnext_tiny.in12k_ft_in1k": (224, "bicubic", 0.95, IMAGENET),
    "convnext_small.in12k_ft_in1k": (224, "bicubic", 0.95, IMAGENET),
    "convnext_base.fb_in22k_ft_in1k": (224, "bicubic", 0.875, IMAGENET),
    "convnextv2_tiny.fcmae_ft_in22k_in1k": (224, "bicubic", 0.875, IMAGENET),
    "deit_tiny_patch16_224.fb_in1k": (224, "bicubic", 0.9, IMAGENET),
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": (224, "bicubic", 0.9, HALF),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": (224, "bicubic", 0.9, HALF),
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": (224, "bicubic", 0.9, HALF),
    "vit_base_patch32_224.augreg_in21k_ft_in1k": (224, "bicubic", 0.9, HALF),
    "vit_small_patch14_dinov2.lvd142m": (518, "bicubic", 1.0, IMAGENET),
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k": (224, "bicubic", 0.95, CLIP),
    "swin_tiny_patch4_window7_224.ms_in1k": (224, "bicubic", 0.9, IMAGENET),
    "swin_small_patch4_window7_224.ms_in22k_ft_in1k": (224, "bicubic", 0.9, IMAGENET),
    "swin_base_patch4_window7_224.ms_in22k_ft_in1k": (224, "bicubic", 0.9, IMAGENET),
    "swinv2_tiny_window8_256.ms_in1k": (256, "bicubic", 0.9, IMAGENET),
    "beit_base_patch16_224.in22k_ft_in22k_in1k": (224, "bicubic", 0.9, HALF),
    "mixer_b16_224.goog_in21k_ft_in1k": (224, "bicubic", 0.875, HALF),
    "maxvit_tiny_tf_224.in1k": (224, "bicubic", 0.95, IMAGENET),
    "coatnet_0_rw_224.sw_in1k": (224, "bicubic", 0.95, HALF),
}

# One member of each family, with the axes of its features, its prefix tokens and its pools.
MAPS = ("native", "avg", "max", "gem")
CLASSED = ("native", "cls", "avg", "max", "cls+avg")
FAMILIES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "test_resnet": ("NCHW", 0, MAPS),
    "test_vit": ("NLC", 1, CLASSED),
    "test_vit3": ("NLC", 1, ("native", "avg", "max")),  # one register token, no class token
    "test_convnext": ("NCHW", 0, MAPS),
    "test_efficientnet": ("NCHW", 0, MAPS),
    "test_mambaout": ("NHWC", 0, MAPS),
    "inception_v3": ("NCHW", 0, MAPS),
    "legacy_xception": ("NCHW", 0, MAPS),
    "vgg11": ("NCHW", 0, MAPS),
    "densenet121": ("NCHW", 0, MAPS),
    "mobilenetv3_small_100": ("NCHW", 0, MAPS),
    "regnety_004": ("NCHW", 0, MAPS),
    "vit_small_patch14_reg4_dinov2": ("NLC", 5, CLASSED),
    "vit_base_patch16_siglip_224": ("NLC", 0, ("native", "avg", "max")),
    "deit_tiny_distilled_patch16_224": ("NLC", 2, CLASSED),
    "swin_tiny_patch4_window7_224": ("NHWC", 0, MAPS),
    "beit_base_patch16_224": ("NLC", 1, CLASSED),
    "mixer_b16_224": ("NLC", 0, ("native", "avg", "max")),
    "maxvit_tiny_tf_224": ("NCHW", 0, MAPS),
    "volo_d1_224": ("NLC", 0, ("native",)),  # a class token that the model does not count
    "crossvit_9_240": ("NCHW", 0, ("native",)),  # a list of features
}


def backbone(name: str) -> TimmBackbone:
    found = tlbench_timm.find_backbone(name)
    assert isinstance(found, TimmBackbone)
    return found


def meta(name: str) -> Any:
    with torch.device("meta"):
        return backbone(name).load(pretrained=False)


def derived(base: str, weights: Path | None = None, **declared: Any) -> TimmBackbone:
    declaration = {"options": {}, "preprocess": {}, **declared}
    made = backbone(base).derive(name="mine/net", weights=weights, **declaration)
    assert isinstance(made, TimmBackbone)
    return made


def pooled(module: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features: torch.Tensor = module.eval().forward_head(module.forward_features(images), pre_logits=True)
    return features


def saved(tmp_path: Path, architecture: str, classes: int = 7, **options: Any) -> tuple[Path, Any]:
    """A random model with a classifier, and the file of its state dict; its batch norms are not the initial ones."""
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=classes, **options)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    path = tmp_path / "net.safetensors"
    save_file(model.state_dict(), path)
    return path, model


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameters_and_the_classifiers_input_are_the_published_ones(architecture: str) -> None:
    parameters, width = PUBLISHED[architecture].headless_parameters, PUBLISHED[architecture].width
    module = meta(architecture)
    assert all(tensor.is_meta for tensor in module.parameters())
    assert sum(tensor.numel() for tensor in module.parameters()) == parameters
    size = backbone(architecture).preprocess.size
    assert pooled(module, torch.zeros(2, 3, *size, device="meta")).shape == (2, width)
    with torch.device("meta"):
        module.reset_classifier(10)
    classifier = sum(tensor.numel() for tensor in module.parameters()) - parameters
    assert classifier == width * 10 + 10
    assert backbone(architecture).facts.parameters == parameters


@pytest.mark.parametrize("name", CONTRACTS)
def test_preprocessing_is_that_of_the_default_weights(name: str) -> None:
    size, interpolation, crop, (mean, std) = CONTRACTS[name]
    architecture = name.partition(".")[0]
    found = backbone(architecture)
    assert found.name == name
    contract = found.preprocess
    assert contract.size == (size, size)
    assert (contract.interpolation, contract.crop, contract.crop_mode) == (interpolation, crop, "center")
    assert contract.mean == pytest.approx(mean, abs=5e-4)
    assert contract.std == pytest.approx(std, abs=5e-4)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_layers_partition_the_parameters_from_input_to_output(architecture: str) -> None:
    module = meta(architecture)
    groups = backbone(architecture).layers(module)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    assert all(groups)
    assert len(groups) > 3
    first = next(name for name, tensor in module.named_parameters() if tensor.ndim == 4 or "embed" in name)
    assert first in groups[0]


def test_layers_of_a_module_without_a_grouping_are_its_children() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
    expected = [["0.weight", "0.bias"], ["2.0.weight", "2.0.bias", "2.1.weight", "2.1.bias"]]
    assert backbone("test_vit").layers(module) == expected


@pytest.mark.parametrize("architecture", FAMILIES)
def test_geometry_says_what_the_features_are(architecture: str) -> None:
    found = backbone(architecture)
    assert (found.layout, found.prefix_tokens, found.pools) == FAMILIES[architecture]


def test_observing_the_geometry_moves_no_generator() -> None:
    before = torch.get_rng_state()
    assert backbone("test_vit").layout == "NLC"
    assert torch.equal(torch.get_rng_state(), before)


def test_the_native_pool_is_the_models_own() -> None:
    found = backbone("test_vit")
    module: Any = found.load(pretrained=False).eval()
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        features = module.norm(module.forward_features(images))
    assert features.shape[1] - found.prefix_tokens == 100
    assert pooled(module, images).shape == (2, 64)


def test_scratch_weights_follow_the_global_generator() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([t.flatten() for t in backbone("test_resnet").load(False).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_list_is_read_without_anything_heavy() -> None:
    code = (
        "import sys, tlbench_timm\n"
        "listed = tlbench_timm.register_backbones()\n"
        "shown = [(b.name, b.summary, b.default, b.facts) for b in listed]\n"
        "heavy = {'torch', 'timm', 'numpy', 'torchvision', 'huggingface_hub', 'PIL'} & set(sys.modules)\n"
        "assert shown and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_list_says_how_each_was_made() -> None:
    assert [name for name in curated() if lineage.pretraining(name)[0] is None] == []
    assert {name for name in curated() if name.startswith("test_")} == set(timm.list_models("test_*", pretrained=True))


def test_the_default_pool_is_small_varied_and_free_of_miniatures() -> None:
    pool = {name: backbone(name).facts for name, entry in curated().items() if entry.default}
    assert 12 <= len(pool) <= 24
    assert not any(name.startswith("test_") for name in pool)
    assert {facts.kind for facts in pool.values()} == {"convolutional", "transformer", "hybrid"}
    assert {facts.pretraining for facts in pool.values()} == {"supervised", "self-supervised", "image-text"}
    assert not any("nc" in str(facts.licence).split("-") for facts in pool.values())
    assert backbone("convnextv2_tiny.fcmae_ft_in22k_in1k").facts.licence == "cc-by-nc-4.0"


def test_published_accuracy_is_that_of_the_training_size() -> None:
    assert backbone("resnet50.a1_in1k").facts.accuracy == 0.80382  # 0.8124 at 288
    assert backbone("inception_v3.tv_in1k").facts.accuracy == 0.77472
    assert backbone("vit_small_patch14_dinov2.lvd142m").facts.accuracy is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50.fb_swsl_ig1b_ft_in1k", ("semi-supervised", "Instagram-1B, ImageNet-1k")),
        ("vit_base_patch16_224.mae", ("self-supervised", "ImageNet-1k")),
        ("vit_base_patch16_clip_224.openai_ft_in1k", ("supervised", "WIT-400M, ImageNet-1k")),
        ("beit_base_patch16_224.in22k_ft_in22k", ("supervised", "ImageNet-21k")),
        ("convnextv2_atto.fcmae", ("self-supervised", "ImageNet-1k")),
        ("test_maxvit.untrained", (None, None)),
    ],
)
def test_a_tag_tells_how_the_weights_were_made(name: str, expected: tuple[str | None, str | None]) -> None:
    assert lineage.pretraining(name) == expected


def test_every_kind_is_given_to_modules_that_timm_has() -> None:
    architectures = {name: timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}
    modules = {module.rpartition(".")[2] for module in architectures.values()}
    assert set(lineage._KIND_OF) <= modules


def test_any_timm_name_is_found() -> None:
    found = backbone("caformer_s18")
    assert found.name == "caformer_s18.sail_in1k"
    assert (found.facts.kind, found.facts.accuracy, found.facts.licence) == ("hybrid", 0.83664, "apache-2.0")
    assert not found.default
    assert backbone("resnet50.tv2_in1k").name == "resnet50.tv2_in1k"
    assert backbone("test_mambaout").name == "test_mambaout"


def test_figures_belong_to_the_size_they_were_measured_at() -> None:
    base, smaller = backbone("resnet18").facts, derived("resnet18", preprocess={"size": 128}).facts
    assert (smaller.macs, smaller.accuracy, smaller.parameters) == (None, None, base.parameters)
    assert derived("resnet18", preprocess={"crop": 0.9}).facts == base
    assert derived("resnet18", options={"stem_width": 32}).facts.parameters is None


def test_deprecated_names_become_current_ones_without_a_warning() -> None:
    assert backbone("xception").name == backbone("xception.tf_in1k").name == "legacy_xception.tf_in1k"
    assert backbone("convnext_tiny_in22ft1k").name == "convnext_tiny.fb_in22k_ft_in1k"


def test_a_name_timm_does_not_know_is_left_to_others() -> None:
    assert tlbench_timm.find_backbone("resnet81") is None
    assert tlbench_timm.find_backbone("org/some-model.v2") is None


def test_an_unknown_tag_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"no weights 'zz' for timm's 'vgg16': its tags are tv_in1k"):
        tlbench_timm.find_backbone("vgg16.zz")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_100"])
def test_a_declared_file_loads_headless_with_equal_outputs(name: str, tmp_path: Path) -> None:
    path, model = saved(tmp_path, name)
    mine = derived(name, path)
    module: Any = mine.load(pretrained=True)
    assert module.num_classes == 0
    images = torch.rand(2, 3, *mine.preprocess.size)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(pooled(module, images), expected)
    assert mine.weights() == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert mine.name == "mine/net"
    assert not mine.default
    assert (mine.facts.accuracy, mine.facts.licence, mine.facts.pretraining) == (None, None, None)
    assert (mine.facts.parameters, mine.facts.macs) == (backbone(name).facts.parameters, backbone(name).facts.macs)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_torch_file_of_tensors_loads(wrapped: bool, tmp_path: Path) -> None:
    _, model = saved(tmp_path, "test_resnet")
    path = tmp_path / "net.pth"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else model.state_dict(), path)
    module: Any = derived("test_resnet", path).load(pretrained=True)
    assert torch.equal(module.conv1[0].weight, model.conv1[0].weight)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    path, model = saved(tmp_path, "test_vit")
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, path)
    module: Any = derived("test_vit", path).load(pretrained=True)
    assert all(tensor.dtype == torch.float32 for tensor in module.parameters())
    assert torch.equal(module.cls_token, model.cls_token.half().float())


@pytest.mark.parametrize("grid", [(6, 6), (5, 20)])  # the second has as many patches as the file's 10 x 10
def test_timms_filter_resizes_position_embeddings(grid: tuple[int, int], tmp_path: Path) -> None:
    path, model = saved(tmp_path, "test_vit")
    size = [16 * edge for edge in grid]
    mine = derived("test_vit", path, preprocess={"size": size})
    module: Any = mine.load(pretrained=True)
    expected = resample_abs_pos_embed(model.pos_embed, list(grid), old_size=[10, 10], num_prefix_tokens=1)
    assert torch.allclose(module.pos_embed, expected, atol=1e-6)
    assert pooled(module, torch.zeros(1, 3, *size)).shape == (1, 64)


def test_a_file_is_read_by_what_it_is_where_timm_publishes_an_npz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm before 1.0.31 gave whatever file it was told to the reader of the published one."""
    monkeypatch.setattr("timm.models._builder._PRETRAINED_SOURCE_KEYS", (), raising=False)
    name, small = "vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"embed_dim": 24, "depth": 2, "num_heads": 2}
    assert timm.models.get_pretrained_cfg(name).custom_load
    path, model = saved(tmp_path, name, **small)
    module: Any = derived(name, path, options=small).load(pretrained=True)
    assert torch.equal(module.norm.weight, model.norm.weight)


def test_timms_filter_renames_what_older_files_hold(tmp_path: Path) -> None:
    path, model = saved(tmp_path, "swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1), num_heads=(1, 1))
    current = load_file(path)
    older = {
        name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): tensor
        for name, tensor in current.items()
    }
    assert older.keys() != current.keys()
    save_file(older, path)
    options = {"embed_dim": 24, "depths": [1, 1], "num_heads": [1, 1]}
    module: Any = derived("swin_tiny_patch4_window7_224", path, options=options).load(pretrained=True)
    assert torch.equal(module.layers[1].downsample.reduction.weight, model.layers[1].downsample.reduction.weight)


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        ("test_vit", "test_resnet", "the file lacks conv1.0.weight"),
        ("test_resnet", "test_vit", "the file lacks"),
        ("test_convnext", "test_convnext2", "do not load into test_convnext2|the file lacks"),
        ("resnet34", "resnet18", "the file has more than that model: layer1.2"),
        ("resnet18", "resnet34", r"the file lacks layer1.2.conv1.weight, .* and \d+ more"),
    ],
)
def test_a_file_of_another_architecture_is_refused(there: str, asked: str, said: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, there)
    with pytest.raises(WeightsError, match=said):
        derived(asked, path).load(pretrained=True)


@pytest.mark.parametrize("removed", ["bn1.running_mean", "layer2.0.conv1.weight"])
def test_a_missing_parameter_or_buffer_is_named(removed: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "resnet18")
    save_file({name: tensor for name, tensor in load_file(path).items() if name != removed}, path)
    with pytest.raises(WeightsError, match=f"net.safetensors are not those of resnet18: the file lacks {removed}$"):
        derived("resnet18", path).load(pretrained=True)


def test_a_classifier_that_the_tag_never_had_is_left_aside_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 56}
    path, model = saved(tmp_path, "vit_small_patch14_dinov2", **small)
    options = {name: value for name, value in small.items() if name != "img_size"}
    mine = derived("vit_small_patch14_dinov2", path, options=options, preprocess={"size": 56})
    module: Any = mine.load(pretrained=True)
    assert torch.equal(module.norm.weight, model.norm.weight)
    assert not caplog.records


def test_loading_leaves_torch_as_it_was(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "test_vit")
    before = nn.Module.load_state_dict
    derived("test_vit", path).load(pretrained=True)
    with pytest.raises(WeightsError):
        derived("test_resnet", path).load(pretrained=True)
    assert nn.Module.load_state_dict is before


class _Trap:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.witness),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_with_code_is_refused_and_never_run(writer: str, tmp_path: Path) -> None:
    path, witness = tmp_path / "net.bin", tmp_path / "ran"
    if writer == "torch":
        torch.save({"conv1.weight": torch.zeros(1), "trap": _Trap(witness)}, path)
    else:
        path.write_bytes(pickle.dumps({"trap": _Trap(witness)}, protocol=2))
    with pytest.raises(WeightsError, match="refused: reading them would run code"):
        derived("test_resnet", path).load(pretrained=True)
    assert not witness.exists()
    pickle.loads(pickle.dumps(_Trap(witness)))
    assert witness.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"\x93nothing of the kind")
    with pytest.raises(WeightsError, match=f"net{suffix}"):
        derived("test_resnet", path).load(pretrained=True)


def test_a_declaration_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"backbone 'mine/net': no weights file .*absent.pth"):
        derived("test_resnet", tmp_path / "absent.pth")
    (tmp_path / "net.npz").touch()
    with pytest.raises(BenchmarkError, match=r"net.npz: needed is a file .safetensors, .pth"):
        derived("test_resnet", tmp_path / "net.npz")
    with pytest.raises(BenchmarkError, match=r"backbone 'mine/net'.*pad_tipe"):
        derived("test_efficientnet", options={"pad_tipe": "same"})
    with pytest.raises(BenchmarkError, match="option 'num_classes' is decided by the data set"):
        derived("test_resnet", options={"num_classes": 3})
    with pytest.raises(BenchmarkError, match="backbone 'mine/net': preprocess has no 'sizes'"):
        derived("test_resnet", preprocess={"sizes": 3})


def test_options_reach_the_builder() -> None:
    module: Any = derived("test_efficientnet", options={"pad_type": "same"}).load(pretrained=False)
    assert "Same" in type(module.conv_stem).__name__
    assert "Same" not in type(backbone("test_efficientnet").load(pretrained=False).conv_stem).__name__


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_weights_out_of_reach_are_named_in_one_line(empty_cache: Path) -> None:
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        backbone("test_resnet").weights()
    assert time.monotonic() - start < 2
    message = str(caught.value)
    for part in (
        "test_resnet.r160_in1k",
        str(empty_cache / "hub"),
        "hf download timm/test_resnet.r160_in1k",
        "HF_HOME",
    ):
        assert part in message
    assert "\n" not in message


def test_the_environment_decides_the_cache_and_the_network(tmp_path: Path) -> None:
    code = "import tlbench_timm\ntlbench_timm.find_backbone('test_resnet').weights()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("tlbench.errors.WeightsError: ")
    assert str(tmp_path / "hub") in last
    assert "HF_HUB_OFFLINE is set" in last


def test_without_network_the_hub_is_asked_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(WeightsError, match="ConnectionError: no route"):
        backbone("test_resnet").weights()
    assert len(asked) == 1
    assert asked[0][1] <= 10


def cached(folder: Path, name: str, commit: str, filename: str) -> Path:
    repository = folder / "hub" / f"models--timm--{name}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot / filename


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_a_cached_snapshot_gives_its_commit_and_loads_offline(filename: str, empty_cache: Path) -> None:
    path, model = saved(empty_cache, "test_resnet", classes=1000)
    commit = "0123456789abcdef0123456789abcdef01234567"
    target = cached(empty_cache, "test_resnet.r160_in1k", commit, filename)
    if filename.endswith("safetensors"):
        path.rename(target)
    else:
        torch.save(model.state_dict(), target)
    found = backbone("test_resnet")
    assert found.weights() == commit
    module: Any = found.load(pretrained=True)
    assert torch.equal(module.layer4[0].conv1.weight, model.layer4[0].conv1.weight)


def test_safetensors_are_preferred(empty_cache: Path) -> None:
    path, _ = saved(empty_cache, "test_resnet", classes=1000)
    path.rename(cached(empty_cache, "test_resnet.r160_in1k", "a" * 40, "model.safetensors"))
    cached(empty_cache, "test_resnet.r160_in1k", "a" * 40, "pytorch_model.bin").write_bytes(b"never read")
    assert backbone("test_resnet").load(pretrained=True) is not None


def test_weights_known_by_address_alone_are_hashed(empty_cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"xception-43020ad28\.pth, then put it into that folder"):
        backbone("xception").weights()
    folder = empty_cache / "torch" / "hub" / "checkpoints"
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "xception-43020ad28.pth").write_bytes(b"weights")
    assert backbone("xception").weights() == "sha256:" + hashlib.sha256(b"weights").hexdigest()


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(WeightsError, match="timm publishes no weights for 'test_mambaout'"):
        backbone("test_mambaout").weights()


def test_real_weights_tell_real_images_apart() -> None:
    root = os.environ.get("TLBENCH_REAL_DATA")
    if root is None:
        pytest.skip("TLBENCH_REAL_DATA is not set")
    file = Path(root) / "weights" / "mobilenetv2_100_224.safetensors"
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "crop": 0.875}
    mine = derived("mobilenetv2_100", file, options={"pad_type": "same"}, preprocess=half)
    module = mine.load(pretrained=True)
    photos = [
        Image.open(path).convert("RGB")
        for name in ("automobile", "frog", "ship")
        for path in sorted((Path(root) / "cifar10-small" / "train" / name).iterdir())[:8]
    ]
    arrays = [mine.preprocess.prepare(np.asarray(photo)) for photo in photos]
    inputs = mine.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))
    features = pooled(module, inputs)

    transform = create_transform((3, 224, 224), mean=half["mean"], std=half["std"], interpolation="bilinear")
    reference = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=1000)
    reference.load_state_dict(load_file(file))
    expected = pooled(reference, torch.stack([transform(photo) for photo in photos[:2]]))
    torch.testing.assert_close(features[:2], expected, rtol=1e-4, atol=1e-4)  # batches of 24 and of 2

    unit = nn.functional.normalize(features, dim=1)
    classes = torch.arange(3).repeat_interleave(8)
    nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    assert (classes[nearest] == classes).float().mean() > 0.6


def test_a_declaration_builds_on_another(tmp_path: Path) -> None:
    """What the second leaves out it takes from the first: weights, options, preprocessing."""
    model = timm.create_model("test_resnet", num_classes=0)
    file = tmp_path / "net.safetensors"
    save_file(model.state_dict(), file)
    first = derived("test_resnet", file, preprocess={"size": 64, "mean": [0.1, 0.2, 0.3]})
    second = first.derive(name="mine/second", weights=None, options={}, preprocess={"size": 32})
    assert second.weights() == first.weights()
    assert second.preprocess.size == (32, 32)
    assert second.preprocess.mean == (0.1, 0.2, 0.3)
    for name, tensor in second.load(pretrained=True).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
