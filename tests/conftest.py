"""What every test starts from: an environment of its own, the real data, a third party's plugin."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fabricated import fabricate

if TYPE_CHECKING:
    from searching import Folder

HERE = Path(__file__).parent
_numbers = itertools.count()

# Before any import that reads them: one thread, no hub, and no setting of whoever runs the tests.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("TLBENCH_") and name != "TLBENCH_REAL_DATA"]:
    del os.environ[name]
if os.environ.get("TLBENCH_REAL_DATA"):
    os.environ["TLBENCH_REAL_DATA"] = str(Path(os.environ["TLBENCH_REAL_DATA"]).absolute())


@pytest.fixture(autouse=True)
def not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands speak in CI as everywhere else; what reads CI earlier, as hypothesis does, still sees it."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the caches of the session, so that nobody's own is read or written."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLBENCH_CACHE", str(folder / "session"))
        yield folder


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with an empty cache: data sets made for one are not what they seem to another."""
    monkeypatch.setenv("TLBENCH_CACHE", str(caches / str(next(_numbers))))


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs measure no speed at their end, which takes seconds, unless a test says so."""
    monkeypatch.setenv("TLBENCH_SPEED", "0")


@pytest.fixture(scope="session", autouse=True)
def one_way_to_compute() -> Iterator[None]:
    """Networks compute alike on every CPU, unless a test says otherwise: what is faster differs between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlbench.evaluation.device.other_ways", lambda dtype, may_round: ())
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real weights and data; without it the test is skipped."""
    folder = os.environ.get("TLBENCH_REAL_DATA")
    if not folder:
        pytest.skip("TLBENCH_REAL_DATA is not set: no real weights and data")
    return Path(folder)


@pytest.fixture
def coral(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin `coral` as if it were installed, here and in processes started from here; gives its folder."""
    source = HERE / "third_party"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    information = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    requirements = "".join(f"Requires-Dist: {name}\n" for name in project["dependencies"])
    described = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{requirements}"
    (information / "METADATA").write_text(described)
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["tlbench"].items())
    (information / "entry_points.txt").write_text(f"[tlbench]\n{points}")
    for folder in (source, site):
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return source


@pytest.fixture(scope="session")
def tiny_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plugin `tiny` is installed."""
    site = tmp_path_factory.mktemp("tiny_site")
    fabricate(site, "tiny", (HERE / "tiny.py").read_text())
    return site


@pytest.fixture
def tiny_plugin(tiny_site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin `tiny` as if it were installed, here and in processes started from here; gives its folder.

    Without controls, which would add cells of their own to every board.
    """
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "controls")
    monkeypatch.syspath_prepend(tiny_site)
    monkeypatch.setenv("PYTHONPATH", str(tiny_site), prepend=os.pathsep)
    return tiny_site


@pytest.fixture
def folder(tmp_path: Path, tiny_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A results folder for searches over the plugin `tiny` alone."""
    from searching import Folder
    from tlbench.plugins import discover

    monkeypatch.setenv("TLBENCH_PLUGINS", "tiny")
    return Folder(tmp_path / "run", discover())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU that torch can use")
