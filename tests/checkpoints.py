"""Checkpoint folders of transformers' architectures: small, with random weights and a tokenizer of few words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

WORDS = ["a", "the", "film", "was", "truly", "good", "bad", "dull", "fine", "but", "and", "not", "very", "long"]

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 37, "max_position_embeddings": 40},
    "deberta-v2": {
        **SIZES,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 4,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
    },
    "modernbert": {**SIZES, "local_attention": 6},
    "albert": {**SIZES, "embedding_size": 16},
    "electra": {**SIZES, "embedding_size": 16},
    "mpnet": SIZES,
    "xlm-roberta": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40},
    "gpt_neox": SIZES,
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "ffn_dim": 37,
        "max_position_embeddings": 40,
    },
    "llama": {**SIZES, "num_key_value_heads": 1},
    "qwen2": {**SIZES, "num_key_value_heads": 1},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 37, "num_layers": 3, "num_heads": 2},
}
DECODERS = {"gpt2", "gpt_neox", "opt", "llama", "qwen2"}

VISION: dict[str, dict[str, Any]] = {
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "ijepa": {**SIZES, "image_size": 32, "patch_size": 8},
    "dinov2_with_registers": {**SIZES, "image_size": 32, "patch_size": 8, "num_register_tokens": 2},
    "convnext": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "image_size": 32, "window_size": 4},
}


def special(model_type: str) -> dict[str, str]:
    """Special tokens as the family has them, in the order of their ids; most decoders end texts and do not pad."""
    if model_type == "qwen2":
        return {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    if model_type in DECODERS:
        return {"eos_token": "<|end|>", "unk_token": "<unk>"}
    if model_type == "t5":
        return {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}


def tokenizer(model_type: str) -> Any:
    """One id for every word of `WORDS`.

    For Qwen2 transformers always takes a class of its own, which knows bytes: there a word is one by merging them.
    """
    tokens = special(model_type)
    if model_type == "qwen2":
        return transformers.Qwen2Tokenizer().train_new_from_iterator([" ".join(WORDS * 2)], 400, show_progress=False)
    vocabulary = {token: number for number, token in enumerate([*tokens.values(), *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in tokens:
        pair = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
        words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    elif model_type == "t5":
        words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **tokens)


def configuration(model_type: str, **changed: Any) -> Any:
    """Of a text model, with the ids of its tokenizer."""
    made = tokenizer(model_type)
    ids = {f"{name.removesuffix('_token')}_token_id": getattr(made, f"{name}_id") for name in special(model_type)}
    ids.pop("unk_token_id", None)
    missing = {name: None for name in ("pad_token_id", "bos_token_id", "eos_token_id") if name not in ids}
    options = {**FAMILIES[model_type], "vocab_size": len(made), **missing, **ids, **changed}
    return transformers.AutoConfig.for_model(model_type, **options)


def save(folder: Path, model: nn.Module, made: Any = None) -> Path:
    """A checkpoint folder whose weights are not the initial ones, biases and norms included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)  # type: ignore[operator]
    if made is not None:
        made.save_pretrained(folder)
    return folder


def processor(folder: Path, **values: Any) -> None:
    """Write an image processor's file: inputs of 32 x 32 pixels."""
    usual = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps({**usual, **values}))


def make(model_type: str, folder: Path) -> Path:
    """A full checkpoint folder, the same every time."""
    torch.manual_seed(5)
    if model_type in VISION:
        config = transformers.AutoConfig.for_model(model_type, **VISION[model_type])
        save(folder, transformers.AutoModel.from_config(config))
        processor(folder)
        return folder
    return save(folder, transformers.AutoModel.from_config(configuration(model_type)), tokenizer(model_type))


def write_pooling(folder: Path, **values: Any) -> None:
    """Write the file of sentence-transformers that says how the model pools."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))


def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `cache` be the hub's, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def put(cache: Path, repository: str, folder: Path, commit: str = "0123456789abcdef" * 2 + "01234567") -> Path:
    """A folder as a cached snapshot."""
    base = cache / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, base / "snapshots" / commit))
