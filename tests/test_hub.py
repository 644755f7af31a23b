"""The hub's cache and the hub, both fabricated: what is there, what is fetched, what is said when nothing can be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from tlbench.errors import WeightsError
from tlbench.evaluation import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the network may be asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def put(cache: Path, repository: str, filename: str, text: str = "x") -> Path:
    base = cache / f"models--{repository.replace('/', '--')}"
    file = base / "snapshots" / COMMIT / filename
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (base / "refs").mkdir(exist_ok=True)
    (base / "refs" / "main").write_text(COMMIT)
    return file


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with one repository; what was asked of it is noted."""
    noted: dict[str, Any] = {
        "files": ["config.json", "a.txt", "sub/config.json", "big.bin"],
        "fetched": [],
        "timeouts": [],
    }

    def model_info(self: Any, repository: str, revision: str | None = None, timeout: float | None = None) -> Any:
        noted["timeouts"].append(timeout)
        if isinstance(noted["files"], Exception):
            raise noted["files"]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in noted["files"]])

    def download(repository: str, filename: str, revision: str | None = None) -> str:
        noted["fetched"].append((filename, revision))
        return str(put(cache, repository, filename))

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return noted


def refused(kind: type[Exception], message: str = "no such repository") -> Exception:
    """An answer of the hub's; its classes want a response, which nobody reads here."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def test_the_cache_gives_the_first_file_it_has(cache: Path) -> None:
    file = put(cache, "some/net", "b.bin")
    assert hub.cached_file("some/net", ["a.bin", "b.bin"]) == file
    assert hub.cached_file("some/net", ["b.bin"], COMMIT) == file
    assert hub.cached_file("some/net", ["b.bin"], "f" * 40) is None
    assert hub.cached_file("some/other", ["b.bin"]) is None
    assert hub.cached_folder("some/net", ["a.bin", "b.bin"]) == file.parent
    assert hub.cached_folder("some/net", ["a.bin"]) is None


def test_only_what_is_chosen_is_fetched(server: dict[str, Any]) -> None:
    def choose(names: Any) -> list[str]:
        return [name for name in names if name.endswith("config.json")]

    folder = hub.fetched_folder("files", "some/net", choose, revision=COMMIT)
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "sub"]
    assert server["fetched"] == [("config.json", COMMIT), ("sub/config.json", COMMIT)]
    assert all(0 < timeout <= 10 for timeout in server["timeouts"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (ConnectionError("no route\nto host"), "ConnectionError: no route"),
        (refused(RepositoryNotFoundError), "RepositoryNotFoundError: no such repository"),
        (["other.txt"], "the repository has no such file"),
    ],
)
def test_what_cannot_be_had_is_named_in_one_line(files: Any, said: str, server: dict[str, Any], cache: Path) -> None:
    server["files"] = files
    with pytest.raises(WeightsError) as caught:
        hub.fetched_folder("weights of 'net'", "some/net", lambda names: [n for n in names if n == "config.json"])
    message = str(caught.value)
    for part in ("weights of 'net' are neither in", str(cache), said, "'hf download some/net'", "HF_HOME"):
        assert part in message
    assert "\n" not in message


def test_offline_the_hub_is_not_asked(server: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*; try another$"):
        hub.fetched_folder("weights", "some/net", list, advice="try another")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        hub.fetched_file("weights", "some/net", ["config.json"])
    assert server["timeouts"] == []
    assert server["fetched"] == []


def test_a_repository_is_one_that_the_hub_knows(server: dict[str, Any]) -> None:
    assert hub.is_repository("some/net")
    server["files"] = refused(GatedRepoError)
    assert hub.is_repository("some/net")
    server["files"] = refused(RepositoryNotFoundError)
    assert not hub.is_repository("some/net")
    server["files"] = ConnectionError("no route")
    with pytest.raises(ConnectionError):
        hub.is_repository("some/net")


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert hub.sha256(one) == "sha256:" + hashlib.sha256(b"1").hexdigest()
    both = hub.sha256(one, two)
    assert both == hub.sha256(two, one)
    two.write_bytes(b"3")
    assert hub.sha256(one, two) != both
    two.write_bytes(b"2")
    assert hub.sha256(one, two.rename(tmp_path / "three")) != both


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ValueError("one\ntwo"), "ValueError: one"),
        (lambda: OSError(), "OSError:"),
        (lambda: ValueError("x" * 500), "ValueError: " + "x" * 188),
    ],
)
def test_an_error_becomes_one_line(make: Callable[[], Exception], said: str) -> None:
    assert hub.one_line(make()) == said
