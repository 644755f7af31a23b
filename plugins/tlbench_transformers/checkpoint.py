"""The checkpoint: a folder with config.json, tokenizer or image processor, and weights; here or on the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from tlbench.components import IMAGE, TEXT
from tlbench.errors import WeightsError
from tlbench.evaluation import hub

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tekken.json",
)
"""Files of which a tokenizer has at least one."""

TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
PROCESSOR_FILE = "preprocessor_config.json"
POOLING_FILE = "1_Pooling/config.json"
LENGTH_FILE = "sentence_bert_config.json"

_DESCRIPTION = ("config.json", *TOKENIZER_FILES, PROCESSOR_FILE, POOLING_FILE, LENGTH_FILE)
_SCRATCH = "the strategy 'basic/scratch' needs no weights"
_SINGLE = ("model.safetensors", "pytorch_model.bin")


@final
@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is: a `folder` of the user's own, or else a repository of the hub."""

    name: str
    """Of the backbone, for messages."""

    modality: str | None
    """What the model reads, where it is known beforehand."""

    repositories: tuple[str, ...]
    """The hub's name, and others under which older caches may have it."""

    folder: Path | None = None
    required: tuple[str, ...] = ()
    """Files without which a cached snapshot is not whole: what loaded the model alone left out how it pools."""

    @cached_property
    def described(self) -> Path:
        """The folder, with all but perhaps the weights. Raises `WeightsError` where it cannot be had."""
        if self.folder is not None:
            if not (self.folder / "config.json").is_file():
                raise WeightsError(
                    f"backbone '{self.name}': {self.folder} has no config.json: needed is a checkpoint folder, as"
                    " transformers' save_pretrained writes it"
                )
            if (self.folder / "adapter_config.json").is_file():
                raise WeightsError(
                    f"backbone '{self.name}': {self.folder} holds an adapter: merge it into its model first, as peft's"
                    " merge_and_unload does, and save that"
                )
            return self.folder
        for repository in self.repositories:
            found = hub.cached_folder(repository, ["config.json"])
            if found is not None and self._is_complete(found):
                return found
        what = f"configuration and tokenizer of '{self.name}'"
        return hub.fetched_folder(what, self.repositories[0], _description)

    @cached_property
    def filled(self) -> Path:
        """The folder with the weights. Raises `WeightsError` where they cannot be had."""
        folder = self.described
        if weight_files(_names(folder)):
            return folder
        if self.folder is not None:
            raise WeightsError(
                f"backbone '{self.name}': {folder} has no weights: needed is {' or '.join(_SINGLE)}, whole or in parts"
                " with an index"
            )
        what = f"weights of '{self.name}'"
        return hub.fetched_folder(what, self.repositories[0], weight_files, folder.name, _SCRATCH)

    @cached_property
    def identity(self) -> str:
        """The hub's commit; of a folder of the user's own, the hash over description and weights."""
        folder = self.filled
        if self.folder is None:
            return folder.name  # snapshots/<commit>
        return hub.sha256(*_architecture_files(folder), *(folder / name for name in weight_files(_names(folder))))

    @cached_property
    def architecture(self) -> str:
        """The hash over the files that say what is built and how it pools."""
        return hub.sha256(*_architecture_files(self.described))

    def _is_complete(self, folder: Path) -> bool:
        needed = {IMAGE: (PROCESSOR_FILE,), TEXT: VOCABULARIES}.get(
            self.modality or "", (PROCESSOR_FILE, *VOCABULARIES)
        )
        whole = all((folder / name).is_file() for name in self.required)
        return whole and any((folder / name).is_file() for name in needed)


def weight_files(names: Sequence[str]) -> list[str]:
    """Choose the files of weights that transformers reads among `names`: safetensors before torch files."""
    for single in _SINGLE:
        if single in names:
            return [single]
        index, (stem, _, suffix) = f"{single}.index.json", single.rpartition(".")
        if index in names:
            return [index, *sorted(name for name in names if name.startswith(f"{stem}-") and name.endswith(suffix))]
    return []


def read_json(path: Path) -> dict[str, object]:
    """Read a file of a checkpoint that need not be there: what it holds, or nothing."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON: {hub.one_line(error)}") from error
    return values if isinstance(values, dict) else {}


def _architecture_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "config.json", folder / POOLING_FILE) if path.is_file()]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _description(names: Sequence[str]) -> list[str]:
    return [name for name in _DESCRIPTION if name in names]
