"""Weights: where a model's checkpoint lies on this machine, and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlparse

from tlbench.errors import WeightsError
from tlbench.evaluation import hub

_SCRATCH = "the strategy 'basic/scratch' needs no weights"


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
    return Checkpoint(path=path, identity=hub.sha256(path))


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
    path = hub.cached_file(repository, filenames, revision or None)
    if path is None:
        path = hub.fetched_file(f"weights of '{name}'", repository, filenames, revision or None, _SCRATCH)
    return Checkpoint(path=path, identity=path.parent.name)  # snapshots/<commit>/<file>


def _from_url(name: str, url: str | tuple[str, str]) -> Checkpoint:
    """Take a checkpoint from torch hub's cache or the web: a few models have no repository on the hub."""
    import torch.hub

    address, filename = (url, Path(urlparse(url).path).name) if isinstance(url, str) else url
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    reason = "" if path.is_file() else hub.offline() or _downloaded(address, path)
    if reason:
        raise WeightsError(
            f"weights of '{name}' are neither in {path.parent} nor to be had ({reason}): where there is network fetch"
            f" {address}, then put it into that folder or point TORCH_HOME to it; {_SCRATCH}"
        )
    return Checkpoint(path=path, identity=hub.sha256(path))


def _downloaded(address: str, path: Path) -> str:
    """Fetch a file; return what went wrong, or nothing."""
    import torch.hub

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(address, str(path), progress=False)
    except OSError as error:
        return hub.one_line(error)
    return ""
