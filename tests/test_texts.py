"""Text preprocessing with a tokenizer made of letters, and what the engine asks of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from tlbench.errors import BenchmarkError
from tlbench.evaluation.device import Compute
from tlbench.evaluation.texts import TextPreprocess


def letters(text: str, length: int) -> Sequence[int]:
    """A letter is a token: its place in the alphabet, from 3; 1 begins and 2 ends a text."""
    return [1, *(ord(letter) - ord("a") + 3 for letter in text[: length - 2]), 2]


def preprocess(**changed: Any) -> TextPreprocess:
    values: dict[str, Any] = {"encode": letters, "tokenizer": "sha256:1", "padding": 0, "max_length": 8}
    return TextPreprocess(**{**values, **changed})


def batch(made: TextPreprocess, texts: Sequence[str], training: bool = False) -> dict[str, torch.Tensor]:
    arrays = [made.prepare(text) for text in texts]
    return made.batch(arrays, {}, training, torch.Generator(), torch.device("cpu"))


def test_a_text_becomes_the_ids_of_its_tokens() -> None:
    array = preprocess().prepare("abc")
    assert array.tolist() == [1, 3, 4, 5, 2]
    assert array.dtype == np.int32


def test_what_is_too_long_is_cut() -> None:
    assert preprocess().prepare("a" * 100).tolist() == [1, 3, 3, 3, 3, 3, 3, 2]
    assert preprocess(max_length=4).prepare("abc").tolist() == [1, 3, 4, 2]


def test_a_text_without_tokens_is_one_of_padding() -> None:
    array = preprocess(encode=lambda text, length: [], padding=9).prepare("")
    assert array.tolist() == [9]
    assert array.dtype == np.int32


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_is_padded_on_the_right_to_its_longest_text(training: bool) -> None:
    inputs = batch(preprocess(padding=7), ["abc", "", "ab"], training)
    assert inputs["input_ids"].tolist() == [[1, 3, 4, 5, 2], [1, 2, 7, 7, 7], [1, 3, 4, 2, 7]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert {tensor.dtype for tensor in inputs.values()} == {torch.int64}


def test_the_mask_gives_back_every_text() -> None:
    texts = ["", "a", "abcdefghijk", "zz", "q" * 7]
    made, inputs = preprocess(), batch(preprocess(), texts)
    for text, ids, mask in zip(texts, inputs["input_ids"], inputs["attention_mask"], strict=True):
        assert ids[mask == 1].tolist() == made.prepare(text).tolist()


def test_the_identity_says_all_that_changes_an_input() -> None:
    made = preprocess()
    assert json.loads(json.dumps(made.identity)) == made.identity
    assert made.identity["kind"] == "text"
    changed = [preprocess(**{name: value}).identity for name, value in
               (("tokenizer", "sha256:2"), ("padding", 1), ("max_length", 9))]  # fmt: skip
    assert len({json.dumps(identity) for identity in [made.identity, *changed]}) == 4
    assert preprocess(encode=lambda text, length: [1]).identity == made.identity


def test_a_benchmark_file_gives_the_length() -> None:
    made = preprocess().overridden({"max_length": 5})
    assert made.prepare("abcdefgh").tolist() == [1, 3, 4, 5, 2]
    assert preprocess().overridden({}) == preprocess()
    with pytest.raises(BenchmarkError, match="preprocess has no 'size': for texts it has max_length"):
        preprocess().overridden({"size": 5})


@pytest.mark.parametrize("length", [3, 2**17 + 1, 8.0, True, "8", None])
def test_a_length_that_cannot_be_used_is_refused(length: Any) -> None:
    with pytest.raises(BenchmarkError, match="preprocess max_length = "):
        preprocess().overridden({"max_length": length})


def test_the_example_is_of_usual_length() -> None:
    for longest, length in ((8, 8), (512, 32)):
        made = preprocess(max_length=longest)
        example = made.example()
        assert example.shape == (length,)
        assert example.dtype == np.int32
        inputs = made.batch([example], {}, False, torch.Generator(), torch.device("cpu"))
        assert inputs["attention_mask"].tolist() == [[1] * length]


def test_8_texts_of_128_tokens_go_through_a_cpu_at_once() -> None:
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=1)
    made = preprocess(max_length=256)
    assert compute.samples_that_fit(made.elements(made.prepare("a" * 126))) == 8
    assert made.elements(made.prepare("a")) < made.elements(made.prepare("aa"))


def test_nothing_is_mixed() -> None:
    inputs, labels = batch(preprocess(), ["a", "b"]), torch.tensor([0, 1])
    mixed, targets = preprocess().mix(inputs, labels, 2, {"mixup": 1.0, "cutmix": 1.0}, torch.Generator())
    assert mixed is inputs
    assert targets is labels


def test_no_two_threads_encode_at_once() -> None:
    """Not even through two preprocessings: they may share a tokenizer."""
    inside = threading.Lock()

    def alone(text: str, length: int) -> Sequence[int]:
        assert inside.acquire(blocking=False), "Already borrowed"
        time.sleep(0.001)
        inside.release()
        return letters(text, length)

    made = preprocess(encode=alone)
    both = [made, made.overridden({"max_length": 5})]
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda number: both[number % 2].prepare("a" * (number % 5)), range(80)))
    assert all(
        array.tolist() == both[number % 2].prepare("a" * (number % 5)).tolist() for number, array in enumerate(arrays)
    )


def test_the_engine_needs_no_library_of_tokenizers() -> None:
    code = (
        "import sys, tlbench.evaluation.texts\n"
        "assert not {'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
