"""`tlbench export`: a folder that stands by itself, and graphs that compute what the model computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageOps
from safetensors.torch import load_file

import checkpoints
import miniatures
import pieces
import raw
import tiny
from tlbench.cli import main
from tlbench.errors import StoreError
from tlbench.evaluation import exporting, graphs
from tlbench.evaluation.card import card
from tlbench.evaluation.images import ImagePreprocess
from tlbench.evaluation.model import build
from tlbench.evaluation.quiet import silence
from tlbench.evaluation.saved import load_model
from tlbench.evaluation.shipped import SavedModel
from tlbench.samples.pixels import read
from tlbench.spaces import resolve
from tlbench.store import Store

pytestmark = pytest.mark.long

PROBE, LORA = "basic/linear-probe", "basic/lora"
FILES = {"README.md", "model.onnx", "model.pt2", "model.safetensors", "preprocessing.json", "recipe.json"}


def tlbench_(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
        yield raw.run_images(tmp_path_factory.mktemp("images"), PROBE, LORA)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
        yield raw.run_texts(tmp_path_factory.mktemp("texts"), LORA)


def model_of(store: Store, strategy: str) -> Path:
    return store.model_path(raw.finals(store)[strategy].key)


def named(inputs: Any) -> dict[str, np.ndarray]:
    """Inputs as ONNX takes them."""
    if isinstance(inputs, torch.Tensor):
        return {"pixels": inputs.numpy()}
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def check_graphs(folder: Path, samples: list[Any]) -> None:
    """Both graphs, opened as anybody would, agree with the model for one sample and for all."""
    model = load_model(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    for some in (samples[:1], samples[:2], samples):
        arrays = [model.prepared(sample) for sample in some]
        inputs = model.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))
        expected = model.logits(some)
        (found,) = session.run(["logits"], named(inputs))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(program(inputs).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("strategy", [PROBE, LORA])
def test_an_exported_image_model_predicts_as_before(photos: Store, strategy: str, tmp_path: Path) -> None:
    source, to = model_of(photos, strategy), tmp_path / "deep" / "shipped"
    result = tlbench_("export", source, "--to", to)
    assert result.exit_code == 0, result.output
    assert {path.name for path in to.iterdir()} == FILES
    paths = sorted((photos.path.parent / "photos").rglob("*.*"))[:9]
    np.testing.assert_array_equal(load_model(to)(paths), load_model(source)(paths))
    assert not any("lora" in name for name in load_file(to / "model.safetensors"))
    check_graphs(to, paths)
    direct = tlbench_("predict", to, *paths, "--format", "csv").stdout
    assert direct == tlbench_("predict", source, *paths, "--format", "csv").stdout


def test_an_exported_text_model_needs_nothing_else(reviews: Store, tmp_path: Path) -> None:
    """LoRA merged; neither the run nor the checkpoint folder is there any more."""
    texts = ["good", "not very good but long and dull and long again", "a fine film", "bad bad bad"]
    expected = load_model(model_of(reviews, LORA))(texts)
    elsewhere = tmp_path / "run"
    shutil.copytree(reviews.path.parent, elsewhere)
    content = json.loads(
        (elsewhere / "run" / "models" / model_of(reviews, LORA).name).with_suffix(".recipe.json").read_text()
    )
    content["declared"][0]["weights"] = str(elsewhere / "checkpoint")
    file = elsewhere / "run" / "models" / model_of(reviews, LORA).name
    file.with_suffix(".recipe.json").write_text(json.dumps(content))
    assert tlbench_("export", file, "--to", tmp_path / "shipped").exit_code == 0
    shutil.rmtree(elsewhere)
    moved = shutil.move(tmp_path / "shipped", tmp_path / "moved")
    assert {path.name for path in (moved / "backbone").iterdir()} >= {"config.json", "tokenizer.json"}
    assert not list((moved / "backbone").rglob("*.safetensors"))
    np.testing.assert_array_equal(load_model(moved)(texts), expected)
    check_graphs(moved, texts)
    assert str(elsewhere) not in (moved / "recipe.json").read_text()


@pytest.mark.parametrize("repository", ["someone/encoder", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_model_of_the_hub_takes_along_what_describes_it(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed or not: no cache of the hub's is needed where the folder goes."""
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
    with torch.random.fork_rng():
        checkpoints.make("bert", tmp_path / "made")
    checkpoints.write_pooling(tmp_path / "made", pooling_mode_mean_tokens=True)
    cache = checkpoints.offline(tmp_path / "hub", monkeypatch)
    checkpoints.put(cache, repository, tmp_path / "made")
    (tmp_path / "run").mkdir()
    store = raw.run_texts(tmp_path / "run", PROBE, backbone=f"transformers/{repository}")
    texts = ["good", "not very good but long"]
    expected = load_model(model_of(store, PROBE))(texts)
    assert tlbench_("export", model_of(store, PROBE), "--to", tmp_path / "to", "--graphs", "none").exit_code == 0
    shutil.rmtree(cache)
    np.testing.assert_array_equal(load_model(tmp_path / "to")(texts), expected)
    assert tlbench_("export", tmp_path / "to", "--to", tmp_path / "again", "--graphs", "none").exit_code == 0
    np.testing.assert_array_equal(load_model(tmp_path / "again")(texts), expected)


def test_a_fresh_process_says_nothing_but_what_it_wrote(reviews: Store, tmp_path: Path) -> None:
    """Exporters print, log and warn."""
    code = "from tlbench.cli import main; main()"
    command = [sys.executable, "-c", code, "export", str(reviews.path), "--to", str(tmp_path / "to")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1  # which final it is
    assert "best by validation" in done.stderr
    assert len(done.stdout.splitlines()) == len(FILES)
    differences = [line for line in done.stdout.splitlines() if "logits within" in line]
    assert [line.split()[0].rpartition("/")[2] for line in differences] == ["model.onnx", "model.pt2"]


def test_an_export_is_exported_again(photos: Store, tmp_path: Path) -> None:
    """With other files, into the same folder or another, and nothing forgotten."""
    to = tmp_path / "to"
    assert tlbench_("export", model_of(photos, LORA), "--to", to, "--graphs", "none").exit_code == 0
    assert {path.name for path in to.iterdir()} == FILES - {"model.onnx", "model.pt2"}
    recipe = json.loads((to / "recipe.json").read_text())
    assert recipe["result"]["scores"]["test"]["n"] > 0
    assert tlbench_("export", to, "--to", to, "--graphs", "pt2").exit_code == 0
    assert {path.name for path in to.iterdir()} == FILES - {"model.onnx"}
    assert json.loads((to / "recipe.json").read_text()) == recipe
    assert list(tmp_path.iterdir()) == [to]


def test_the_card_says_what_it_is(photos: Store, tmp_path: Path) -> None:
    measurement = raw.finals(photos)[LORA]
    tlbench_("export", model_of(photos, LORA), "--to", tmp_path / "to", "--graphs", "pt2")
    card = (tmp_path / "to" / "README.md").read_text()
    scores = measurement.scores["test"]
    interval = f"[{100 * scores['accuracy_low']:.1f}, {100 * scores['accuracy_high']:.1f}]"
    assert f"**test**, {scores['n']} samples: accuracy {100 * scores['accuracy']:.1f} % {interval}" in card
    for words in (
        "zoo/resnet_mini with basic/lora for mine/data",
        "license: apache-2.0",
        "| licence of the weights | Apache-2.0 |",
        measurement.trial.weights,
        measurement.trial.fingerprint,
        measurement.key,
        "| rank | 8 |",
        "0. blue\n1. green\n2. red",
        "tlbench predict to photos/",
        "| model.pt2 | the model as a graph; logits within ",
        f"| torch | {torch.__version__.partition('+')[0]}",
    ):
        assert words in card


@pytest.mark.parametrize(
    ("fold", "chosen"),
    [(0, "its recipe and epoch were chosen"), (2, "its epoch and, with other folds, its recipe were")],
)
def test_the_card_says_what_its_validation_samples_decided(
    fold: int, chosen: str, photos: Store, tmp_path: Path
) -> None:
    tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "to", "--graphs", "none")
    shipped = load_model(tmp_path / "to")
    assert "fold" in shipped.recipe["trial"]
    recipe = {**shipped.recipe, "trial": {**shipped.recipe["trial"], "fold": fold}}
    assert chosen in card(shipped, recipe, [], "tlbench export", "to")


def test_a_model_without_its_run_has_a_card_too(photos: Store, tmp_path: Path) -> None:
    source = model_of(photos, PROBE)
    for path in (source, source.with_suffix(".recipe.json")):
        shutil.copy(path, tmp_path)
    assert tlbench_("export", tmp_path / source.name, "--to", tmp_path / "to", "--graphs", "none").exit_code == 0
    assert "Not known: the model was exported from outside" in (tmp_path / "to" / "README.md").read_text()
    assert not (tmp_path.parent / "measurements").exists()


def test_the_steps_can_be_followed_without_tlbench(photos: Store, tmp_path: Path) -> None:
    """As preprocessing.json has them for this backbone, with Pillow and numpy alone."""
    tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "to", "--graphs", "onnx")
    described = json.loads((tmp_path / "to" / "preprocessing.json").read_text())
    identity = described["identity"]
    height, width = identity["size"]
    assert described["inputs"] == ["pixels"]
    assert described["class_names"] == list(raw.CLASSES)
    path = raw.draw(tmp_path / "x.jpg", 2, 1)
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    covered = int(height / identity["crop"])
    ratio = min(image.height, image.width) / covered
    size = tuple(covered if edge == min(image.size) else int(edge / ratio) for edge in image.size)
    image = image.resize(size, Image.Resampling[identity["interpolation"].upper()])
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    pixels = (pixels - np.float32(identity["mean"])) / np.float32(identity["std"])
    session = onnxruntime.InferenceSession(tmp_path / "to" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    np.testing.assert_allclose(logits, load_model(tmp_path / "to").logits([path]), atol=1e-4)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_every_preprocessing_has_words(mode: str) -> None:
    made = ImagePreprocess(size=(32, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop=0.8, crop_mode=mode)
    words = " ".join(made.in_words)
    assert "40 x 30 pixels" in words
    assert "[0.5, 0.4, 0.3]" in words
    assert "EXIF" in words
    assert "max 32" not in " ".join(miniatures.TEXTS.in_words)
    assert "keep 32 tokens" in " ".join(miniatures.TEXTS.in_words)


def shipped(backbone: Any, **changes: Any) -> SavedModel:
    """A fitted-looking model of a backbone, its head random."""
    model = build(backbone, resolve({"pool": "native"}, changes), 3, True, 0).eval()
    recipe = {"class_names": list(miniatures.CLASSES)}
    return SavedModel(model, backbone.preprocess, backbone.modality, recipe)


EXPORTED = [
    *((kind, "linear") for kind in sorted(miniatures.BUILDERS)),
    *((kind, "attention") for kind in ("resnet", "vit", "bert")),
]
"""Every kind of backbone; the head that takes unpooled features on maps, on patches and on tokens with a mask."""


@pytest.mark.parametrize(("kind", "head"), EXPORTED)
def test_every_kind_of_backbone_and_of_features_is_exported(kind: str, head: str, tmp_path: Path) -> None:
    made = graphs.write_graphs(shipped(miniatures.Miniature(kind), head=head), tmp_path, [graphs.ONNX, graphs.PT2])
    assert [graph.problem for graph in made] == [None, None]
    assert all(graph.logits is not None and graph.logits <= 1e-4 for graph in made)


def test_a_graph_that_disagrees_is_removed(photos: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = graphs._write_pt2

    def off(*arguments: Any) -> Any:
        run = write(*arguments)
        return lambda inputs: run(inputs) + np.float32([0.01, 0, 0])

    monkeypatch.setitem(graphs._WRITERS, graphs.PT2, off)  # type: ignore[arg-type]
    result = tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "to", "--graphs", "pt2")
    assert result.exit_code == 1
    assert "tlbench: error: model.pt2 was not written: it disagrees with the model: logits by 1.0e-02" in result.stderr
    assert {path.name for path in (tmp_path / "to").iterdir()} == FILES - {"model.onnx", "model.pt2"}
    assert "was not written: it disagrees" in (tmp_path / "to" / "README.md").read_text()
    load_model(tmp_path / "to")


class _Stubborn(tiny.Net):
    """Decides by its pixels, which no graph can."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward_features(x) if float(x.sum()) > 0 else super().forward_features(-x)


def test_an_architecture_that_cannot_be_exported_is_one_line(
    photos: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = pieces.model().eval()
    model.backbone.__class__ = _Stubborn
    of = SavedModel(model, tiny.Tiny().preprocess, "image", {"class_names": list(miniatures.CLASSES)})
    made = graphs.write_graphs(of, tmp_path, [graphs.ONNX, graphs.PT2])
    for graph in made:
        assert graph.problem is not None
        assert graph.problem.startswith("this architecture cannot be exported: ")
        assert "\n" not in graph.problem
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []

    def fails(*_: Any) -> Any:
        raise RuntimeError("no such operator\nand a long report")

    monkeypatch.setitem(graphs._WRITERS, graphs.ONNX, fails)  # type: ignore[arg-type]
    result = tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "to")
    assert result.exit_code == 1
    problem = "this architecture cannot be exported: RuntimeError: no such operator"
    assert result.stderr == f"tlbench: error: model.onnx was not written: {problem}\n"
    assert {path.name for path in (tmp_path / "to").iterdir()} == FILES - {"model.onnx"}


def test_without_the_extra_the_rest_is_written(photos: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graphs.REQUIRED, graphs.ONNX, ("onnx", "no_such_library"))  # type: ignore[arg-type]
    result = tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "to", "--graphs", "onnx")
    assert result.exit_code == 0
    assert result.stderr == "tlbench: model.onnx is left out: it needs no_such_library (pip install 'tlbench[onnx]')\n"
    assert {path.name for path in (tmp_path / "to").iterdir()} == FILES - {"model.onnx", "model.pt2"}


def test_a_folder_with_other_content_is_left_alone(photos: Store, tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / "thesis.txt").write_text("years of work")
    result = tlbench_("export", model_of(photos, PROBE), "--to", to)
    assert result.exit_code == 2
    assert f"the folder {to} holds 'thesis.txt': give one that is new, empty" in result.stderr
    (to / "thesis.txt").unlink()
    assert tlbench_("export", model_of(photos, PROBE), "--to", to, "--graphs", "none").exit_code == 0
    before = (to / "recipe.json").read_bytes()
    result = tlbench_("export", model_of(photos, LORA), "--to", to)
    assert result.exit_code == 2
    assert "holds another model" in result.stderr
    assert (to / "recipe.json").read_bytes() == before
    (tmp_path / "file").touch()
    assert "is a file" in tlbench_("export", model_of(photos, PROBE), "--to", tmp_path / "file").stderr


def test_a_folder_is_written_whole_or_not_at_all(
    photos: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "card", full)
    with pytest.raises(StoreError, match=r"cannot write the folder '.*': No space left on device"):
        exporting.export(model_of(photos, PROBE), tmp_path / "to", [], command="")
    assert list(tmp_path.iterdir()) == []


def test_what_is_silenced_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    with silence():
        sys.stdout.write("a")
        os.write(1, b"b")
        os.write(2, b"c")
    sys.stdout.write("d\n")
    os.write(2, b"e")
    assert capfd.readouterr() == ("d\n", "e")


def test_images_of_the_user_are_what_data_sets_read(tmp_path: Path) -> None:
    path = raw.draw(tmp_path / "x.jpg", 1, 1)
    assert np.array_equal(shipped(tiny.Tiny()).prepared(path), tiny.Tiny().preprocess.prepare(read(path)))
