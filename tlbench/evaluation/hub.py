"""The Hugging Face hub: which files of a repository are on this machine, how to get them, what identifies them."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tlbench.errors import WeightsError

TIMEOUT_S = 5.0
"""For the hub's first answer. Its client would otherwise try for half a minute where there is no network."""


def cached_file(repository: str, filenames: Sequence[str], revision: str | None = None) -> Path | None:
    """The first of `filenames` that the local cache has, at `revision` or else where the cache's main branch stands."""
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        found = try_to_load_from_cache(repository, filename, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetched_file(
    what: str, repository: str, filenames: Sequence[str], revision: str | None = None, advice: str = ""
) -> Path:
    """The first of `filenames` that the hub has, fetched into the cache.

    Raises `WeightsError` about `what` where the hub has none of them or is out of reach; `advice` ends the message.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    reason = offline()
    for filename in () if reason else filenames:
        try:
            get_hf_file_metadata(hf_hub_url(repository, filename, revision=revision), timeout=TIMEOUT_S)
            return Path(hf_hub_download(repository, filename, revision=revision))
        except EntryNotFoundError as error:  # another file may be there
            reason = one_line(error)
        except Exception as error:  # whatever the network's client raises, the remedy is the same
            reason = one_line(error)
            break
    raise out_of_reach(what, reason, f"{repository} {filenames[0]}", advice)


def cached_folder(repository: str, filenames: Sequence[str], revision: str | None = None) -> Path | None:
    """The folder of the snapshot in the local cache, where it has one of `filenames`."""
    file = cached_file(repository, filenames, revision)
    return None if file is None else file.parent


def fetched_folder(
    what: str,
    repository: str,
    choose: Callable[[Sequence[str]], Sequence[str]],
    revision: str | None = None,
    advice: str = "",
) -> Path:
    """The folder of a snapshot, after fetching those of the repository's files that `choose` picks from all names.

    Raises `WeightsError` about `what` where it picks none or the hub is out of reach; `advice` ends the message.
    """
    from huggingface_hub import HfApi, hf_hub_download

    reason = offline()
    if not reason:
        try:
            information = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S)
            chosen = choose([file.rfilename for file in information.siblings or ()])
            for name in chosen:
                hf_hub_download(repository, name, revision=revision)
            found = cached_folder(repository, [name for name in chosen if "/" not in name], revision)
            if found is not None:
                return found
            reason = "the repository has no such file"
        except Exception as error:  # whatever the network's client raises, the remedy is the same
            reason = one_line(error)
    raise out_of_reach(what, reason, repository, advice)


def is_repository(repository: str) -> bool:
    """Whether the hub has a repository of models of this name. Raises what the hub's client raises without an answer.

    One that needs permission counts.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(repository, timeout=TIMEOUT_S)
    except GatedRepoError:
        return True
    except (RepositoryNotFoundError, HFValidationError):
        return False
    return True


def out_of_reach(what: str, reason: str, download: str, advice: str = "") -> WeightsError:
    """The error for what is neither cached nor to be had; `download`: arguments of `hf download` that would get it."""
    from huggingface_hub import constants

    return WeightsError(
        f"{what} are neither in {constants.HF_HUB_CACHE} nor to be had from the hub ({reason}): where there is network"
        f" run 'hf download {download}', then copy the cache here or point HF_HOME to it" + (advice and f"; {advice}")
    )


def offline() -> str:
    """Why the network is not to be used; nothing where it is."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""


def reachable(timeout_s: float = TIMEOUT_S) -> str:
    """Why the hub cannot be asked; empty if it answers. HF_ENDPOINT, HF_HUB_OFFLINE and proxies hold.

    Does not import the hub's client whole. The name's resolution counts towards the time, too.
    """
    from huggingface_hub import constants

    reason, answers = offline(), queue.SimpleQueue[str]()
    if reason:
        return reason
    threading.Thread(target=lambda: answers.put(_asked(constants.ENDPOINT, timeout_s)), daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return _silent(constants.ENDPOINT, timeout_s)


def stay_offline() -> None:
    """Keep every library of this process, and of those it starts, from asking the hub again."""
    import os

    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def cache_folder() -> Path:
    """Where the hub's client keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_repositories() -> list[tuple[str, int]]:
    """Names of the repositories in the hub's cache, with their kind, and their bytes; the largest first."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        found = scan_cache_dir(cache_folder()).repos
    except CacheNotFound:
        return []
    sizes = [(f"{repository.repo_type}s/{repository.repo_id}", repository.size_on_disk) for repository in found]
    return sorted(sizes, key=lambda one: (-one[1], one[0]))


def _asked(address: str, timeout_s: float) -> str:
    """What went wrong when a web server was asked for its first page; an answer of any kind is none of it."""
    from urllib.error import HTTPError
    from urllib.request import Request, build_opener

    if not address.startswith(("http://", "https://")):
        return f"HF_ENDPOINT is {address!r}, which is no address of a web server"
    try:
        with build_opener().open(Request(address, method="HEAD"), timeout=timeout_s):  # noqa: S310
            return ""
    except HTTPError as error:
        return "" if error.code < 500 else f"{address} answers {error.code} {error.reason}"
    except Exception as error:  # whatever else may be between here and there
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            return _silent(address, timeout_s)
        return f"{address} cannot be reached: {one_line(reason) if reason is error else reason}"


def _silent(address: str, timeout_s: float) -> str:
    return f"{address} did not answer within {timeout_s:g} s"


def sha256(*paths: Path) -> str:
    """`sha256:` and the hash of a file's bytes; of several files, that of their names and hashes in order of name."""
    if len(paths) == 1:
        with paths[0].open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    lines = sorted(f"{path.name} {sha256(path)}\n" for path in paths)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says, shortened."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
