"""Vetting: what a plugin hands over has to keep the contract of `tlbench.components` before anything uses it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tlbench.components import Backbone, Component, Dataset
from tlbench.errors import PluginError
from tlbench.strategies import ControlStrategy, FrozenStrategy, TrainedStrategy

Kind = Literal["backbone", "strategy", "dataset"]

_CLASSES: dict[Kind, tuple[type[Component], ...]] = {
    "backbone": (Backbone,),
    "strategy": (TrainedStrategy, FrozenStrategy, ControlStrategy),
    "dataset": (Dataset,),
}
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]*")


def vet(kind: Kind, component: object) -> str:
    """Return the component's name. Raises `PluginError` for what breaks the contract."""
    if not isinstance(component, _CLASSES[kind]):
        classes = " or ".join(allowed.__name__ for allowed in _CLASSES[kind])
        raise PluginError(f"{type(component).__name__} where a {classes} is needed")
    name, summary, version = component.name, component.summary, component.version
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not _is_plain(name):
        rule = "letters, digits and . _ - @ / :, a letter or digit first, no '..' and no empty part"
        raise PluginError(f"{kind} name {name!a} cannot be used: {rule}")
    if not isinstance(summary, str) or not summary.strip() or not summary.isprintable():
        raise PluginError(f"{kind} '{name}': its summary has to be one line of text, not {summary!a}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PluginError(f"{kind} '{name}': its version has to be an integer from 1, not {version!a}")
    if isinstance(component, Backbone | Dataset) and not _is_word(component.modality):
        raise PluginError(f"{kind} '{name}': its modality has to be a word, not {component.modality!a}")
    if isinstance(component, Dataset) and component.task != "classification":
        raise PluginError(f"dataset '{name}': its task is {component.task!a}; only 'classification' is built")
    return name


def vet_plugin_name(name: str) -> None:
    """Raise `PluginError` for a name that cannot stand before the slash of a full name."""
    if not _is_word(name):
        raise PluginError(f"plugin name {name!a} cannot be used: letters, digits and . _ -, a letter or digit first")


def vet_benchmark(path: object) -> str:
    """Return the stem of a shipped benchmark file. Raises `PluginError` unless it is a usable .toml file."""
    if not isinstance(path, Path) or path.suffix != ".toml" or not path.is_file():
        raise PluginError(f"{path!a} where the Path of an existing .toml file is needed")
    if not _is_word(path.stem):
        raise PluginError(f"benchmark name {path.stem!a} cannot be used: letters, digits and . _ -")
    return path.stem


def _is_word(text: object) -> bool:
    return isinstance(text, str) and _PART.fullmatch(text) is not None


def _is_plain(name: str) -> bool:
    return ".." not in name and all(part not in ("", ".") for part in name.split("/"))
