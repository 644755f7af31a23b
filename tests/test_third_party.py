"""A third party's plugin: found when it is installed, listed without its weights, right with them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tlbench.catalog import Catalog
from tlbench.components import Backbone
from tlbench.errors import WeightsError
from tlbench.plugins import discover

NAMES = [
    "coral/mobilenetv1_025_128",
    "coral/mobilenetv1_050_160",
    "coral/mobilenetv1_075_192",
    "coral/mobilenetv2_100_224",
    "coral/mobilenetv2_100_224_inatbird",
]


@pytest.fixture
def backbones(coral: Path) -> dict[str, Backbone]:
    catalog = Catalog(discover())
    return {name: catalog.backbone(name).component for name in NAMES}


def test_it_is_listed_with_its_distribution(coral: Path) -> None:
    plugin = discover().active["coral"]
    assert (plugin.distribution, plugin.distribution_version) == ("tlbench-coral", "1.0")
    assert [f"coral/{name}" for name in plugin.components["backbone"]] == NAMES


def test_without_the_folder_the_error_says_what_to_set(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = backbones[NAMES[0]]
    monkeypatch.delenv("TLBENCH_REAL_DATA", raising=False)
    with pytest.raises(WeightsError, match=r"TLBENCH_REAL_DATA, which is not set"):
        backbone.weights()
    monkeypatch.setenv("TLBENCH_REAL_DATA", str(tmp_path))
    with pytest.raises(WeightsError, match=r"no weights of 'mobilenetv1_025_128' at .*put them there"):
        backbone.load(pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_facts_agree_with_the_module(backbones: dict[str, Backbone], name: str) -> None:
    import torch

    backbone = backbones[name]
    with torch.device("meta"):
        module = backbone.load(pretrained=True)
    names = [parameter for layer in backbone.layers(module) for parameter in layer]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    assert sum(parameter.numel() for parameter in module.parameters()) == backbone.facts.parameters


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_the_file(backbones: dict[str, Backbone], name: str, real_data: Path) -> None:
    import torch
    from safetensors.torch import load_file

    file = real_data / "weights" / f"{name.partition('/')[2]}.safetensors"
    assert backbones[name].weights() == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    state, expected = backbones[name].load(pretrained=True).state_dict(), load_file(file)
    left_out = expected.keys() - state.keys()
    assert left_out == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in state.items())
    assert {tensor.dtype for tensor in state.values()} <= {torch.float32, torch.int64}


def test_pretrained_features_tell_classes_apart(backbones: dict[str, Backbone], real_data: Path) -> None:
    """A wrong normalisation or a tensor in the wrong place would leave these features close to useless."""
    import numpy as np
    import torch
    from PIL import Image
    from sklearn.linear_model import LogisticRegression

    backbone = backbones["coral/mobilenetv1_075_192"]
    module: Any = backbone.load(pretrained=True).eval()

    def features(split: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
        folders = sorted((real_data / "cifar10-small" / split).iterdir())
        files = [file for folder in folders for file in sorted(folder.iterdir())[:per_class]]
        arrays = [backbone.preprocess.prepare(np.array(Image.open(file).convert("RGB"))) for file in files]
        with torch.inference_mode():
            inputs = backbone.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))
            pooled = module.forward_head(module.forward_features(inputs), pre_logits=True)
        return pooled.numpy(), np.repeat(np.arange(len(folders)), per_class)

    probe = LogisticRegression(max_iter=1000).fit(*features("train", 20))
    assert probe.score(*features("test", 10)) > 0.5


BENCHMARK = """
backbones = ["coral/mobilenetv1_025_128"]
strategies = ["basic/linear-probe", "basic/full"]
datasets = ["mine/photos"]
seeds = [0]
[search]
trials = 2
epochs = 1
[device]
kind = "cpu"
threads = 1
[[dataset]]
name = "mine/photos"
base = "data/images"
path = "photos"
shots = 10
"""


def test_a_whole_run_on_real_photos(coral: Path, real_data: Path, tmp_path: Path) -> None:
    """From the file to a ranked leaderboard and models that load, with a backbone that only the plugin knows."""
    import tlbench
    from tlbench.store import Store

    for split, count in (("train", 25), ("test", 10)):
        for folder in sorted((real_data / "cifar10-small" / split).iterdir()):
            linked = tmp_path / "photos" / split / folder.name
            linked.mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (linked / file.name).symlink_to(file)
    (tmp_path / "real.toml").write_text(BENCHMARK)
    frame = tlbench.run_benchmark(tmp_path / "real.toml", tmp_path / "out")
    assert frame["state"].tolist() == ["final"] * 4
    assert sorted(frame["strategy"]) == ["basic/full", "basic/linear-probe", "controls/majority", "controls/pixel-svm"]
    assert frame["test_n"].tolist() == [100] * 4
    scores = frame.set_index("strategy")["test"]
    assert scores["basic/linear-probe"] > 0.25
    assert scores["basic/linear-probe"] > scores["controls/pixel-svm"] > scores["controls/majority"] == 0.1
    frame = frame[frame["backbone"] != "none"]

    store = Store(tmp_path / "out" / "real")
    for result in (store.get(key) for key in frame["key"]):
        assert result is not None
        assert result.trial.weights.startswith("sha256:")
        assert result.provenance["plugins"]["backbone"]["distribution"] == "tlbench-coral"
        assert result.counts["train"] == 100
        assert result.frozen["parameters_changed"] is result.frozen["buffers_changed"] is False
        model = tlbench.load_model(store.model_path(result.key))
        rows = store.predictions(result.key)
        assert rows is not None
        tested = [(name, label) for name, label in zip(rows.sample_id, rows.predicted, strict=True) if "test/" in name]
        photo = tmp_path / "photos" / tested[0][0]
        assert model([_pixels(photo)]).argmax() == tested[0][1]


def _pixels(file: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.array(Image.open(file).convert("RGB"))
