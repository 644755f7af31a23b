"""The architecture: what a checkpoint's config.json describes, built without weights, fresh or filled."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
import transformers
from torch import nn
from transformers.models.auto import configuration_auto, modeling_auto, tokenization_auto

from tlbench.components import IMAGE, TEXT
from tlbench.errors import BenchmarkError, WeightsError
from tlbench.evaluation.hub import one_line

if TYPE_CHECKING:
    from torch.nn import Module

_DECIDED = {
    "model_type": "the checkpoint",
    "architectures": "the checkpoint",
    "auto_map": "tlbench, which runs no code of a checkpoint's own",
    "vocab_size": "the tokenizer",
    "pad_token_id": "the tokenizer",
    "num_labels": "the data set",
    "num_channels": "RGB input",
    "image_size": "'preprocess = { size = ... }'",
    "drop_path_rate": "the strategy's 'drop_path'",
    "is_decoder": "the checkpoint",
    "dtype": "the engine",
    "torch_dtype": "the engine",
    "quantization_config": "the engine",
    "use_cache": "the engine",
    "output_hidden_states": "the engine",
    "return_dict": "the engine",
}
"""Names in a config.json that are not the user's to give as options, and what decides them."""


@final
class Architecture:
    """A configuration of transformers and what can be built from it. Raises `WeightsError` where nothing can."""

    def __init__(self, config: Any, what: str) -> None:
        """Take a `PretrainedConfig`; `what` names the checkpoint in messages."""
        self.config, self._what = config, what
        if hasattr(config, "use_cache"):
            config.use_cache = False  # keys and values kept for the next token: nothing is generated here
        self.modality = self._modality()

    @classmethod
    def of_type(cls, model_type: str, options: Mapping[str, Any]) -> Architecture:
        """The configuration that transformers has for `model_type`, with `options` in place of its defaults."""
        with quiet():
            return cls(transformers.AutoConfig.for_model(model_type, **options), model_type)

    @classmethod
    def of_folder(cls, folder: Path, what: str, options: Mapping[str, Any]) -> Architecture:
        """The configuration in a checkpoint folder, with `options` of a benchmark file in place.

        Raises `BenchmarkError` for an option that the configuration does not have.
        """
        raw = _read_config(folder, what)
        _check_options(options, what)
        model_type = raw.get("model_type")
        if model_type not in configuration_auto.CONFIG_MAPPING_NAMES:
            needs = "code of its own, which tlbench never runs" if "auto_map" in raw else "a transformers that knows it"
            raise WeightsError(f"{what}: model type '{model_type}' needs {needs}: choose another checkpoint")
        try:
            with quiet():
                config = transformers.AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False, **options
                )
        except Exception as error:  # transformers raises whatever a value drives it to
            raise WeightsError(f"{what}: its config.json cannot be used: {one_line(error)}") from error
        unknown = [name for name in options if not hasattr(config, name)]
        if unknown:
            close = difflib.get_close_matches(unknown[0], list(config.to_dict()), n=1)
            hint = f": did you mean '{close[0]}'?" if close else ""
            raise BenchmarkError(f"{what}: the configuration of '{model_type}' has no '{unknown[0]}'{hint}")
        return cls(config, what)

    @property
    def is_decoder(self) -> bool:
        """Whether a token sees only those before it: known as a causal language model and not as a masked one."""
        names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        causal, masked = (self.config.model_type in known for known in names)
        return causal and not masked

    @property
    def has_drop_path(self) -> bool:
        """Whether the configuration has a rate of stochastic depth."""
        return hasattr(self.config, "drop_path_rate")

    @cached_property
    def outline(self) -> Module:
        """The model on the meta device."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return self.fresh()

    @cached_property
    def positions(self) -> int | None:
        """Most tokens that the model has positions for; None: any number.

        Where position embeddings have a padding index, as RoBERTa's, they count from the index after it.
        """
        for name, module in self.outline.named_modules():
            padded = isinstance(module, nn.Embedding) and module.padding_idx is not None
            if padded and name.endswith("position_embeddings"):
                return int(module.num_embeddings - module.padding_idx - 1)
        most = getattr(self.config, "max_position_embeddings", None)
        return most if isinstance(most, int) and most > 0 else None

    def fresh(self, drop_path: float = 0.0) -> Module:
        """The model with weights from torch's global generator, in float32, without a pooling layer."""
        config = self._prepared(drop_path)
        try:
            with quiet():
                model = self._auto.from_config(
                    config, trust_remote_code=False, dtype=torch.float32, **self._without_pooler
                )
        except MemoryError:
            raise
        except Exception as error:  # transformers raises whatever a value of the configuration drives it to
            raise WeightsError(f"{self._what}: transformers cannot build it: {one_line(error)}") from error
        return self._masked(self._stripped(model))

    def filled(self, folder: Path, drop_path: float = 0.0) -> Module:
        """The model with the weights in `folder`: safetensors, or `torch.load` with ``weights_only``.

        Raises `WeightsError` where they cannot be read, do not fit or leave a part of the model unfilled.
        """
        try:
            with quiet():
                model, report = self._auto.from_pretrained(
                    folder,
                    config=self._prepared(drop_path),
                    local_files_only=True,
                    trust_remote_code=False,
                    weights_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **self._without_pooler,
                )
        except MemoryError:
            raise
        except Exception as error:  # transformers, torch and safetensors each raise their own
            raise _unreadable(self._what, error) from error
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise WeightsError(
                f"{self._what}: the weights do not fill the model that config.json describes: they lack"
                f" {', '.join(missing[:3])}{more}"
            )
        return self._stripped(model)

    def _modality(self) -> str:
        """Say what the model reads by what its configuration has; one that reads both or neither is refused."""
        config, names = self.config, tokenization_auto.TOKENIZER_MAPPING_NAMES
        image = hasattr(config, "image_size") or hasattr(config, "num_channels")
        text = hasattr(config, "vocab_size") and not (image and config.model_type not in names)
        if image == text:
            reads = "texts and images at once" if image else "neither texts nor images, or several kinds of input"
            raise WeightsError(f"{self._what}: a model of type '{config.model_type}' reads {reads}: not supported")
        if getattr(config, "is_encoder_decoder", False) and not self._has_text_encoder:
            raise WeightsError(
                f"{self._what}: '{config.model_type}' is an encoder with a decoder, and transformers cannot take it"
                " apart: choose an encoder or a decoder"
            )
        return IMAGE if image else TEXT

    def _masked(self, model: Module) -> Module:
        """Refuse an encoder such as FNet, which takes no mask: it would read padding, and so the rest of its batch."""
        known = inspect.signature(model.forward).parameters
        if self.modality == TEXT and not self.is_decoder and "attention_mask" not in known:
            raise WeightsError(
                f"{self._what}: a model of type '{self.config.model_type}' takes no attention mask, and padding would"
                " change its results: choose another checkpoint"
            )
        return model

    @property
    def _has_text_encoder(self) -> bool:
        name = modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(self.config.model_type, "")
        return str(name).endswith("EncoderModel")

    @property
    def _auto(self) -> Any:
        apart = getattr(self.config, "is_encoder_decoder", False)
        return transformers.AutoModelForTextEncoding if apart else transformers.AutoModel

    @cached_property
    def _without_pooler(self) -> Mapping[str, Any]:
        """Argument that leaves the pooling layer out, where the model's class takes it."""
        with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            kind = type(self._auto.from_config(self._prepared(0.0), trust_remote_code=False))
        return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}

    def _prepared(self, drop_path: float) -> Any:
        """A configuration of its own for every build: transformers writes into it."""
        config = copy.deepcopy(self.config)
        if self.has_drop_path:
            stages = config.drop_path_rate
            rates = [drop_path * (stage + 1) / len(stages) for stage in range(len(stages))] if _many(stages) else None
            config.drop_path_rate = drop_path if rates is None else rates
        return config

    def _stripped(self, model: Any) -> Module:
        """Take the encoder of an encoder with a decoder, and a pooling layer out that no argument leaves out."""
        module: Any = model.encoder if self._auto is transformers.AutoModelForTextEncoding else model
        pooler = getattr(module, "pooler", None)
        if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            module.pooler = None
        taken: Module = module
        return taken


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and log off the screen: what matters becomes an error."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _many(rates: Any) -> bool:
    return isinstance(rates, list | tuple)


def _read_config(folder: Path, what: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{what}: {folder} has no config.json: needed is a checkpoint folder, as save_pretrained makes"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{what}: {path} is no JSON: {one_line(error)}") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{what}: {path} is no JSON object")
    return raw


def _check_options(options: Mapping[str, Any], what: str) -> None:
    for option in options:
        if option in _DECIDED or option.startswith("_"):
            decides = _DECIDED.get(option, "transformers")
            raise BenchmarkError(f"{what}: option '{option}' is decided by {decides}: leave it out")


def _unreadable(what: str, error: Exception) -> WeightsError:
    chain = [error, error.__cause__, error.__context__]
    if any(type(link).__name__ == "UnpicklingError" for link in chain):
        return WeightsError(f"{what}: reading the weights would run code: refused. Save them as safetensors")
    return WeightsError(f"{what}: the weights do not load: {one_line(error)}")
