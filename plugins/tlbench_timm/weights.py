"""Weights: where a model's checkpoint lies on this machine, and what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlparse

from tlbench.errors import WeightsError

_SCRATCH = "the strategy 'basic/scratch' needs no weights"
_TIMEOUT_S = 5.0
"""For the hub's first answer. Its client would otherwise try for half a minute where there is no network."""


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights on this machine."""

    path: Path
    identity: str
    """The hub's commit, or `sha256:` and the hash of the file."""


def declared(path: Path) -> Checkpoint:
    """Take a file of the user's own."""
    if not path.is_file():
        raise WeightsError(f"weights {path} are no longer there: put the file back or change the benchmark file")
    return Checkpoint(path=path, identity=_sha256(path))


def published(name: str) -> Checkpoint:
    """Take the weights that timm publishes as ``architecture.tag``, from the local cache or else by fetching them.

    Raises `WeightsError` where they are neither cached nor within reach.
    """
    from timm.models import get_pretrained_cfg

    source = get_pretrained_cfg(name)
    if source is not None and source.hf_hub_id:
        return _from_hub(name, source)
    if source is not None and source.url:
        return _from_url(name, source.url)
    raise WeightsError(f"timm publishes no weights for '{name}'; {_SCRATCH}")


def _from_hub(name: str, source: Any) -> Checkpoint:
    """Take a checkpoint from the hub's cache or the hub, safetensors before a torch file."""
    repository, _, revision = source.hf_hub_id.partition("@")
    filenames = [source.hf_hub_filename] if source.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    path = _cached(repository, filenames, revision or None) or _fetched(name, repository, filenames, revision or None)
    return Checkpoint(path=path, identity=path.parent.name)  # snapshots/<commit>/<file>


def _cached(repository: str, filenames: Sequence[str], revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        found = try_to_load_from_cache(repository, filename, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _fetched(name: str, repository: str, filenames: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    reason = _offline()
    for filename in () if reason else filenames:
        try:
            get_hf_file_metadata(hf_hub_url(repository, filename, revision=revision), timeout=_TIMEOUT_S)
            return Path(hf_hub_download(repository, filename, revision=revision))
        except EntryNotFoundError as error:  # the other format may be there
            reason = _line(error)
        except Exception as error:  # whatever the network's client raises, the remedy is the same
            reason = _line(error)
            break
    raise WeightsError(
        f"weights of '{name}' are neither in {constants.HF_HUB_CACHE} nor to be had from the hub ({reason}): where"
        f" there is network run 'hf download {repository} {filenames[0]}', then copy the cache here or point HF_HOME"
        f" to it; {_SCRATCH}"
    )


def _from_url(name: str, url: str | tuple[str, str]) -> Checkpoint:
    """Take a checkpoint from torch hub's cache or the web: a few models have no repository on the hub."""
    import torch.hub

    address, filename = (url, Path(urlparse(url).path).name) if isinstance(url, str) else url
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    reason = "" if path.is_file() else _offline() or _downloaded(address, path)
    if reason:
        raise WeightsError(
            f"weights of '{name}' are neither in {path.parent} nor to be had ({reason}): where there is network fetch"
            f" {address}, then put it into that folder or point TORCH_HOME to it; {_SCRATCH}"
        )
    return Checkpoint(path=path, identity=_sha256(path))


def _downloaded(address: str, path: Path) -> str:
    """Fetch a file; return what went wrong, or nothing."""
    import torch.hub

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(address, str(path), progress=False)
    except OSError as error:
        return _line(error)
    return ""


def _offline() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
