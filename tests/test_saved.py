"""Saved models: the same classifier in another process, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import raw
import tiny
from tlbench.benchmark import Benchmark, load_benchmark
from tlbench.catalog import Catalog
from tlbench.components import Dataset
from tlbench.errors import DataError, StoreError, UnknownNameError
from tlbench.evaluation.predict import BLOCK
from tlbench.evaluation.saved import load_model
from tlbench.executors import local
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.samples.pixels import read
from tlbench.store import Store

BENCHMARK = """
backbones = ["tiny/net", "mine/resnet", "mine/smaller"]
strategies = ["basic/full", "basic/linear-probe", "basic/scratch"]
datasets = ["tiny/blobs"]
seeds = [0]
[search]
trials = 1
epochs = 1
[device]
kind = "cpu"
threads = 1
[[backbone]]
name = "mine/resnet"
base = "timm/test_resnet"
weights = "{weights}"
preprocess = {{ size = 32, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }}
[[backbone]]
name = "mine/smaller"
base = "timm/test_resnet"
weights = "{weights}"
preprocess = {{ size = 24, mean = [0.4, 0.4, 0.4], std = [0.25, 0.25, 0.25] }}
[[strategy]]
name = "basic/full"
fixed = {{ pool = "native", batch_norm = "training" }}
"""

# Loads each model and writes its probabilities for the test split, in the order of ids.
FRESH = """
import json, sys
import numpy as np
import tlbench
from tlbench.catalog import Catalog
from tlbench.plugins import discover
from tlbench.samples.pixels import read

split = Catalog(discover()).dataset("tiny/blobs").component.load_test(0)
order = sorted(range(len(split)), key=split.ids.__getitem__)
found = {}
for path in sys.argv[1:]:
    model = tlbench.load_model(path)
    found[path] = {"classes": model.class_names, "probabilities": model([split[i] for i in order]).tolist()}
print(json.dumps(found))
"""


@pytest.fixture
def finished(tiny_plugin: object, tmp_path: Path) -> tuple[Benchmark, Store]:
    """A run over a plugin's backbone and two declared ones."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        import timm

        network = timm.create_model("test_resnet", pretrained=False)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    file = tmp_path / "saved.toml"
    file.write_text(BENCHMARK.format(weights=tmp_path / "net.safetensors"))
    benchmark = load_benchmark(file)
    local.run(benchmark, tmp_path / "out")
    (tmp_path / "net.safetensors").unlink()  # a saved model needs no other weights
    return benchmark, Store(tmp_path / "out")


def finals(store: Store) -> list[Measurement]:
    return [result for result in store.measurements() if result.trial.stage == "final"]


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).float().softmax(1).numpy()


def test_a_fresh_process_gives_the_same_probabilities(finished: tuple[Benchmark, Store]) -> None:
    _, store = finished
    results = finals(store)
    assert len(results) == 9
    assert {result.status for result in results} == {"complete"}
    paths = [str(store.model_path(result.key)) for result in results]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", dedent(FRESH), *paths]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(ran.stdout)
    for result, path in zip(results, paths, strict=True):
        rows = store.predictions(result.key)
        assert rows is not None
        test = np.array(rows.split) == "test"
        probabilities = np.array(loaded[path]["probabilities"])
        assert loaded[path]["classes"] == ["red", "green", "blue"]
        assert probabilities.shape == (60, 3)
        assert (probabilities.argmax(1) == rows.predicted[test]).all()
        # Logits are stored as float16: eleven bits, so that a logit of 4 is off by up to 0.002.
        logits = rows.logits[test].astype(np.float32)
        tolerance = 1e-5 + np.abs(logits).max() * 2**-11
        np.testing.assert_allclose(probabilities, softmax(logits), atol=tolerance)


def test_the_declared_backbone_brings_its_preprocessing(finished: tuple[Benchmark, Store]) -> None:
    _, store = finished
    for result in finals(store):
        if result.trial.backbone.name == "mine/smaller":
            model = load_model(store.model_path(result.key))
            assert model.preprocess.identity["size"] == [24, 24]
            assert model.preprocess.identity["mean"] == [0.4, 0.4, 0.4]


@pytest.fixture
def saved(tiny_plugin: object, tmp_path: Path) -> Path:
    """One saved model of a search trial."""
    file = tmp_path / "one.toml"
    text = 'backbones = ["tiny/net"]\nstrategies = ["tiny/full"]\ndatasets = ["tiny/blobs"]\nseeds = [0]\n'
    file.write_text(text + "[search]\ntrials = 1\nepochs = 1\n[device]\nkind = 'cpu'\nthreads = 1\n")
    local.run(load_benchmark(file), tmp_path / "one")
    store = Store(tmp_path / "one")
    return store.model_path(finals(store)[0].key)


def test_probabilities_are_exact_within_a_process(saved: Path) -> None:
    """To 1e-5 against a forward pass by hand, one by one or together."""
    model = load_model(str(saved))
    split = tiny.Blobs().load_test(0)
    images = [split[index] for index in range(9)]
    together = model(images)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([model([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    inputs = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255.0 for image in images])
    by_hand = model.model((inputs - 0.5) / 0.5).softmax(1).detach().numpy()
    np.testing.assert_allclose(together, by_hand, atol=1e-5)
    assert not model.model.training


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ("photo.jpg", "a sequence of samples is needed, not a single str"),
        (["photo.jpg"], "sample 0: photo.jpg does not decode: cannot be read: No such file"),
        (np.zeros((8, 8, 3), np.uint8), r"is needed, not uint8 \[8, 3\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 4), np.uint8)], r"sample 1: .*, not uint8 \[8, 8, 4\]"),
        ([np.zeros((8, 8, 3))], "is needed, not float64"),
    ],
)
def test_what_is_no_raw_sample_is_refused(saved: Path, samples: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        load_model(saved)(samples)


def test_no_samples_have_no_probabilities(saved: Path) -> None:
    assert load_model(saved)([]).shape == (0, 3)


def test_a_model_can_be_moved_with_its_recipe(saved: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "shipped"
    elsewhere.mkdir()
    for path in (saved, saved.with_suffix(".recipe.json")):
        shutil.copy(path, elsewhere)
    image = tiny.Blobs().load_test(0)[0]
    assert np.array_equal(load_model(elsewhere / saved.name)([image]), load_model(saved)([image]))


def test_the_recipe_says_what_was_trained(saved: Path) -> None:
    recipe = load_model(saved).recipe
    assert recipe["trial"]["backbone"] == {"name": "tiny/net", "version": 1}
    assert recipe["trial"]["params"]["learning_rate"] == 3e-3


def _edit(path: Path, **changes: Any) -> None:
    recipe = json.loads(path.with_suffix(".recipe.json").read_text())
    recipe.update(changes)
    path.with_suffix(".recipe.json").write_text(json.dumps(recipe))


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tensors": (lambda path: path.unlink(), r"no saved model at .*\.safetensors"),
    "no recipe": (lambda path: path.with_suffix(".recipe.json").unlink(), r"no saved model at .*recipe\.json"),
    "tensors cut short": (lambda path: path.write_bytes(path.read_bytes()[:100]), "does not fit its recipe"),
    "no safetensors": (lambda path: path.write_bytes(b"PK\x03\x04 something else"), "does not fit its recipe"),
    "empty": (lambda path: path.write_bytes(b""), "does not fit its recipe"),
    "another model's": (lambda path: save_file({"x": torch.zeros(1)}, path), "does not fit its recipe"),
    "a recipe cut short": (lambda path: path.with_suffix(".recipe.json").write_text('{"trial": {'), "is damaged"),
    "an empty recipe": (lambda path: path.with_suffix(".recipe.json").write_text("{}"), "is damaged"),
    "a list": (lambda path: path.with_suffix(".recipe.json").write_text("[]"), "is damaged"),
    "more classes": (lambda path: _edit(path, class_names=["a", "b", "c", "d"]), "does not fit its recipe"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_missing_or_damaged_is_refused(saved: Path, case: str) -> None:
    harm, message = BREAKS[case]
    harm(saved)
    with pytest.raises(StoreError, match=message):
        load_model(saved)


def test_a_preprocessing_that_changed_since_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silently fed with other pixels, the model would be worse and nobody would know why."""
    trial = json.loads(saved.with_suffix(".recipe.json").read_text())["trial"]
    trial["preprocess"]["mean"] = [0.4, 0.4, 0.4]
    _edit(saved, trial=trial)
    with pytest.raises(StoreError, match="another preprocessing than 'tiny/net' has now"):
        load_model(saved)


def test_a_plugin_that_is_gone_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "tiny")
    with pytest.raises(UnknownNameError, match=r"no backbone 'tiny/net'.*TLBENCH_DISABLE_PLUGINS"):
        load_model(saved)


def test_saved_predictions_are_those_of_the_data_set(saved: Path) -> None:
    """The class names are the data set's, in its order."""
    component: Dataset = Catalog(discover()).dataset("tiny/blobs").component
    assert load_model(saved).class_names == tuple(component.load_test(0).class_names)


def test_files_and_pillow_images_are_read_as_data_sets_read_them(saved: Path, tmp_path: Path) -> None:
    """Turned as EXIF says, white where transparent."""
    model = load_model(saved)
    paths = [raw.draw(tmp_path / f"{number}.jpg", number % 3, number) for number in range(8)]
    arrays = [read(path) for path in paths]
    expected = model(arrays)
    assert np.array_equal(model(paths), expected)
    assert np.array_equal(model([str(path) for path in paths]), expected)
    images = [Image.open(path) for path in paths]
    assert np.array_equal(model(images), expected)
    for image in images:
        image.close()
    with pytest.raises(DataError, match="not a single PngImageFile"), Image.open(paths[0]) as image:
        model(image)  # type: ignore[arg-type]


def test_images_that_do_not_decode_are_refused(saved: Path, tmp_path: Path) -> None:
    whole = raw.draw(tmp_path / "whole.jpg", 0, 1)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-400])
    model = load_model(saved)
    with pytest.raises(DataError, match=r"sample 1: .*cut.jpg does not decode: .*truncated"):
        model([whole, cut])
    with pytest.raises(DataError, match=r"sample 0: the image does not decode: .*truncated"), Image.open(cut) as image:
        model([image])


def test_any_number_of_samples_is_predicted_in_blocks(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for later is not decoded yet: memory does not grow with the number of samples."""
    model = load_model(saved)
    split = tiny.Blobs().load_test(0)
    taken = []

    def samples() -> Iterator[Any]:
        for index in range(600):
            taken.append(index)
            yield split[index % len(split)]

    outcomes = model.outcomes(samples())
    first = next(outcomes)
    assert len(taken) == BLOCK
    assert isinstance(first, np.ndarray)
    np.testing.assert_allclose(first, model.logits([split[0]])[0], atol=1e-5)
    rest = list(outcomes)
    assert len(rest) == 599
    np.testing.assert_allclose(rest[-1], model.logits([split[599 % len(split)]])[0], atol=1e-5)


def test_what_cannot_be_predicted_does_not_stop_the_rest(saved: Path, tmp_path: Path) -> None:
    model, image = load_model(saved), tiny.Blobs().load_test(0)[0]
    outcomes = list(model.outcomes([image, tmp_path / "none.png", 3, image]))
    assert [type(outcome) for outcome in outcomes] == [np.ndarray, DataError, DataError, np.ndarray]
    assert np.array_equal(outcomes[0], outcomes[3])


def test_a_model_from_before_adapters_is_loaded(saved: Path) -> None:
    """Recipes had no word of adapters."""
    recipe = json.loads(saved.with_suffix(".recipe.json").read_text())
    del recipe["adapter"]
    saved.with_suffix(".recipe.json").write_text(json.dumps(recipe))
    assert load_model(saved)([tiny.Blobs().load_test(0)[0]]).shape == (1, 3)
