"""States: paused and ended trainings in the cache, from which others of the same trajectory go on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tlbench import files
from tlbench.caches import open_section
from tlbench.errors import CacheError
from tlbench.evaluation.device import Compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.freezing import tensor_digest
from tlbench.evaluation.machine import version
from tlbench.evaluation.snapshot import Snapshot
from tlbench.strategies import TrainedStrategy
from tlbench.trial import Trial, canonical_json

KEPT = 3
"""Paused states that are kept of one trajectory, the newest, and as many ended ones: one for each rung of up to nine
epochs. What is trained in these rungs has nothing to train in the same search again, nor in a final on its seed."""

SCHEMA = 3
"""Version of what a state holds: raised when the same trajectory no longer goes on from it bit for bit."""

SECTION = "states"

_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft")
_SUFFIX = ".safetensors"
_ENDED = "ended-"


def trajectory(trial: Trial, compute: Compute, passes: Compute | None = None) -> dict[str, Any]:
    """Everything that a training depends on before its rate decays: not how long it is to be, nor what it is for.

    `passes`: how the features were computed on which its head began as a probe. Threads and libraries are part of it:
    the last bits depend on them.
    """
    of_trial = {name: value for name, value in asdict(trial).items() if name not in ("epochs", "stage")}
    return {
        "schema": SCHEMA,
        "trial": of_trial,
        "device": compute.device.type,
        "dtype": compute.dtype_name,
        "passes": None if passes is None else [passes.dtype_name, passes.channels_last],
        "threads": compute.threads,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


@final
class States:
    """The states of one trajectory: a file each, which has its name only once it is whole.

    What cannot be read is as if it were not there; what cannot be written is told once and left.
    """

    def __init__(self, key: Mapping[str, Any], disk: Disk, *, writes: bool = True) -> None:
        """`key` stands inside every file and is compared; `writes` says whether more states are wanted."""
        self._key, self._disk, self._wanted = canonical_json(key), disk, writes

    @property
    def writes(self) -> bool:
        """Whether more states are wanted and there is room for them."""
        return self._wanted and self._disk.writable

    def before(self, step: int) -> Iterator[Snapshot]:
        """Those taken at `step` or before it, the latest first."""
        paths = [path for path in self._paths() if int(path.stem) <= step]
        yield from self._whole(sorted(paths, key=lambda path: int(path.stem), reverse=True))

    def at_end(self, step: int) -> Iterator[Snapshot]:
        """The one after the last step of a training that had so many, if it is there."""
        yield from self._whole(path for path in self._paths(_ENDED) if path.stem == f"{_ENDED}{step}")

    def put(self, step: int, snapshot: Snapshot, *, ended: bool = False) -> None:
        """Keep what a training is at `step`, and of the older ones the newest; nothing where there is no room.

        `ended`: it was to have no more steps, and its rate has decayed.
        """
        if not self.writes:
            return
        facts = canonical_json(snapshot.facts)
        header = {"key": self._key, "facts": facts, "digest": _digest(facts, snapshot.tensors)}
        content = save(dict(snapshot.tensors), header)
        if len(content) > self._disk.limit_bytes:
            return
        try:
            folder = self._folder()
            folder.mkdir(exist_ok=True)
            part = files.part_of(folder)
            try:
                files.write(part, content)
                kind = _ENDED if ended else ""
                part.replace(folder / f"{kind}{step}{_SUFFIX}")
            finally:
                files.discard(part)
            for old in sorted(_paths(folder, kind), key=_written)[:-KEPT]:
                files.discard(old)
            self._disk.wrote(len(content))
        except (OSError, CacheError) as error:
            _tell(getattr(error, "strerror", None) or str(error))

    def _paths(self, kind: str = "") -> list[Path]:
        try:
            return _paths(self._folder(), kind) if self._disk.limit_bytes else []
        except (OSError, CacheError):
            return []

    def _whole(self, paths: Iterable[Path]) -> Iterator[Snapshot]:
        for path in paths:
            snapshot = self._read(path)
            if snapshot is not None:
                yield snapshot

    def _folder(self) -> Path:
        return open_section(SECTION) / hashlib.sha256(self._key.encode()).hexdigest()

    def _read(self, path: Path) -> Snapshot | None:
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("key") != self._key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            if _digest(header["facts"], tensors) != header["digest"]:
                return None
            return Snapshot(tensors=tensors, facts=json.loads(header["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None


def open_states(
    trial: Trial, strategy: TrainedStrategy, compute: Compute, passes: Compute | None, disk: Disk
) -> States | None:
    """Where a trial's training is paused and resumed; a final adds no state: nothing goes on from there.

    None for a strategy that is told at every epoch how many there are to be: after as many steps of a longer training
    it may have done something else.
    """
    if type(strategy).begin_epoch is not TrainedStrategy.begin_epoch:
        return None
    return States(trajectory(trial, compute, passes), disk, writes=trial.stage == "search")


def _paths(folder: Path, kind: str) -> list[Path]:
    return [path for path in folder.glob(f"{kind}*{_SUFFIX}") if path.stem.removeprefix(kind).isdecimal()]


def _written(path: Path) -> int:
    """When; another process may have removed it by now."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over facts, names, shapes and contents: the file's format checks its sizes alone."""
    lines = [f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor_digest(tensor)}" for name, tensor in tensors.items()]
    return hashlib.sha256("\n".join([facts, *sorted(lines)]).encode()).hexdigest()


@cache
def _tell(reason: str) -> None:
    """Once in a process."""
    logging.getLogger(__name__).warning("trainings cannot be paused, longer ones begin anew: %s", reason)
