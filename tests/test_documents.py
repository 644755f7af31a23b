"""The documents: what they say to type, to write and to open is there and works."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from safetensors.torch import save_file

from fabricated import fabricate
from tlbench.benchmark import Benchmark, load_benchmark
from tlbench.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = ("plugins", "plugins/tlbench_basic", "plugins/tlbench_zoo", "benchmarks", "results")
DOCUMENTS = [README, *(ROOT / folder / "README.md" for folder in FOLDERS)]
Load = Callable[[str], Benchmark]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.toml"))


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def readme_benchmarks() -> list[str]:
    return [block for block in blocks(README, "toml") if "backbones" in tomllib.loads(block)]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the text of a benchmark file; names are not resolved."""
    monkeypatch.setenv("TLBENCH_REAL_DATA", str(tmp_path))
    monkeypatch.setenv("TLBENCH_MINILM", str(tmp_path))

    def load_text(text: str) -> Benchmark:
        file = tmp_path / "benchmark.toml"
        file.write_text(text)
        return load_benchmark(file)

    return load_text


def test_the_second_command_is_what_runs_in_ci() -> None:
    _, second = blocks(README, "sh")
    *_, last = (ROOT / ".ci" / "run").read_text().strip().splitlines()
    assert last == second.strip()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_tox_tests_every_python_that_is_declared() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    environments = [f"py{version.replace('.', '')}" for version in versions]
    assert tox["tox"]["env_list"].replace(" ", "").split(",") == [*environments, "lint"]
    assert all(version in README.read_text() for version in versions)
    assert project["requires-python"] == f">={versions[0]}"


def test_the_first_command_installs_this_and_runs_the_quickstart() -> None:
    first, _ = blocks(README, "sh")
    install, run = (shlex.split(part) for part in first.split("&&"))
    assert install == ["python", "-m", "pip", "install", "."]
    assert run == ["tlbench", "quickstart"]


def _command(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def test_every_command_and_option_in_the_readme_exists() -> None:
    rows = re.findall(r"^\| `tlbench (\w+)[^`]*` \| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(COMMANDS)
    for name, described in rows:
        known = {option for parameter in _command(name).params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", described)) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_what_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", document.read_text())
    for link in links:
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve()
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in [text.lower().replace(" ", "-") for text in headings], link


def test_every_benchmark_is_described() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert BENCHMARKS
    assert re.findall(r"^\| \[(\S+)\]\(\1\)", text, re.MULTILINE) == [path.name for path in BENCHMARKS]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_files_load_and_survive_being_written(path: Path, load: Load) -> None:
    benchmark = load_benchmark(path)
    assert benchmark.name == path.stem
    assert load(benchmark.to_toml()) == benchmark


def test_benchmark_files_in_the_readme_load(load: Load) -> None:
    texts = readme_benchmarks()
    (photos, own, reviews) = [load(text) for text in texts]
    assert [declared.name for declared in photos.declared_datasets] == list(photos.datasets)
    assert photos.search.budget_s == 7200
    assert [declared.name for declared in own.declared_backbones] == list(own.backbones)
    assert reviews.declared_datasets[0].options == {"text": "review", "label": "stars"}


def test_python_in_the_documents_compiles() -> None:
    texts = [text for document in DOCUMENTS for text in blocks(document, "python")]
    assert len(texts) == 2
    for text in texts:
        compile(text, "README.md", "exec", dont_inherit=True)


def test_python_in_the_readme_uses_the_interface_that_there_is() -> None:
    import tlbench

    used = set(re.findall(r"tlbench\.(\w+)\(", blocks(README, "python")[0]))
    assert used == set(tlbench.__all__)


def test_the_plugin_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    import importlib

    import tlbench

    (project,) = [tomllib.loads(text)["project"] for text in blocks(README, "toml") if "[project]" in text]
    ((name, module),) = project["entry-points"]["tlbench"].items()
    fabricate(tmp_path, project["name"], blocks(README, "python")[1], entry_point=name, requires=["tlbench"])
    monkeypatch.syspath_prepend(tmp_path)
    plugin = importlib.import_module(module)
    save_file(plugin.Net().state_dict(), plugin.FILE)
    benchmark = load(
        'backbones = ["small/*"]\nstrategies = ["small/*", "basic/linear-probe"]\ndatasets = ["few/digits"]\n'
        'seeds = [0]\nsearch = { trials = 1, epochs = 1 }\ndevice = { kind = "cpu", threads = 1 }\n'
        '[[dataset]]\nname = "few/digits"\nbase = "data/digits"\nshots = 5\n'
    )
    frame = tlbench.run_benchmark(benchmark, tmp_path / "results")
    controls = {"controls/majority", "controls/pixel-svm"}
    assert set(frame["strategy"]) == {"small/bias-only", "basic/linear-probe", *controls}
    assert set(frame["state"]) == {"final"}


def test_nothing_names_a_registry() -> None:
    hosts = re.compile(r"pypi\.org|pythonhosted|download\.pytorch|index-url|find-links")
    files = [ROOT / "tox.ini", ROOT / "pyproject.toml", ROOT / ".ci" / "run", *DOCUMENTS]
    assert [path.name for path in files if hosts.search(path.read_text())] == []
