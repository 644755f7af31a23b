"""Every family of the lists: its smallest member, random weights, small inputs, one step of three strategies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import checkpoints
import pieces
import tlbench_timm
import tlbench_transformers
from tlbench.catalog import Catalog
from tlbench.components import IMAGE, Backbone, Split
from tlbench.evaluation.complexity import Complexities, complexity, of_backbone
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.model import Classifier, build, shape
from tlbench.evaluation.run import Run, Task
from tlbench.evaluation.train import train
from tlbench.plugins import discover
from tlbench.spaces import Context, Params, resolve
from tlbench.strategies import TrainedStrategy
from tlbench_timm.curated import curated as timm_list
from tlbench_transformers.curated import curated as transformers_list

pytestmark = pytest.mark.long

TIMM_SIZES = {"Inception": 96}
"""Edge of the input in pixels where 64 are too few."""

TIMM_OPTIONS: dict[str, dict[str, Any]] = {
    "VGG": {"mlp_ratio": 0.1},
    **{family: {"depth": 3} for family in ("SigLIP", "CLIP", "BEiT")},
    "MaxViT": {"depths": (1, 1, 2, 1)},
    "Wide ResNet": {"layers": (1, 1, 2, 1)},
}
"""For the builder: what is repeated of the largest is of the same kind. 120 of VGG's 129 million parameters are its
head's."""

POOLINGS = {"MiniLM": "mean", "MPNet": "mean", "BGE": "cls", "E5": "mean", "GTE": "mean"}
"""What sentence encoders publish of their pooling."""

IDS = [f"{index}" for index in range(6)]
LABELS = [0, 1, 2, 0, 1, 2]


def smallest(listed: Iterable[Backbone], entries: Mapping[str, Any]) -> dict[str, str]:
    """The member with the fewest parameters of every family."""
    ordered = sorted(listed, key=lambda backbone: -(backbone.facts.parameters or 0))
    return {entries[backbone.name].family: backbone.name for backbone in ordered if backbone.name in entries}


def timm_backbone(name: str, family: str) -> Backbone:
    size = TIMM_SIZES.get(family, 64)
    base: Backbone = Catalog(discover()).backbone(f"timm/{name}").component
    return base.derive(name="small", weights=None, options=TIMM_OPTIONS.get(family, {}), preprocess={"size": size})


def transformers_backbone(name: str, family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The listed backbone; what the hub's cache holds under its name is a small checkpoint of its architecture."""
    entry = transformers_list()[name]
    made = checkpoints.make(str(entry.facts.architecture), folder / "model")
    if family in POOLINGS:
        checkpoints.write_pooling(made, pooling_mode=POOLINGS[family])
    checkpoints.put(checkpoints.offline(folder / "hub", monkeypatch), entry.repository, made)
    backbone: Backbone = Catalog(discover()).backbone(f"transformers/{name}").component
    return backbone


def samples(backbone: Backbone) -> Prepared:
    generator = np.random.default_rng(0)
    raw: Any
    if backbone.modality == IMAGE:
        raw = generator.integers(0, 255, (6, 40, 40, 3)).astype(np.uint8)
    else:
        raw = [" ".join(generator.choice(checkpoints.WORDS, 3 + index)) for index in range(6)]
    return Prepared(as_part(Split(IDS, LABELS, ("a", "b", "c"), raw), "train"), backbone.preprocess)


def built(backbone: Backbone, params: Params, pretrained: bool) -> Classifier:
    """A model in which gradients reach everything: a fresh residual branch often ends in a gain of 0."""
    model = build(backbone, params, 3, pretrained, 0)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if not parameter.any():
                parameter.fill_(0.1)
    return model


def one_step(
    backbone: Backbone, name: str, pretrained: bool
) -> tuple[Classifier, dict[str, Tensor], Run, TrainedStrategy]:
    """A model after one step with the strategy's defaults, and its parameters before.

    Without weight decay, which moves parameters that no gradient reaches.
    """
    strategy: TrainedStrategy = Catalog(discover()).strategy(f"basic/{name}").component
    context = Context(
        modality=backbone.modality,
        kind=backbone.facts.kind,
        layer_groups=shape(backbone).layer_groups,
        pools=tuple(backbone.pools),
        classes=3,
        train_size=6,
    )
    changes = {"warmup": 0.0, "learning_rate": 1e-2, "batch_size": 6, "weight_decay": 0.0}
    params = resolve(strategy.defaults(context), changes)
    model, prepared = built(backbone, params, pretrained), samples(backbone)
    before = copied(model)
    task = Task(
        strategy=strategy,
        params=params,
        preprocess=backbone.preprocess,
        train=prepared,
        validation=prepared,
        chooses=np.ones(6, bool),
        metric="accuracy",
        classes=3,
        epochs=1,
        seed=0,
        compute=pieces.CPU,
        report=lambda epoch, score: False,
    )
    return model, before, train(model, task), strategy


def copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model: torch.nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Names of parameters that are not what they were; one that was not there counts."""
    now = dict(model.named_parameters())
    return {name for name in now if name not in before or not torch.equal(now[name], before[name])}


@torch.no_grad()
def exact_logits(model: torch.nn.Module, prepared: Prepared, backbone: Backbone) -> Tensor:
    """In float64: a deep network with random weights may grow float32's rounding to a hundredth of its logits."""
    arrays = prepared.arrays(np.arange(6))
    inputs = backbone.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))
    logits: Tensor = model.double().eval()(inputs.double() if isinstance(inputs, Tensor) else inputs)
    return logits


def check_family(backbone: Backbone, pretrained: bool) -> None:
    """The probe leaves the backbone alone, full moves every layer, LoRA adapters alone and merges without a trace.

    And a forward pass is counted whole.
    """
    prepared = samples(backbone)
    frozen = built(backbone, resolve(), pretrained)
    before = copied(frozen)
    views = pieces.features(frozen, list(backbone.pools), prepared, backbone.preprocess)
    probe = Catalog(discover()).strategy("basic/linear-probe").component
    labels = prepared.part.labels
    (head,) = probe.fit(views, torch.from_numpy(labels), [{"pool": "native", "l2": 1e-6}], torch.Generator())
    assert not moved(frozen, before)
    assert (head(views["native"]).argmax(1).numpy() == labels).all(), "six samples are told apart by so many features"

    trained, before, run, _ = one_step(backbone, "full", pretrained)
    changed = moved(trained, before)
    for group in trained.layer_groups:
        assert any(f"backbone.{name}" in changed for name in group), f"nothing moved in {list(group)[:3]}"
    assert np.isfinite(run.curve[0].train_loss or 0.0)

    adapted, _, run, strategy = one_step(backbone, "lora", pretrained)
    assert run.frozen["parameters_changed"] is False
    assert run.frozen["buffers_changed"] is False
    assert run.frozen["parameters_checked"] > 0
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trainable)
    additions = {name for name in trainable if "lora_B" in name}
    reached = {name for name in additions if f"{name.partition('.lora_B')[0]}.weight" in changed}
    assert reached
    assert all(adapted.get_parameter(name).any() for name in reached), "they start at 0: one that is trains in vain"
    logits = exact_logits(adapted, prepared, backbone)
    frozen.head = adapted.head
    effect = float((logits - exact_logits(frozen, prepared, backbone)).abs().max())
    assert effect > 0
    deployed = strategy.deploy(adapted)
    merged = exact_logits(deployed, prepared, backbone)
    torch.testing.assert_close(merged, logits, rtol=0, atol=1e-3 * effect)
    assert deployed.state_dict().keys() == frozen.state_dict().keys()

    counted = complexity(deployed.float(), adapted.example)
    ways = (lambda: of_backbone(backbone, resolve(), 3), lambda: counted)
    assert Complexities().find("family", *ways) == counted, "it counts as much on the meta device, or not there"
    assert counted.macs > 0
    assert counted.unsupported == ()


TIMM = smallest(tlbench_timm.register_backbones(), timm_list())
TRANSFORMERS = smallest(tlbench_transformers.register_backbones(), transformers_list())


@pytest.mark.parametrize("family", TIMM)
def test_a_family_of_timm(family: str) -> None:
    check_family(timm_backbone(TIMM[family], family), pretrained=False)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_family_of_transformers(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_family(transformers_backbone(TRANSFORMERS[family], family, tmp_path, monkeypatch), pretrained=True)
