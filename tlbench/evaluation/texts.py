"""Text preprocessing: from a text to the ids of its tokens, and to a padded batch of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from tlbench.components import Preprocess
from tlbench.errors import BenchmarkError
from tlbench.spaces import Params

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Raised when the same fields no longer give the same ids."""

_OVERRIDES = ("max_length",)
_USUAL_LENGTH = 32
_ELEMENTS_PER_TOKEN = 1024
"""A thousand tokens go through a CPU at once: with fewer its cores idle (a quarter of them took 1.6 times as long),
with more short texts are padded to the length of longer ones."""

_ENCODING = threading.Lock()
"""One for the process: samples are prepared by several threads, and two preprocessings may share one tokenizer, whose
fast kind refuses a second caller ("Already borrowed")."""


@final
@dataclass(frozen=True, kw_only=True)
class TextPreprocess(Preprocess):
    """Tokenise, truncate, and pad each batch on the right to its longest text.

    The prepared array is int32 [length], a batch ``{"input_ids", "attention_mask"}``, both int64 [n, longest].
    Raises `BenchmarkError` for a value that cannot be used.
    """

    encode: Callable[[str, int], Sequence[int]] = field(compare=False, repr=False)
    """Ids of a text's tokens, special ones included, at most as many as the second argument says. Never called by two
    threads at once."""

    tokenizer: str
    """Identity of what `encode` does: a hash over the tokenizer's files."""

    padding: int
    """Id that fills a batch up; it also stands for a text without any token."""

    max_length: int
    """Most tokens of a text, special ones included."""

    def __post_init__(self) -> None:
        """Refuse lengths that no model can use."""
        length = self.max_length
        if not isinstance(length, int) or isinstance(length, bool) or not 4 <= length <= 2**17:
            raise BenchmarkError(
                f"preprocess max_length = {length!r}: needed is a whole number of tokens from 4 to 131072"
            )

    def overridden(self, declared: Mapping[str, Any]) -> TextPreprocess:
        """Put the values of a benchmark file in place: ``{ max_length = 64 }``."""
        unknown = [name for name in declared if name not in _OVERRIDES]
        if unknown:
            raise BenchmarkError(f"preprocess has no '{unknown[0]}': for texts it has {', '.join(_OVERRIDES)}")
        return replace(self, **declared)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Tokenizer, padding and length, and the version of this module."""
        return {
            "kind": "text",
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "max_length": self.max_length,
            "padding": self.padding,
        }

    @property
    def in_words(self) -> Sequence[str]:
        """Tokenise, truncate, pad."""
        return (
            f"Tokenise the text with the backbone's own tokenizer (files of hash {self.tokenizer}), special tokens "
            f"included; of longer texts keep {self.max_length} tokens, cut at the end.",
            f"Pad every text of a batch at its end with the id {self.padding} to the length of the longest: input_ids, "
            "int64 [batch, length].",
            "attention_mask, int64 [batch, length]: 1 for a token of the text, 0 for padding.",
        )

    def prepare(self, sample: Any) -> np.ndarray:
        """Ids of one text's tokens, int32 [length], at least one."""
        with _ENCODING:
            ids = self.encode(sample, self.max_length)
        return np.array(ids if len(ids) else [self.padding], np.int32)

    def batch(
        self,
        arrays: Sequence[np.ndarray],
        params: Params,
        training: bool,
        generator: torch.Generator,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Ids and mask on `device`; training changes nothing."""
        lengths = np.array([len(array) for array in arrays])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.padding, np.int64)
        ids[mask] = np.concatenate(arrays)
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        return {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}

    def example(self) -> np.ndarray:
        """Return a text of usual length that is one token over and over."""
        return np.full(min(self.max_length, _USUAL_LENGTH), self.padding, np.int32)

    def elements(self, array: np.ndarray) -> int:
        """Count a token as many input elements: an id alone would say nothing of what it costs."""
        return len(array) * _ELEMENTS_PER_TOKEN
