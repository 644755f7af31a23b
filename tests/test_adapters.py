"""Adapters: LoRA kept alone, merged on demand, and refused on weights that are not its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import pieces
import raw
from tlbench.catalog import Catalog
from tlbench.errors import StoreError, TlbenchError
from tlbench.evaluation.adapters import Adapter, Shipment, restore
from tlbench.evaluation.saved import load_model
from tlbench.evaluation.shipped import SavedModel
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.lora import Lora

LORA, FULL, SP = "basic/lora", "basic/full", "basic/l2-sp"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
        yield raw.run_texts(tmp_path_factory.mktemp("texts"), LORA, FULL, SP)


@pytest.fixture
def copied(finished: Store, tmp_path: Path) -> Path:
    """A copy of the adapter, to be harmed."""
    key = raw.finals(finished)[LORA].key
    for path in (finished.model_path(key), finished.recipe_path(key)):
        shutil.copy(path, tmp_path)
    return tmp_path / f"{key}.safetensors"


def recipe(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.with_suffix(".recipe.json").read_text())
    return content


def check_predictions(store: Store, strategy: str, model: SavedModel) -> None:
    """The model says of the table's texts what the run stored."""
    measurement = raw.finals(store)[strategy]
    ids, predicted, logits = raw.stored(store, measurement)
    entry = Catalog(discover()).dataset("data/texts").component
    held = entry.derive(name="mine/data", path=store.path.parent / "reviews.csv", options={}).load(0).train
    texts = dict(zip(held.ids, (held[index] for index in range(len(held))), strict=True))
    found = model.logits([texts[name] for name in ids])
    assert found.argmax(1).tolist() == predicted.tolist()
    np.testing.assert_allclose(found, logits, atol=raw.tolerance(logits))


def test_only_what_differs_is_stored(finished: Store) -> None:
    path = finished.model_path(raw.finals(finished)[LORA].key)
    tensors = load_file(path)
    assert all("lora_" in name or name.startswith("head.") for name in tensors)
    assert any("lora_" in name for name in tensors)
    needed = recipe(path)["adapter"]
    assert needed["weights"] == recipe(path)["trial"]["weights"]
    whole = finished.model_path(raw.finals(finished)[FULL].key)
    assert path.stat().st_size < whole.stat().st_size / 2


def test_a_strategy_that_merges_nothing_away_is_stored_whole(finished: Store) -> None:
    """L2-SP defines `deploy` and changes every weight."""
    for strategy in (FULL, SP):
        path = finished.model_path(raw.finals(finished)[strategy].key)
        assert recipe(path)["adapter"] is None
        assert len(load_file(path)) > 40
        check_predictions(finished, strategy, load_model(path))


def test_the_merged_model_predicts_what_the_run_did(finished: Store) -> None:
    model = load_model(finished.model_path(raw.finals(finished)[LORA].key))
    assert not any("lora" in name for name, _ in model.model.named_modules())
    check_predictions(finished, LORA, model)


def test_other_weights_are_refused(finished: Store, copied: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished.path.parent / "checkpoint", tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1}, other / "model.safetensors", {"format": "pt"})
    content = recipe(copied)
    content["declared"][0]["weights"] = str(other)
    copied.with_suffix(".recipe.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"is an adapter for the weights sha256:.* of 'mine/encoder', and those here"):
        load_model(copied)


def test_weights_that_only_claim_to_be_the_same_are_refused(copied: Path) -> None:
    content = recipe(copied)
    content["adapter"]["left_out"] = "0" * 64
    copied.with_suffix(".recipe.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="pretrained tensors have other names or values"):
        load_model(copied)


def test_weights_that_are_gone_are_named(finished: Store, copied: Path, tmp_path: Path) -> None:
    content = recipe(copied)
    content["declared"][0]["weights"] = str(tmp_path / "gone")
    copied.with_suffix(".recipe.json").write_text(json.dumps(content))
    with pytest.raises(TlbenchError, match="gone"):
        load_model(copied)


def test_another_version_of_the_strategy_is_refused(copied: Path) -> None:
    content = recipe(copied)
    content["trial"]["strategy"]["version"] += 1
    copied.with_suffix(".recipe.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="adapter of version 2 of 'basic/lora', which has version 1 now"):
        load_model(copied)


@pytest.mark.parametrize("harm", ["extra", "lacking", "shape"])
def test_tensors_that_do_not_fit_are_refused(copied: Path, harm: str) -> None:
    tensors = load_file(copied)
    name = next(name for name in tensors if "lora_" in name)
    if harm == "extra":
        tensors["backbone.model.other"] = torch.zeros(1)
    elif harm == "shape":
        tensors[name] = torch.zeros(2, 2)
    else:
        del tensors[name]
    save_file(tensors, copied)
    with pytest.raises(StoreError, match="is an adapter that 'mine/encoder' as it is here does not fit"):
        load_model(copied)


class _Gate(TrainedStrategy):
    """A strategy of somebody else's that merges: a frozen random projection and a trained gate."""

    name = "gate"
    summary = "an addition with a random part that does not train"

    def defaults(self, context: Any) -> dict[str, Any]:
        return {}

    def space(self, trial: Any, context: Any) -> dict[str, Any]:
        return {}

    def adapt(self, model: Any, params: Any) -> list[ParameterGroup]:
        model.backbone.register_buffer("random", torch.randn(16))
        model.backbone.gate = nn.Parameter(torch.zeros(16))
        return [ParameterGroup([model.backbone.gate, *model.head.parameters()])]

    def deploy(self, model: Any) -> nn.Module:
        module: nn.Module = model
        return module


def test_what_is_random_is_kept_whether_it_trains_or_not() -> None:
    """Drawn anew by another version of torch it would be another."""
    model = pieces.model()
    shipment = Shipment(_Gate(), model)
    _Gate().adapt(model, {})
    with torch.no_grad():
        model.get_parameter("backbone.gate").add_(0.5)  # as if trained
    adapter = shipment.adapter
    assert adapter is not None
    assert {"backbone.random", "backbone.gate"} < adapter.tensors.keys()
    rebuilt = pieces.model()
    _Gate().adapt(rebuilt, {})
    restore(rebuilt, adapter)
    assert torch.equal(rebuilt.state_dict()["backbone.random"], model.state_dict()["backbone.random"])


def test_an_adapter_on_another_backbone_is_refused() -> None:
    model = pieces.model()
    shipment = Shipment(_Gate(), model)
    _Gate().adapt(model, {})
    adapter = shipment.adapter
    assert adapter is not None
    other = pieces.model()
    _Gate().adapt(other, {})
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1)
    with pytest.raises(ValueError, match="pretrained tensors have other"):
        restore(other, adapter)
    strange = Adapter(tensors={**adapter.tensors, "more": torch.zeros(1)}, left_out=adapter.left_out)
    with pytest.raises(ValueError, match="has no 'more'"):
        restore(other, strange)


def test_what_trains_from_scratch_has_nothing_to_leave_out() -> None:
    class Anew(_Gate):
        pretrained = False

    assert Shipment(Anew(), pieces.model()).adapter is None
    assert Shipment(Lora(), pieces.model()).adapter is not None  # an untrained one: the head alone
