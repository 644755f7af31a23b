"""Loading: put a checkpoint into a timm model without running code from the file and without leaving a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tlbench.errors import WeightsError

_Keys = tuple[Sequence[str], Sequence[str]]
"""Names of the model that the checkpoint lacks, and names of the checkpoint that the model lacks."""


def load_into(build: Callable[[Mapping[str, Any]], nn.Module], path: Path, architecture: str) -> nn.Module:
    """Build a headless model with the weights of the file at `path`, whatever classifier that file has.

    `build` makes the model, given the entries of timm's pretrained configuration to override. timm then reads the file
    itself, safetensors or `torch.load` with ``weights_only``, and its checkpoint filter renames and resizes what
    older files hold. Raises `WeightsError` where the file cannot be read or is not this architecture's.
    """
    try:
        with _loads_recorded() as loads:
            module = build({"file": str(path), "custom_load": False})
    except MemoryError:
        raise
    except Exception as error:  # timm, torch and safetensors each raise their own
        raise _unreadable(path, architecture, error) from error
    missing, unexpected = loads[id(module)]
    _refuse(path, architecture, "lacks", list(missing))
    _refuse(path, architecture, "has more than that model:", _left_over(module, unexpected))
    return module


@contextmanager
def _loads_recorded() -> Iterator[dict[int, _Keys]]:
    """Record what `load_state_dict` on this thread says of its keys, by the module's id.

    timm's loader alone knows the filter that belongs to a model, and keeps what came of the keys to itself: it logs
    them, or raises for the classifier of a file that the headless model has no place for.
    """
    original, thread = nn.Module.load_state_dict, threading.get_ident()
    loads: dict[int, _Keys] = {}

    def load_state_dict(
        self: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        if threading.get_ident() != thread:
            return original(self, state_dict, strict=strict, assign=assign)
        keys = original(self, state_dict, strict=False, assign=assign)
        loads[id(self)] = (keys.missing_keys, keys.unexpected_keys)
        return type(keys)([], [])  # judged below, not in timm's log

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield loads
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _left_over(module: nn.Module, unexpected: Sequence[str]) -> list[str]:
    """Name what lies inside a part that the model has: a deeper model's blocks, not a classifier or a mask token.

    Buffers that a newer timm computes instead of storing are no sign of another architecture.
    """
    parts = {name.partition(".")[0] for name, _ in module.named_parameters()}
    known = {name for name, _ in module.named_buffers()}
    classifiers = _prefixes(module)
    return [
        name
        for name in unexpected
        if name.partition(".")[0] in parts and name not in known and not name.startswith(classifiers)
    ]


def _prefixes(module: Any) -> tuple[str, ...]:
    names = module.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _refuse(path: Path, architecture: str, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise WeightsError(
            f"weights {path} are not those of {architecture}: the file {what} {', '.join(names[:3])}{more}"
        )


def _unreadable(path: Path, architecture: str, error: Exception) -> WeightsError:
    if type(error.__cause__).__name__ == "UnpicklingError":
        return WeightsError(
            f"weights {path} are refused: reading them would run code. Save the tensors alone, best as safetensors"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "; ".join(lines[:4]) or type(error).__name__
    return WeightsError(f"weights {path} do not load into {architecture}: {said}")
