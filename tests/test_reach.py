"""The reach of freezing: told without training, and the same with weights as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import checkpoints
import tiny
from tlbench.components import Backbone
from tlbench.evaluation import reach as reach_module
from tlbench.evaluation.model import shape
from tlbench.evaluation.reach import reach
from tlbench.spaces import Context
from tlbench.strategies import TrainedStrategy
from tlbench_basic.fine_tuning import FullFineTuning, StartingPointPenalty
from tlbench_basic.lora import Lora
from tlbench_basic.subsets import BiasOnly, NormOnly
from tlbench_basic.unfreezing import GradualUnfreezing, PartialFineTuning
from tlbench_timm.backbone import TimmBackbone
from tlbench_transformers.backbone import TransformersBackbone


def of(backbone: Backbone, strategy: TrainedStrategy, **changes: Any) -> float:
    context = Context(
        modality=backbone.modality,
        kind=backbone.facts.kind,
        layer_groups=shape(backbone).layer_groups,
        pools=tuple(backbone.pools),
        classes=3,
        train_size=10,
    )
    return reach(backbone, strategy, {**strategy.defaults(context), **changes}, 3)


VIT = TimmBackbone("test_vit.r160_in1k")
"""Seven layer groups: patches, six blocks (the last with the norm)."""


@pytest.fixture(params=["meta", "weights"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise NotImplementedError

    if request.param == "weights":
        monkeypatch.setattr(reach_module, "blueprint", fails)


@pytest.mark.usefixtures("_way")
def test_the_share_of_groups_before_the_first_that_trains() -> None:
    assert [of(VIT, PartialFineTuning(), frozen_blocks=frozen) for frozen in (0, 1, 5, 7)] == [0, 1 / 7, 5 / 7, 1]
    assert of(VIT, FullFineTuning()) == 0.0
    assert of(VIT, StartingPointPenalty()) == 0.0
    assert of(VIT, BiasOnly()) == 0.0
    assert of(VIT, NormOnly()) == 1 / 7
    assert of(VIT, Lora()) == 1 / 7
    assert of(TimmBackbone("test_resnet.r160_in1k"), Lora()) == 0.0
    assert of(tiny.Tiny(), tiny.Head()) == 1.0


def test_groups_that_change_reach_nowhere() -> None:
    assert of(VIT, GradualUnfreezing()) == 0.0
    assert of(tiny.Tiny(), tiny.Thaw()) == 0.0


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_texts(model_type: str, tmp_path: Path) -> None:
    """Where no forward pass is possible without weights, too."""
    backbone = TransformersBackbone("here", folder=checkpoints.make(model_type, tmp_path / "model"))
    groups = shape(backbone).layer_groups
    assert of(backbone, Lora()) == 1 / groups
    assert of(backbone, PartialFineTuning(), frozen_blocks=groups - 1) == (groups - 1) / groups
