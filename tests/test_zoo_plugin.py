"""The zoo: networks, weights, cards and shipped benchmarks, and what the weights are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlbench.benchmark import load_benchmark
from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.errors import WeightsError
from tlbench.evaluation.probe import multinomial
from tlbench.plugins import discover
from tlbench_data.digits import Digits
from tlbench_timm.geometry import observe
from tlbench_zoo import backbone as module
from tlbench_zoo import register_backbones, register_benchmarks
from tlbench_zoo.architectures import BUILDERS
from tlbench_zoo.backbone import MINIATURES, WEIGHTS, ZooBackbone

pytestmark = pytest.mark.long

NAMES = [miniature.name for miniature in MINIATURES]
MIB = 2**20


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    (found,) = (backbone for backbone in register_backbones() if backbone.name == request.param)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield found


def features(backbone: Backbone, network: Any, images: np.ndarray) -> torch.Tensor:
    """Pooled features [n, width] of uint8 images [n, h, w, 3]."""
    prepared = [backbone.preprocess.prepare(image) for image in images]
    inputs = backbone.preprocess.batch(prepared, {}, False, torch.Generator(), torch.device("cpu"))
    with torch.inference_mode():
        pooled: torch.Tensor = network.eval().forward_head(network.forward_features(inputs), pre_logits=True)
    return pooled


def test_every_family_is_there_and_small() -> None:
    assert list(BUILDERS) == NAMES
    assert {miniature.family for miniature in MINIATURES} == {
        "ResNet", "VGG", "Inception v3", "EfficientNet", "ConvNeXt", "Vision Transformer",
    }  # fmt: skip
    assert all(100_000 <= miniature.parameters <= 1_500_000 for miniature in MINIATURES)


def test_what_is_said_of_a_network_is_what_it_is(backbone: Backbone) -> None:
    network = backbone.load(pretrained=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == backbone.facts.parameters
    with torch.device("meta"):
        outline: Any = backbone.load(pretrained=True).eval()
        seen = observe(outline, (32, 32))
        with FlopCounterMode(display=False) as counter:
            outline.forward_head(outline.forward_features(torch.zeros(1, 3, 32, 32)), pre_logits=True)
    assert counter.get_total_flops() == 2 * (backbone.facts.macs or 0)
    assert (seen.layout, seen.prefix_tokens, seen.pools) == (
        backbone.layout, backbone.prefix_tokens, backbone.pools,
    )  # fmt: skip
    grouped = [name for group in backbone.layers(network) for name in group]
    assert sorted(grouped) == sorted(name for name, _ in network.named_parameters())
    assert len(backbone.layers(network)) >= 4


def test_a_copy_without_weights_is_another_network_and_has_the_same_parts(backbone: Backbone) -> None:
    pretrained, fresh = backbone.load(pretrained=True).state_dict(), backbone.load(pretrained=False).state_dict()
    assert pretrained.keys() == fresh.keys()
    largest = max(fresh, key=lambda name: fresh[name].numel())
    assert not torch.equal(pretrained[largest], fresh[largest])


def test_the_files_hold_half_precision_and_nothing_that_is_not_finite(backbone: Backbone) -> None:
    state = load_file(WEIGHTS / f"{backbone.name}.safetensors")
    floating = [value for value in state.values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float16}
    assert all(value.isfinite().all() for value in floating)


def test_all_files_together_are_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 12 * MIB


def test_every_file_has_a_card_that_names_it_and_the_command_that_made_it(backbone: Backbone) -> None:
    content = (WEIGHTS / f"{backbone.name}.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    card = (WEIGHTS / f"{backbone.name}.md").read_text()
    assert backbone.weights() == f"sha256:{digest}"
    for fact in (
        digest,
        f"python -m tlbench_zoo.pretrain {backbone.name}",
        "Apache-2.0",
        f"{backbone.facts.parameters:,}",
    ):
        assert fact in card
    assert {file.suffix for file in WEIGHTS.iterdir()} == {".safetensors", ".md"}
    assert {file.stem for file in WEIGHTS.iterdir()} == set(NAMES)


def test_an_image_gives_the_same_features_alone_and_in_company(backbone: Backbone) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3)).astype(np.uint8)
    network = backbone.load(pretrained=True)
    together = features(backbone, network, images)
    alone = torch.cat([features(backbone, network, images[index : index + 1]) for index in range(9)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_lost_weights_are_told_in_a_line(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    for call in (backbone.weights, lambda: backbone.load(pretrained=True)):
        with pytest.raises(WeightsError, match=f"zoo/{backbone.name}.*install tlbench again"):
            call()
    assert isinstance(backbone.load(pretrained=False), nn.Module)


def test_pretraining_is_worth_something_on_digits(backbone: Backbone) -> None:
    """A linear probe on ten digits a class, mean of four draws: pretrained against random weights."""
    split = Digits().load(0).train
    labels = torch.tensor(split.labels)
    scores = []
    for pretrained in (True, False):
        pooled = features(backbone, backbone.load(pretrained), np.asarray(split.samples)).clone()
        scores.append(np.mean([probed(pooled, labels, seed) for seed in range(4)]))
    assert scores[0] > scores[1] + 0.03


def probed(pooled: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train = torch.cat([order[labels[order] == digit][:10] for digit in range(10)])
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[train] = False
    (head,) = multinomial(pooled[train], labels[train], [0.1])
    with torch.inference_mode():
        return float((head(pooled[rest]).argmax(1) == labels[rest]).float().mean())


def test_the_shipped_benchmarks_can_be_run_without_a_network() -> None:
    plugins = discover()
    assert {f"zoo/{path.stem}" for path in register_benchmarks()} <= set(Catalog(plugins).benchmarks())
    for path in register_benchmarks():
        benchmark = load_benchmark(path)
        catalog = Catalog(plugins, benchmark)
        backbones = catalog.backbones(benchmark.backbones)
        assert backbones
        assert {catalog.backbone(name).plugin for name in backbones} == {"zoo"}
        assert "basic/scratch" in catalog.strategies(benchmark.strategies)
        assert {catalog.dataset(name).plugin for name in catalog.datasets(benchmark.datasets)} == {"data"}


def test_the_backbones_are_in_the_pool_of_a_search_without_a_list() -> None:
    assert all(ZooBackbone(miniature).default for miniature in MINIATURES)
