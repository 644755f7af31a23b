"""Layers: groups of a model's parameters from input to output, found by its lists of blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

_INNER = re.compile(r"(layers?|blocks?)$")
"""Names of lists of blocks inside a stage."""

_INPUT = re.compile(r"embed|rel_|relative|position|token|^encoder\.LayerNorm\.")
"""Names outside all blocks that belong to the input. DeBERTa's `encoder.LayerNorm` is for relative positions."""

_OUTPUT = re.compile(r"norm|ln_f|^head|project_out", re.IGNORECASE)

_Place = tuple[int, ...]


def layers(model: nn.Module, prefix: str) -> Sequence[Sequence[str]]:
    """Names of the parameters, each after `prefix`: what precedes the blocks, each block, what follows them.

    A block is an item of a list of modules that is in no other; lists side by side (the patch embeddings, blocks and
    norms of stages) go along with each other. A stage's own blocks are groups of their own.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    groups: dict[_Place, list[str]] = {}
    for name, _ in model.named_parameters():
        groups.setdefault(_place(name, model, outer), []).append(f"{prefix}{name}")
    return [groups[place] for place in sorted(groups)]


def _place(name: str, model: nn.Module, outer: Sequence[str]) -> _Place:
    """Sort key of a parameter's group: before all blocks, (block, part, inner block) or after all."""
    path = next((path for path in outer if name.startswith(f"{path}.")), None)
    if path is None:
        after = _OUTPUT.search(name) is not None and _INPUT.search(name) is None
        return (2,) if after else (0,)
    index, _, rest = name[len(path) + 1 :].partition(".")
    inner = _inner(model.get_submodule(f"{path}.{index}"))
    for within in inner:
        if rest.startswith(within):
            return (1, int(index), 1, int(rest[len(within) :].partition(".")[0]))
    if not inner and not _beside_stages(path, model, outer):
        return (1, int(index))
    late = re.search(r"norm|downsample", rest or path) is not None and "embed" not in name
    return (1, int(index), 2 if late else 0)


def _inner(block: nn.Module) -> list[str]:
    """What precedes the index in names of blocks inside a stage, relative to it: lists of blocks of one kind.

    T5's blocks hold a list of parts of several kinds: that is no stage.
    """
    if isinstance(block, nn.ModuleList):
        return [""]
    return [
        f"{name}."
        for name, child in block.named_children()
        if isinstance(child, nn.ModuleList | nn.Sequential)
        and _INNER.search(name)
        and len({type(item) for item in child}) == 1
    ]


def _beside_stages(path: str, model: nn.Module, outer: Sequence[str]) -> bool:
    """Whether a list goes along with one of stages in the same module."""
    parent = path.rpartition(".")[0]
    beside = [other for other in outer if other != path and other.rpartition(".")[0] == parent]
    return any(_inner(model.get_submodule(f"{other}.0")) for other in beside)
