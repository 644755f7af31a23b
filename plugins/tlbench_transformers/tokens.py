"""Tokens: a checkpoint's tokenizer as text preprocessing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from tlbench.errors import BenchmarkError, WeightsError
from tlbench.evaluation import hub
from tlbench.evaluation.texts import TextPreprocess
from tlbench_transformers.architecture import Architecture, quiet
from tlbench_transformers.checkpoint import LENGTH_FILE, TOKENIZER_FILES, VOCABULARIES, read_json

_LONGEST = 512
"""Tokens, where the benchmark file does not say: what most encoders were trained with. Longer costs dearly."""


def read_tokenizer(folder: Path, what: str) -> Any:
    """Read the tokenizer of a checkpoint folder; no code of its own is run. Raises `WeightsError`."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise WeightsError(
            f"{what}: {folder} has no tokenizer (none of {', '.join(VOCABULARIES)}): put there what the tokenizer's"
            " save_pretrained writes"
        )
    # Texts come one at a time, from threads of the engine's: the tokenizer's own would only warn of forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, truncation_side="right"
            )
    except Exception as error:  # each kind of tokenizer raises its own
        raise WeightsError(f"{what}: its tokenizer cannot be read: {hub.one_line(error)}") from error
    return tokenizer


def text_preprocess(
    tokenizer: Any, folder: Path, architecture: Architecture, declared: Mapping[str, Any], what: str
) -> TextPreprocess:
    """Make the preprocessing that belongs to a checkpoint, `declared` values of a benchmark file put in place.

    Raises `BenchmarkError` for more tokens than the model has positions.
    """
    positions = architecture.positions

    def encode(text: str, length: int) -> Sequence[int]:
        ids: Sequence[int] = tokenizer.encode(text, truncation=True, max_length=length)
        return ids

    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    trained = read_json(folder / LENGTH_FILE).get("max_seq_length")
    limits = [_LONGEST, tokenizer.model_max_length, positions, trained]
    usual = TextPreprocess(
        encode=encode,
        tokenizer=hub.sha256(*files),
        padding=padding(tokenizer, architecture.config.vocab_size),
        max_length=min(int(limit) for limit in limits if isinstance(limit, int | float)),
    )
    chosen = usual.overridden(declared)
    if positions is not None and chosen.max_length > positions:
        raise BenchmarkError(
            f"{what}: preprocess max_length = {chosen.max_length}: the model has {positions} positions"
        )
    return chosen


def padding(tokenizer: Any, vocabulary: int) -> int:
    """Choose the id that fills a batch up: the padding token's or, where there is none, that which ends a text.

    GPT-2 has no padding token, and some checkpoints have one that their model's `vocabulary` does not. The mask says
    what counts, so that any id would do.
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None and token < vocabulary), 0)


def begins_with_special_token(tokenizer: Any) -> bool:
    """Whether a text's first token is one that stands for all of it (`[CLS]`, `<s>`)."""
    ids = tokenizer.encode("a")
    return bool(ids) and ids[0] in tokenizer.all_special_ids
