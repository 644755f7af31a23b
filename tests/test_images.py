"""Image preprocessing against timm's own transform, PIL and the generators it may and may not touch."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms.v2 import functional

from tlbench.errors import BenchmarkError
from tlbench.evaluation.images import ImagePreprocess
from tlbench.spaces import AUGMENTATIONS, RESERVED

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SMALL = ImagePreprocess(size=(32, 32), **IMAGENET)
CPU = torch.device("cpu")


def picture(height: int, width: int) -> np.ndarray:
    """Gradients, an edge and fine stripes: every resize filter answers differently."""
    row, column = np.mgrid[:height, :width]
    red = (row * 255 // max(1, height - 1)) % 256
    green = (column * 7 + row * 3) % 256
    blue = np.where((row // 2 + column) % 2, 240, 20)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def params(**values: Any) -> dict[str, Any]:
    return {**RESERVED, **values}


def evaluated(contract: ImagePreprocess, sample: np.ndarray) -> torch.Tensor:
    return contract.batch([contract.prepare(sample)], params(), False, generator(), CPU)[0]


def timm_evaluated(contract: ImagePreprocess, sample: np.ndarray) -> torch.Tensor:
    transform = create_transform(
        input_size=(3, *contract.size),
        interpolation=contract.interpolation,
        mean=contract.mean,
        std=contract.std,
        crop_pct=contract.crop,
        crop_mode=contract.crop_mode,
    )
    evaluated_by_timm: torch.Tensor = transform(Image.fromarray(sample))
    return evaluated_by_timm


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "crop"), [((224, 224), 0.875), ((96, 96), 0.95), ((64, 96), 0.9), ((50, 50), 1.0)])
def test_equals_timms_evaluation_transform(
    crop_mode: str, interpolation: str, size: tuple[int, int], crop: float
) -> None:
    contract = ImagePreprocess(size=size, interpolation=interpolation, crop=crop, crop_mode=crop_mode, **IMAGENET)
    for shape in ((97, 211), (300, 140), (32, 32), (1, 9), (9, 1)):
        sample = picture(*shape)
        assert torch.equal(evaluated(contract, sample), timm_evaluated(contract, sample)), shape


def test_a_crop_above_one_pads_as_timm_does() -> None:
    contract = ImagePreprocess(size=(46, 46), crop=1.15, **IMAGENET)
    assert torch.equal(evaluated(contract, picture(60, 80)), timm_evaluated(contract, picture(60, 80)))


def test_border_keeps_a_line_that_would_round_to_nothing() -> None:
    contract = ImagePreprocess(size=(8, 8), crop=1.0, crop_mode="border", **IMAGENET)
    assert contract.prepare(picture(1, 100)).shape == (8, 8, 3)


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (48, 24)])
@pytest.mark.parametrize("shape", [(8, 2000), (2000, 8)])
def test_a_line_is_cut_before_it_is_resized_and_looks_the_same(
    size: tuple[int, int], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, smooth = replace(SMALL, size=size), np.linspace(0, 255, 8).astype(np.uint8)
    across = smooth[:, None] if shape[0] == 8 else smooth[None]
    waves = 100 + 100 * np.sin(np.arange(2000) / 40)
    along = waves[None] if shape[0] == 8 else waves[:, None]
    sample = np.stack(np.broadcast_arrays(across, along, along + 20), axis=2).astype(np.uint8)
    cut = contract.prepare(sample)
    monkeypatch.setattr("tlbench.evaluation.images.ELONGATED", 1000)
    assert np.abs(cut.astype(int) - contract.prepare(sample)).max() <= 3


def test_a_line_of_many_pixels_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resized, resize = [], functional.resize

    def watched(image: Image.Image, size: list[int], *arguments: Any, **options: Any) -> Any:
        result = resize(image, size, *arguments, **options)
        resized.append(result.width * result.height)
        return result

    monkeypatch.setattr(functional, "resize", watched)
    assert SMALL.prepare(np.zeros((1, 1_000_000, 3), np.uint8)).shape == (32, 32, 3)
    assert max(resized) < 100_000


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.481, 0.458, 0.408)])
def test_an_image_of_the_mean_colour_becomes_zero(crop_mode: str, mean: tuple[float, float, float]) -> None:
    contract = ImagePreprocess(size=(24, 24), crop_mode=crop_mode, mean=mean, std=(0.229, 0.224, 0.225))
    sample = np.broadcast_to(np.round(np.array(mean) * 255).astype(np.uint8), (40, 60, 3))
    assert evaluated(contract, sample).abs().max() < 0.5 / 255 / 0.22


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "e847cf0d129d714a"),
        ({"interpolation": "bilinear"}, "ebbf9bb31c9d3a21"),
        ({"crop": 1.0}, "8730d6d8ad23ebf2"),
        ({"crop_mode": "squash"}, "75d8855ee9907593"),
        ({"crop_mode": "border"}, "f5c3526319373a68"),
    ],
)
def test_the_pixels_of_each_contract_stay_what_they_are(changes: dict[str, Any], digest: str) -> None:
    contract = replace(ImagePreprocess(size=(64, 64), **IMAGENET), **changes)
    assert hashlib.sha256(contract.prepare(picture(97, 211)).tobytes()).hexdigest()[:16] == digest


def test_resizing_is_pils_with_antialiasing() -> None:
    sample = picture(320, 320)
    contract = ImagePreprocess(size=(32, 32), crop=1.0, interpolation="bilinear", **IMAGENET)
    ours = contract.prepare(sample).astype(int)
    pil = np.asarray(Image.fromarray(sample).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    tensor = torch.from_numpy(sample).permute(2, 0, 1)
    aliased = functional.resize(tensor, [32, 32], antialias=False).permute(1, 2, 0).numpy().astype(int)
    assert np.array_equal(ours, pil)
    assert np.abs(ours - aliased).max() > 50


def test_the_prepared_array_is_owned_uint8_and_repeats_itself() -> None:
    sample = picture(50, 70)
    first, second = SMALL.prepare(sample), SMALL.prepare(sample)
    assert first.dtype == np.uint8
    assert first.shape == SMALL.example().shape == (32, 32, 3)
    assert np.array_equal(first, second)
    assert first.flags.owndata
    assert first.flags.writeable


def test_a_batch_of_one_equals_the_sample_within_a_batch() -> None:
    arrays = [SMALL.prepare(picture(40 + index, 50)) for index in range(5)]
    whole = SMALL.batch(arrays, params(augmentation="rand"), False, generator(), CPU)
    assert whole.shape == (5, 3, 32, 32)
    assert whole.dtype == torch.float32
    assert whole.is_contiguous()
    for index, array in enumerate(arrays):
        assert torch.equal(SMALL.batch([array], params(), False, generator(9), CPU)[0], whole[index])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentations_keep_shape_and_range_and_follow_the_generator(augmentation: str) -> None:
    arrays = [SMALL.prepare(picture(40 + index, 50)) for index in range(8)]

    def batch(seed: int) -> torch.Tensor:
        return SMALL.batch(arrays, params(augmentation=augmentation), True, generator(seed), CPU)

    plain = SMALL.batch(arrays, params(), False, generator(), CPU)
    low = SMALL.batch([np.zeros((32, 32, 3), np.uint8)], params(), False, generator(), CPU).amin()
    high = SMALL.batch([np.full((32, 32, 3), 255, np.uint8)], params(), False, generator(), CPU).amax()
    first = batch(1)
    assert first.shape == plain.shape
    assert first.dtype == plain.dtype
    assert first.min() >= low
    assert first.max() <= high
    assert torch.equal(first, batch(1))
    unchanged = augmentation == "none"
    assert torch.equal(first, plain) == unchanged
    assert torch.equal(first, batch(2)) == unchanged


@pytest.mark.parametrize("augmentation", ["flip", "crop", "trivial", "rand", "affine"])
def test_each_sample_draws_for_itself(augmentation: str) -> None:
    array = SMALL.prepare(picture(40, 50))
    batch = SMALL.batch([array] * 16, params(augmentation=augmentation), True, generator(), CPU)
    assert len({image.numpy().tobytes() for image in batch}) >= (2 if augmentation == "flip" else 8)


def test_a_flip_mirrors_about_half_of_the_samples() -> None:
    array = SMALL.prepare(picture(40, 50))
    plain = SMALL.batch([array], params(), False, generator(), CPU)[0]
    batch = SMALL.batch([array] * 200, params(augmentation="flip"), True, generator(), CPU)
    mirrored = [torch.equal(image, plain.flip(2)) for image in batch]
    assert all(turned or torch.equal(image, plain) for turned, image in zip(mirrored, batch, strict=True))
    assert 70 < sum(mirrored) < 130


def test_affine_moves_an_image_a_little_and_never_mirrors_it() -> None:
    """The bright left half stays the left one, and the middle of what is bright stays near where it was."""
    array = np.zeros((8, 8, 3), np.uint8)
    array[:, :4] = 255
    batch = SMALL.batch([array] * 200, params(augmentation="affine"), True, generator(), CPU)
    still = SMALL.batch([array], params(augmentation="none"), True, generator(), CPU)
    left, right = batch[..., :4].mean((1, 2, 3)), batch[..., 4:].mean((1, 2, 3))
    assert (left > right).all()
    assert (batch - still).abs().mean() > 0.01


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_no_global_generator_moves(augmentation: str) -> None:
    arrays = [SMALL.prepare(picture(40, 50))] * 4
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes()
    recipe = params(augmentation=augmentation, mixup=0.2, cutmix=1.0)
    inputs = SMALL.batch(arrays, recipe, True, generator(), CPU)
    SMALL.mix(inputs, torch.tensor([0, 1, 2, 0]), 3, recipe, generator())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state(legacy=False)["state"]["key"].tobytes() == before[2]


def test_a_global_seed_decides_nothing() -> None:
    arrays = [SMALL.prepare(picture(40, 50))] * 4
    batches = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        batches.append(SMALL.batch(arrays, params(augmentation="crop"), True, generator(), CPU))
    assert torch.equal(*batches)


def test_seeding_leaves_the_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("a seed of ours reached the accelerators' generators")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    SMALL.batch([SMALL.example()], params(augmentation="rand"), True, generator(), CPU)


def mixed(seed: int = 0, **values: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = torch.stack([torch.full((3, 32, 32), float(value)) for value in range(6)])
    outputs, targets = SMALL.mix(inputs, torch.arange(6), 6, params(**values), generator(seed))
    return inputs, outputs, targets


def test_without_mixing_inputs_and_labels_pass_through() -> None:
    inputs, outputs, targets = mixed()
    assert torch.equal(outputs, inputs)
    assert torch.equal(targets, torch.arange(6))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_soft_targets_weigh_what_the_pixels_show(kind: str) -> None:
    _, outputs, targets = mixed(3, **{kind: 1.0})
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert (targets.max(1).values < 1).any()
    expected = (targets @ torch.arange(6.0)).double()
    assert torch.allclose(outputs.double().mean((1, 2, 3)), expected, atol=1e-4)
    assert (outputs.flatten(1).std(1) > 0).any() == (kind == "cutmix")
    assert torch.equal(mixed(3, **{kind: 1.0})[1], outputs)


def test_of_two_ways_to_mix_each_batch_takes_one() -> None:
    patched = [bool((mixed(seed, mixup=1.0, cutmix=1.0)[1].flatten(1).std(1) > 0).any()) for seed in range(40)]
    assert 5 < sum(patched) < 35


def test_the_identity_is_json_and_tells_every_choice_apart() -> None:
    contracts = [
        SMALL,
        replace(SMALL, size=(32, 33)),
        replace(SMALL, mean=(0.5, 0.456, 0.406)),
        replace(SMALL, std=(0.5, 0.224, 0.225)),
        replace(SMALL, interpolation="bilinear"),
        replace(SMALL, crop=0.9),
        replace(SMALL, crop_mode="squash"),
    ]
    identities = [json.dumps(contract.identity, sort_keys=True, allow_nan=False) for contract in contracts]
    assert len(set(identities)) == len(contracts)
    facts = {"size", "interpolation", "antialias", "crop", "crop_mode", "mean", "std", "channels", "input_range"}
    assert facts | {"decode", "resize", "version"} <= set(SMALL.identity)
    assert json.loads(identities[0]) == SMALL.identity


def test_equal_numbers_give_equal_identities() -> None:
    assert json.dumps(replace(SMALL, crop=1).identity) == json.dumps(replace(SMALL, crop=1.0).identity)


def test_a_declaration_overrides_what_it_names() -> None:
    declared = {"size": 128, "mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "crop": 1}
    expected = ImagePreprocess(
        size=(128, 128), mean=(0.5, 0.5, 0.5), std=(0.229, 0.224, 0.225), interpolation="bilinear", crop=1.0
    )
    assert SMALL.overridden(declared) == expected
    assert SMALL.overridden({"size": [20, 30]}).size == (20, 30)
    assert SMALL.overridden({}) == SMALL


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"sizes": 3}, "preprocess has no 'sizes': it has size, mean"),
        ({"size": 0}, "size = .0, 0.: needed is pixels"),
        ({"size": "big"}, "size"),
        ({"size": True}, "size"),
        ({"size": [1, 2, 3]}, "size"),
        ({"mean": [123.7, 116.3, 103.5]}, "scaled to .0, 1."),
        ({"mean": 0.5}, "mean = 0.5: needed is three numbers"),
        ({"std": [0, 1, 1]}, "std"),
        ({"std": [0.5, 0.5, float("nan")]}, "std"),
        ({"crop": 0}, "crop"),
        ({"crop": "all"}, "crop"),
        ({"interpolation": "cubic"}, "interpolation = 'cubic': needed is one of nearest, bilinear"),
        ({"crop_mode": ["center"]}, "crop_mode"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_named(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        SMALL.overridden(declared)
