"""The plugin `controls`: baselines against what they stand for, on real digits, photographs and texts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from tlbench.components import IMAGE, TEXT
from tlbench.errors import BenchmarkError
from tlbench.plugins import discover
from tlbench.spaces import Context
from tlbench.strategies import ControlStrategy
from tlbench_controls.majority import Majority
from tlbench_controls.pixels import PixelSvm, first_of_each
from tlbench_controls.words import Tfidf

CONTEXT = Context(modality=IMAGE, kind=None, layer_groups=1, pools=("native",), classes=10, train_size=1000)
CONTROLS: list[ControlStrategy] = [Majority(), PixelSvm(), Tfidf()]
every_control = pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)


def digits(classes: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Real digits as uint8 RGB images of 8 x 8 pixels."""
    images, labels = load_digits(n_class=classes, return_X_y=True)
    grey = (images.reshape(-1, 8, 8, 1) * 15).astype(np.uint8)
    return list(np.repeat(grey, 3, axis=3)), labels.astype(np.int64)


def sentences(classes: int) -> tuple[list[str], np.ndarray]:
    """Texts that name their class, among other words."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=200)
    fillers = generator.integers(50, size=(200, 5))
    return [f"filler{a} topic{label} filler{b}" for label, (a, b, *_) in zip(labels, fillers, strict=True)], labels


def samples(control: ControlStrategy, classes: int) -> tuple[list[Any], np.ndarray]:
    """200 samples that suit a control."""
    found, labels = digits(classes) if control.name == "pixel-svm" else sentences(classes)
    return found[:200], labels[:200]


def logits(
    control: ControlStrategy, train: Sequence[Any], labels: np.ndarray, others: Sequence[Any], **changes: Any
) -> np.ndarray:
    """Of other samples, by a control that learnt from `train`."""
    params = {**control.defaults(CONTEXT), **changes}
    arrays = [control.prepare(sample) for sample in train]
    score = control.fit(arrays, labels, int(labels.max()) + 1, params, 0)
    return score([control.prepare(sample) for sample in others])


def accuracy(found: np.ndarray, labels: np.ndarray) -> float:
    return float((found.argmax(1) == labels).mean())


def sst2(folder: Path, part: str, most: int | None = None) -> tuple[list[str], np.ndarray]:
    with (folder / "sst2" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:most]
    return [row["text"] for row in rows], np.array([row["label"] == "positive" for row in rows], dtype=np.int64)


# All controls


def test_the_plugin_registers_its_controls() -> None:
    (plugin,) = (plugin for plugin in discover().active.values() if plugin.name == "controls")
    found: dict[str, Any] = dict(plugin.components["strategy"])
    assert all(isinstance(control, ControlStrategy) for control in found.values())
    modalities = {name: control.modalities for name, control in found.items()}
    assert modalities == {"majority": None, "pixel-svm": {IMAGE}, "tfidf": {TEXT}}


@every_control
def test_every_suggestion_can_be_fitted_and_the_default_lies_in_the_space(control: ControlStrategy) -> None:
    train, labels = samples(control, 3)
    defaults = control.defaults(CONTEXT)
    for seed in range(5):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        suggested = control.space(trial, CONTEXT)
        assert suggested.keys() == defaults.keys()
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(defaults[name]))
        assert np.isfinite(logits(control, train, labels, train[:7], **suggested)).all()


@every_control
@pytest.mark.parametrize("classes", [2, 5])
def test_finite_logits_for_every_class(control: ControlStrategy, classes: int) -> None:
    train, labels = samples(control, classes)
    found = logits(control, train, labels, train)
    assert found.shape == (200, classes)
    assert np.isfinite(found).all()
    assert found.dtype == np.float64
    assert logits(control, train, labels, []).shape == (0, classes)
    assert control.name == "majority" or accuracy(found, labels) > 0.95


@every_control
def test_the_same_question_has_the_same_answer(control: ControlStrategy) -> None:
    train, labels = samples(control, 5)
    one, two = (logits(control, train, labels, train) for _ in range(2))
    assert np.array_equal(one, two)


@every_control
def test_samples_are_scored_one_by_one(control: ControlStrategy) -> None:
    train, labels = samples(control, 5)
    together = logits(control, train, labels, train[:5])
    alone = [logits(control, train, labels, [sample])[0] for sample in train[:5]]
    np.testing.assert_allclose(together, alone, atol=1e-12)


# Majority


def test_majority_has_the_majoritys_accuracy() -> None:
    labels = np.array([2] * 50 + [0] * 30 + [1] * 20)
    found = logits(Majority(), [""] * 100, labels, ["anything"] * 100)
    assert accuracy(found, labels) == 0.5
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0)
    np.testing.assert_allclose(np.exp(found[0]), [31 / 103, 21 / 103, 51 / 103])


def test_majority_takes_samples_of_any_kind() -> None:
    assert Majority().modalities is None
    for sample in ("text", np.zeros((2, 2, 3), np.uint8), {"a": 1}, None):
        assert Majority().prepare(sample).nbytes == 0


# Pixels


def test_pixels_tell_digits_apart() -> None:
    """0.983 where this was written."""
    images, labels = digits(10)
    held_out = np.arange(len(labels)) % 5 == 0
    train, others = ([images[index] for index in np.flatnonzero(part)] for part in (~held_out, held_out))
    found = accuracy(logits(PixelSvm(), train, labels[~held_out], others), labels[held_out])
    assert found > 0.97


def test_pixels_are_better_than_the_majority_on_photos_but_far_from_good(real_data: Path) -> None:
    """0.431 where this was written: ten classes, 200 photographs of each to learn from."""
    parts = {}
    for part in ("train", "test"):
        folders = sorted((real_data / "cifar10-small" / part).iterdir())
        files = [(label, file) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
        images = [np.asarray(Image.open(file).convert("RGB")) for _, file in files]
        parts[part] = images, np.array([label for label, _ in files])
    (train, labels), (others, expected) = parts["train"], parts["test"]
    assert 0.35 < accuracy(logits(PixelSvm(), train, labels, others), expected) < 0.5


@pytest.mark.parametrize("classes", [2, 10])
def test_logits_are_scikit_learns_and_the_highest_is_its_prediction(classes: int) -> None:
    images, labels = digits(classes)
    found = logits(PixelSvm(), images[:150], labels[:150], images)
    pixels = np.stack([PixelSvm().prepare(image) for image in images]).reshape(len(images), -1) / 255
    machine = SVC(C=10.0, gamma="scale", break_ties=True).fit(pixels[:150], labels[:150])
    assert np.array_equal(found.argmax(1), machine.predict(pixels))
    expected = machine.decision_function(pixels)
    np.testing.assert_allclose(found if classes > 2 else found[:, 1] - found[:, 0], expected, atol=1e-9)


def test_images_without_any_variation_are_harmless() -> None:
    grey = [np.full((8, 8, 3), 7, np.uint8)] * 20
    found = logits(PixelSvm(), grey, np.arange(20) % 3, grey)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (32, 32), (200, 3), (480, 640)])
def test_images_of_any_size_become_the_same_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    prepared = PixelSvm().prepare(image)
    assert prepared.shape == (32, 32, 3)
    assert prepared.dtype == np.uint8
    assert shape != (32, 32) or np.array_equal(prepared, image)


def test_every_class_gives_an_equal_share_of_its_first_samples() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    taken = first_of_each(labels, 15)
    assert taken.tolist() == [*range(6), 50, 51, 52, *range(53, 59)]
    assert first_of_each(labels, 100).tolist() == list(range(73))
    assert np.bincount(labels[first_of_each(labels, 14)]).tolist() == [6, 3, 5]


def test_no_more_samples_are_learnt_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond the limit changes nothing, and no class is lost."""
    images, labels = digits(5)
    monkeypatch.setattr("tlbench_controls.pixels.MOST_SAMPLES", 50)
    taken = first_of_each(labels, 50)
    all_of_them = logits(PixelSvm(), images, labels, images[:100])
    assert np.array_equal(all_of_them, logits(PixelSvm(), [images[i] for i in taken], labels[taken], images[:100]))
    monkeypatch.setattr("tlbench_controls.pixels.MOST_SAMPLES", 2)
    assert logits(PixelSvm(), images, labels, images[:100]).shape == (100, 5)


def test_many_images_are_scored_as_few_are() -> None:
    images, labels = digits(3)
    many = logits(PixelSvm(), images[:100], labels[:100], images * 3)
    assert len(many) > 1500
    np.testing.assert_allclose(many[-len(images) :], logits(PixelSvm(), images[:100], labels[:100], images), atol=1e-12)


# Words


def test_words_are_clearly_better_than_the_majority(real_data: Path) -> None:
    """0.722 from a thousand sentences of the Stanford Sentiment Treebank, 0.804 from all 6,920; the majority 0.509."""
    others, expected = sst2(real_data, "validation")
    accuracies = {}
    for most in (1000, None):
        train, labels = sst2(real_data, "train", most)
        words, majority = (
            accuracy(logits(control, train, labels, others), expected) for control in (Tfidf(), Majority())
        )
        assert majority < 0.52
        accuracies[most] = words
    assert 0.70 < accuracies[1000] < 0.75
    assert 0.79 < accuracies[None] < 0.83


@pytest.mark.parametrize("text", ["", " ", "word", "é", "日本語", "\ud800", "\x00", "🙂", "a" * 100_000])
def test_any_text_is_prepared_and_scored(text: str) -> None:
    train, labels = sentences(3)
    prepared = Tfidf().prepare(text)
    assert prepared.dtype == np.uint8
    if text != "\ud800":  # half of a character
        assert prepared.tobytes().decode() == text
    for texts in (train, [text, *train[1:]]):
        assert np.isfinite(logits(Tfidf(), texts, labels, [text])).all()


@pytest.mark.parametrize(
    "texts", [[""] * 6, ["!", "?", "...", "🙂", " ", "-"], ["one", "two", "three", "four", "", ""]]
)
def test_texts_without_a_vocabulary_get_the_classes_frequencies(texts: list[str]) -> None:
    """The last ones hold words, but none in three texts."""
    labels = np.array([0, 1, 2, 2, 2, 1])
    found = logits(Tfidf(), texts, labels, ["one", "", "other"], least_texts=3)
    np.testing.assert_array_equal(found, logits(Majority(), texts, labels, texts[:3]))


def test_a_single_word_decides_and_order_counts() -> None:
    labels = np.array([0, 1] * 20)
    assert accuracy(logits(Tfidf(), ["x", "y"] * 20, labels, ["x", "y"]), np.array([0, 1])) == 1.0
    pairs = ["good not bad", "bad not good"] * 20
    assert accuracy(logits(Tfidf(), pairs, labels, ["good not bad", "bad not good"]), np.array([0, 1])) == 1.0


@pytest.mark.parametrize("value", [0, -1, 0.5, True, "two"])
def test_a_count_of_texts_that_is_none_is_named(value: Any) -> None:
    train, labels = sentences(2)
    with pytest.raises(BenchmarkError, match=r"parameter least_texts = .*: a whole number"):
        logits(Tfidf(), train, labels, train, least_texts=value)
