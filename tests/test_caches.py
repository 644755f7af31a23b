"""The cache: where it is, what it holds, and that clearing it removes nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tlbench import caches
from tlbench.cli import main
from tlbench.errors import CacheError, UnknownNameError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's root, not there yet, and a hub's cache that is not there either."""
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def cache(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["cache", *arguments], input=answer)


def filled(name: str = "features", size: int = 2048) -> Path:
    """A section with a file of this size."""
    folder = caches.open_section(name)
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "file").write_bytes(b"x" * size)
    return folder


def test_the_root_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TLBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert caches.root() == tmp_path / ".cache" / "tlbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert caches.root() == tmp_path / ".cache" / "tlbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert caches.root() == Path("/somewhere/tlbench")
    monkeypatch.setenv("TLBENCH_CACHE", "~/own")
    assert caches.root() == tmp_path / "own"


def test_a_section_is_made_once_and_marked_as_a_cache(root: Path) -> None:
    folder = caches.open_section("features")
    assert folder == root / "features"
    assert (folder / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    (folder / "file").touch()
    assert caches.open_section("features") == folder
    assert sorted(path.name for path in root.rglob("*")) == ["CACHEDIR.TAG", "features", "file"]


def test_an_empty_folder_becomes_a_section_and_one_with_files_does_not(root: Path) -> None:
    (root / "features").mkdir(parents=True)
    (root / "samples").mkdir()
    (root / "samples" / "thesis.txt").touch()
    assert (caches.open_section("features") / "CACHEDIR.TAG").exists()
    with pytest.raises(CacheError, match=r"samples' was not made by tlbench: let TLBENCH_CACHE name another folder"):
        caches.open_section("samples")
    assert cache("clear", "--yes").exit_code == 0
    assert (root / "samples" / "thesis.txt").exists(), "of somebody who let TLBENCH_CACHE name the wrong folder"
    assert not (root / "features").exists()


@pytest.mark.parametrize("name", ["..", "../..", "/etc", ".", "", "feature"])
def test_no_name_leads_out_of_the_root(root: Path, name: str) -> None:
    filled()
    for use in (caches.open_section, caches.clear):
        with pytest.raises(UnknownNameError):
            use(name)
    result = cache("clear", "--yes", "--", name)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"tlbench: error: no section of the cache '{name}'")
    assert (root / "features" / "deep" / "file").exists()


def test_list_and_size_say_what_there_is(root: Path) -> None:
    filled(size=3 * 2**20)
    lines = cache("list").stdout.splitlines()
    assert lines[0] == f"{root}:"
    assert lines[2].split()[:4] == ["features", "1", "3", "MiB"]
    assert lines[-1] == "nothing"
    assert cache("size").stdout.splitlines()[0] == f"3 MiB  {root}"


def test_nothing_is_there_and_nothing_is_made_by_looking(root: Path) -> None:
    assert cache("list").stdout.splitlines() == [f"{root}:", "nothing", "", f"{root.parent}/hub:", "nothing"]
    assert cache("clear").stdout == f"nothing to clear in {root}\n"
    assert not root.exists()


def test_the_hub_s_repositories_are_shown_and_never_cleared(root: Path) -> None:
    blob = root.parent / "hub" / "models--org--net" / "blobs" / "abc"
    snapshot = blob.parents[1] / "snapshots" / ("0" * 40) / "model.safetensors"
    for path in (blob.parent, snapshot.parent):
        path.mkdir(parents=True)
    blob.write_bytes(b"x" * 2048)
    snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
    filled()
    assert cache("list").stdout.splitlines()[-1].split() == ["models/org/net", "2", "KiB"]
    assert cache("size").stdout.splitlines()[1] == f"2 KiB  {root.parent}/hub"
    assert cache("clear", "--yes").exit_code == 0
    assert blob.exists()
    assert "hf cache" in cache("clear", "--help").stdout


def test_clear_asks_and_takes_no_for_an_answer(root: Path) -> None:
    for name in caches.SECTIONS:
        filled(name)
    refused = cache("clear", answer="n\n")
    assert refused.exit_code == 2
    assert "nothing was cleared; --yes clears without asking" in refused.stderr
    assert cache("clear").exit_code == 2, "at the end of a pipe nobody answers"
    assert len(caches.sections()) == len(caches.SECTIONS)
    agreed = cache("clear", "features", answer="y\n")
    assert agreed.exit_code == 0
    assert agreed.stdout == "cleared 2 KiB\n"
    assert [section.name for section in caches.sections()] == [name for name in caches.SECTIONS if name != "features"]
    assert cache("clear", "--yes").exit_code == 0
    assert caches.sections() == []


def test_links_inside_a_section_are_removed_and_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x" * 9999)
    folder = filled(size=1)
    (folder / "folder").symlink_to(outside)
    (folder / "deep" / "link").symlink_to(outside / "file")
    assert caches.sections()[0].size_bytes < 1000
    caches.clear("features")
    assert not folder.exists()
    assert (outside / "file").stat().st_size == 9999


def test_a_section_that_is_a_link_is_left_alone(root: Path, tmp_path: Path) -> None:
    target = filled().rename(tmp_path / "elsewhere")
    (root / "features").symlink_to(target)
    for command in (("list",), ("size",), ("clear", "--yes")):
        result = cache(*command)
        assert result.exit_code == 2
        assert f"'{root}/features' is a link to '{target}'" in result.stderr
    assert (target / "deep" / "file").exists()


def test_a_root_that_is_a_file_is_one_line(root: Path) -> None:
    root.write_text("")
    for command in (("list",), ("size",), ("clear", "--yes")):
        result = cache(*command)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert f"cannot read the cache '{root}': Not a directory" in result.stderr
    with pytest.raises(CacheError, match="let TLBENCH_CACHE name another folder"):
        caches.open_section("features")


def test_what_may_not_be_written_or_removed_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "deep"))

    monkeypatch.setattr("shutil.rmtree", refuse)  # whoever runs the tests may be root, whom no mode stops
    result = cache("clear", "--yes")
    assert result.exit_code == 2
    assert result.stderr == (f"tlbench: error: cannot clear the cache '{folder}': {folder}/deep: Permission denied\n")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CacheError, match="cannot be written: let TLBENCH_CACHE"):
        caches.open_section("features")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CacheError, match=r"cannot make the cache .*: Permission denied"):
        caches.open_section("samples")


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (5 * 2**30, "5.0 GiB"), (2**42, "4096.0 GiB")]
)
def test_sizes_are_told_in_units_that_fit(size: int, expected: str) -> None:
    assert caches.text(size) == expected
