"""Pooling: how a text model was meant to make one vector of many, and how else it can be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlbench_transformers.checkpoint import POOLING_FILE, read_json

_SENTENCE_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "avg",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
"""Of the file that sentence-transformers writes; several that are on are concatenated in this order."""

_NAMED_MODES = {"cls": "cls", "mean": "avg", "max": "max", "lasttoken": "last"}


def native(folder: Path, config: Any, is_decoder: bool, has_first_token: bool) -> str:
    """Say how the checkpoint's makers pool: sentence-transformers' file, a decoder's last token, the configuration."""
    published = read_json(folder / POOLING_FILE)
    modes = [pool for mode, pool in _SENTENCE_MODES.items() if published.get(mode) is True]
    modes = modes or [_NAMED_MODES[mode] for mode in _listed(published.get("pooling_mode")) if mode in _NAMED_MODES]
    if modes:
        return "+".join(modes)
    if is_decoder:
        return "last"
    declared = getattr(config, "classifier_pooling", None)  # ModernBERT
    if declared in _NAMED_MODES:
        return _NAMED_MODES[declared]
    return "cls" if has_first_token else "avg"


def pools(is_decoder: bool, has_first_token: bool) -> tuple[str, ...]:
    """List the pools of a text model. A decoder's first token has seen nothing of the text."""
    if is_decoder:
        return ("native", "avg", "max", "last")
    return ("native", "cls", "avg", "max") if has_first_token else ("native", "avg", "max")


def _listed(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value] if isinstance(value, list) else []
