"""Curation: write `curated.csv` from the choice below and transformers' own architectures.

``python -m tlbench_transformers.curate``: no network is needed, parameters and multiply-accumulates are counted on the
meta device.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tlbench.components import TEXT
from tlbench_transformers.architecture import Architecture
from tlbench_transformers.curated import COLUMNS

_SMALL_BERT = {"hidden_size": 384, "intermediate_size": 1536}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
_DEBERTA_V3 = {
    "vocab_size": 128100,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "type_vocab_size": 0,
    "position_biased_input": False,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_BOOKS = "Wikipedia, BookCorpus"
_ROBERTA_DATA = "Wikipedia, BookCorpus, CC-News, OpenWebText, Stories"
_MASKED, _CAUSAL, _REPLACED, _CONTRASTIVE = "masked-language", "causal-language", "replaced-token", "contrastive"

_Row = tuple[str, str, str, Mapping[str, Any], str, str, str]

CHOICE: tuple[_Row, ...] = (
    ("BERT", "google-bert/bert-base-uncased*", "bert", {}, _MASKED, _BOOKS, "apache-2.0"),
    ("BERT", "google-bert/bert-base-cased", "bert", {"vocab_size": 28996}, _MASKED, _BOOKS, "apache-2.0"),
    ("BERT", "google-bert/bert-large-uncased", "bert", _LARGE, _MASKED, _BOOKS, "apache-2.0"),
    (
        "BERT",
        "google/bert_uncased_L-2_H-128_A-2",
        "bert",
        {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
        _MASKED,
        _BOOKS,
        "apache-2.0",
    ),
    ("RoBERTa", "FacebookAI/roberta-base*", "roberta", _ROBERTA, _MASKED, _ROBERTA_DATA, "mit"),
    ("RoBERTa", "FacebookAI/roberta-large", "roberta", {**_ROBERTA, **_LARGE}, _MASKED, _ROBERTA_DATA, "mit"),
    ("DistilBERT", "distilbert/distilbert-base-uncased*", "distilbert", {}, "distilled", _BOOKS, "apache-2.0"),
    (
        "DistilBERT",
        "distilbert/distilroberta-base",
        "roberta",
        {**_ROBERTA, "num_hidden_layers": 6},
        "distilled",
        "OpenWebText",
        "apache-2.0",
    ),
    (
        "DeBERTa-v3",
        "microsoft/deberta-v3-xsmall",
        "deberta-v2",
        {**_DEBERTA_V3, **_SMALL_BERT, "num_attention_heads": 6},
        _REPLACED,
        "",
        "mit",
    ),
    (
        "DeBERTa-v3",
        "microsoft/deberta-v3-small*",
        "deberta-v2",
        {**_DEBERTA_V3, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6},
        _REPLACED,
        "",
        "mit",
    ),
    (
        "DeBERTa-v3",
        "microsoft/deberta-v3-base",
        "deberta-v2",
        {**_DEBERTA_V3, "hidden_size": 768, "intermediate_size": 3072},
        _REPLACED,
        "",
        "mit",
    ),
    ("ModernBERT", "answerdotai/ModernBERT-base*", "modernbert", {}, _MASKED, "", "apache-2.0"),
    (
        "MiniLM",
        "sentence-transformers/all-MiniLM-L6-v2*",
        "bert",
        {**_SMALL_BERT, "num_hidden_layers": 6},
        _CONTRASTIVE,
        "1.17 billion sentence pairs",
        "apache-2.0",
    ),
    ("MiniLM", "microsoft/MiniLM-L12-H384-uncased", "bert", _SMALL_BERT, "distilled", _BOOKS, "mit"),
    (
        "ELECTRA",
        "google/electra-small-discriminator*",
        "electra",
        {"hidden_size": 256, "embedding_size": 128, "num_attention_heads": 4, "intermediate_size": 1024},
        _REPLACED,
        _BOOKS,
        "apache-2.0",
    ),
    (
        "ELECTRA",
        "google/electra-base-discriminator",
        "electra",
        {"hidden_size": 768, "embedding_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        _REPLACED,
        "",
        "apache-2.0",
    ),
    (
        "ALBERT",
        "albert/albert-base-v2",
        "albert",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        _MASKED,
        _BOOKS,
        "apache-2.0",
    ),
    (
        "MPNet",
        "sentence-transformers/all-mpnet-base-v2*",
        "mpnet",
        {"vocab_size": 30527, "max_position_embeddings": 514},
        _CONTRASTIVE,
        "1.17 billion sentence pairs",
        "apache-2.0",
    ),
    (
        "XLM-RoBERTa",
        "FacebookAI/xlm-roberta-base",
        "xlm-roberta",
        {**_ROBERTA, "vocab_size": 250002},
        _MASKED,
        "CC-100",
        "mit",
    ),
    ("BGE", "BAAI/bge-small-en-v1.5*", "bert", _SMALL_BERT, _CONTRASTIVE, "", "mit"),
    ("BGE", "BAAI/bge-base-en-v1.5", "bert", {}, _CONTRASTIVE, "", "mit"),
    ("E5", "intfloat/e5-small-v2", "bert", _SMALL_BERT, _CONTRASTIVE, "", "mit"),
    ("GTE", "thenlper/gte-small", "bert", _SMALL_BERT, _CONTRASTIVE, "", "mit"),
    ("GPT-2", "openai-community/gpt2", "gpt2", {}, _CAUSAL, "WebText", "mit"),
    ("GPT-2", "distilbert/distilgpt2", "gpt2", {"n_layer": 6}, "distilled", "OpenWebText", "apache-2.0"),
    (
        "Pythia",
        "EleutherAI/pythia-70m",
        "gpt_neox",
        {
            "vocab_size": 50304,
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
        },
        _CAUSAL,
        "The Pile",
        "apache-2.0",
    ),
    ("OPT", "facebook/opt-125m", "opt", {}, _CAUSAL, "", ""),
    (
        "SmolLM2",
        "HuggingFaceTB/SmolLM2-135M*",
        "llama",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        _CAUSAL,
        "",
        "apache-2.0",
    ),
    (
        "Qwen2.5",
        "Qwen/Qwen2.5-0.5B",
        "qwen2",
        {
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
        _CAUSAL,
        "",
        "apache-2.0",
    ),
    (
        "T5",
        "google-t5/t5-small",
        "t5",
        {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
        "span-corruption",
        "C4",
        "apache-2.0",
    ),
    ("SegFormer", "nvidia/mit-b0", "segformer", {}, "supervised", "ImageNet-1k", ""),
    ("CvT", "microsoft/cvt-13", "cvt", {}, "supervised", "ImageNet-1k", "apache-2.0"),
    (
        "I-JEPA",
        "facebook/ijepa_vith14_1k",
        "ijepa",
        {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
            "patch_size": 14,
        },
        "self-supervised",
        "ImageNet-1k",
        "cc-by-nc-4.0",
    ),
)
"""Family, repository (a star: in the pool of a search without a list), `model_type`, what its config.json has apart
from the defaults of that type, pretraining, data (empty: no name for it), licence (empty: none that SPDX names)."""

_UNPREFIXED = ("google-bert", "FacebookAI", "distilbert", "albert", "openai-community", "google-t5")
"""Organisations that were put before names under which everybody knows the models."""

_TOKENS = 128
_OTHER_MASKS = ("deberta-v2", "opt")
"""Types that take no mask with all its axes."""


def rows() -> Iterator[Mapping[str, Any]]:
    """One row per chosen backbone."""
    for family, starred, model_type, options, pretraining, data, licence in CHOICE:
        repository = starred.rstrip("*")
        organisation, _, rest = repository.partition("/")
        architecture = Architecture.of_type(model_type, options)
        yield {
            "name": rest if organisation in _UNPREFIXED else repository,
            "repository": repository,
            "family": family,
            "modality": architecture.modality,
            "architecture": model_type,
            "kind": "hybrid" if model_type == "cvt" else "transformer",
            "parameters": sum(parameter.numel() for parameter in architecture.outline.parameters()),
            "macs": None if model_type in _OTHER_MASKS else _macs(architecture),
            "pretraining": pretraining,
            "pretraining_data": data,
            "licence": licence,
            "default": "yes" if starred.endswith("*") else "",
        }


def _macs(architecture: Architecture) -> int:
    """Count multiply-accumulates as torch does, attention included, for 128 tokens or an image of 224 pixels.

    With a mask that has all its axes, transformers looks at no value: there is none on the meta device.
    """
    module = architecture.outline.eval().requires_grad_(False)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if architecture.modality == TEXT:
            tokens = torch.zeros(1, _TOKENS, dtype=torch.long)
            module(input_ids=tokens, attention_mask=torch.ones(1, 1, _TOKENS, _TOKENS))
        else:
            module(pixel_values=torch.zeros(1, 3, 224, 224))
    flops: int = counter.get_total_flops()
    return flops // 2


def main() -> None:
    """Write the file beside this module."""
    path = Path(__file__).with_name("curated.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())
    sys.stdout.write(f"{path}: {len(CHOICE)} backbones\n")


if __name__ == "__main__":
    main()
