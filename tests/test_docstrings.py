"""Docstrings as data: what is taken from source files, what is masked, and that it is a question worth asking."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tlbench.errors import DataError
from tlbench.evaluation.data import load_data
from tlbench_data.docstrings import MASK, PACKAGES, PER_PACKAGE, Docstrings
from tlbench_data.sources import MOST_WORDS, PER_FILE, beginning, docstrings, package_folder

GIVEAWAYS = re.compile(r"numpy|scipy|pandas|sklearn|scikit-learn|torch|transformers|optuna|\bnp\b|\bpd\b|\bray\b", re.I)


@pytest.fixture(scope="module")
def parsed() -> list[object]:
    """What was parsed to make the data set below."""
    return []


@pytest.fixture(scope="module")
def dataset(parsed: list[object]) -> Docstrings:
    parse = ast.parse

    def counted(source: bytes) -> ast.Module:
        parsed.append(source)
        return parse(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ast.parse", counted)
        made = Docstrings()
        made.load(0)
    return made


def package(site: Path, name: str, files: dict[str, str]) -> Path:
    """A package in `site` that ends the interpreter when it is imported."""
    for file, text in {"__init__.py": "raise SystemExit(f'{__name__} was imported')\n", **files}.items():
        (site / name / file).parent.mkdir(parents=True, exist_ok=True)
        (site / name / file).write_text(text)
    return site / name


def documented(name: str, topic: str) -> str:
    """A function of that name with a docstring of its own."""
    return f'def {name}():\n    """What {name} does in {topic} takes at least eight words to say."""\n'


def many(topic: str, files: int = 10) -> dict[str, str]:
    return {f"m{n}.py": "".join(documented(f"f{n}_{i}", topic) for i in range(8)) for n in range(files)}


# What is taken


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One line.", "One line."),
        ("One\n    line.\n\n    Two.\n\n    Three.", "One line. Two."),
        ("One.\n\n    Parameters\n    ----------\n    x : int", "One."),
        ("One.\n\n    Args:\n        x: an integer", "One."),
        ("One.\n\n    >>> one()", "One."),
        ("One.\n\n    .. versionadded:: 1.2", "One."),
        ("One.\n\n    :param x: an integer", "One."),
        (" ".join(["word"] * 99), " ".join(["word"] * MOST_WORDS)),
        ("\n\n", ""),
    ],
)
def test_the_beginning_is_prose(docstring: str, expected: str) -> None:
    assert beginning(docstring) == expected


def test_functions_methods_and_classes_are_taken_by_their_qualified_names(tmp_path: Path) -> None:
    words = "has a docstring of more than eight words in it"
    inner = f'class C:\n    """C {words}."""\n    async def m(self):\n        """m {words}."""\n'
    hidden = f'def outer():\n    def inner():\n        """inner {words}."""\n\ndef short():\n    """Too short."""\n'
    folder = package(tmp_path, "pack", {"sub/mod.py": inner + hidden, "sub/__init__.py": documented("top", "sub")})
    assert dict(docstrings(folder, "pack")) == {
        "pack.sub.mod:C": f"C {words}.",
        "pack.sub.mod:C.m": f"m {words}.",
        "pack.sub:top": "What top does in sub takes at least eight words to say.",
    }


def test_tests_and_copies_of_others_are_left_out(tmp_path: Path) -> None:
    left_out = ["tests/a.py", "test/a.py", "sub/testing/a.py", "_vendor/a.py", "externals/a.py", "thirdparty_f/a.py",
                "test_a.py", "a_test.py", "conftest.py", "generated/a.py"]  # fmt: skip
    taken = {"latest.py": documented("one", "a"), "contest/attest.py": documented("two", "b")}
    folder = package(tmp_path, "pack", {**dict.fromkeys(left_out, documented("no", "tests")), **taken})
    assert {name for name, _ in docstrings(folder, "pack")} == {"pack.latest:one", "pack.contest.attest:two"}


def test_files_that_are_no_python_are_passed_over(tmp_path: Path) -> None:
    bad = {"old.py": "print 'old'\n", "null.py": "x = '\0'\n", "deep.py": "(" * 5000, "good.py": documented("one", "a")}
    folder = package(tmp_path, "pack", {**bad, "escape.py": documented("two", "b") + "x = '\\d'\n"})
    (folder / "latin.py").write_bytes(b"# \xe9\n")
    assert {name for name, _ in docstrings(folder, "pack")} == {"pack.good:one", "pack.escape:two"}


def test_no_file_gives_more_than_its_share(tmp_path: Path) -> None:
    folder = package(tmp_path, "pack", {"big.py": "".join(documented(f"f{i}", "big") for i in range(40))})
    assert len(list(docstrings(folder, "pack"))) == PER_FILE


# The data set


def test_packages_are_read_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "alphapack", many("alpha") | {"again.py": documented("f0_0", "alpha")})
    package(tmp_path, "betapack", many("beta") | {"own.py": documented("g", "BetaPack or alphapack.betapack")})
    package(tmp_path, "smallpack", many("small", files=2))
    (tmp_path / "flatpack.py").write_text(documented("f", "flat"))
    dataset = Docstrings(("alphapack", "betapack", "smallpack", "flatpack", "nopack"), per_package=500)
    train = dataset.load(0).train
    assert train.class_names == ("alphapack", "betapack")
    assert np.bincount(train.labels).tolist() == [80, 81]  # 8 x 10; the copy of one is dropped, `own` is one more
    texts = dict(zip(train.ids, (train[i] for i in range(len(train))), strict=True))
    assert texts["betapack.own:g"] == f"What g does in {MASK} or {MASK}.{MASK} takes at least eight words to say."
    assert not {"alphapack", "betapack"} & sys.modules.keys()
    capped = Docstrings(("alphapack", "betapack"), per_package=60)
    assert np.bincount(capped.load(0).train.labels).tolist() == [60, 60]
    assert set(capped.load(0).train.ids) < set(train.ids)


def test_a_text_that_several_packages_have_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    shared = {"shared.py": documented("same", "twopack") + documented("other", "onepack")}
    package(tmp_path, "onepack", many("one") | shared)
    package(tmp_path, "twopack", many("two") | shared)
    train = Docstrings(("onepack", "twopack")).load(0).train
    assert np.bincount(train.labels).tolist() == [80, 80]
    assert not [name for name in train.ids if "shared" in name]


def test_the_fingerprint_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "onepack", many("one"))
    package(tmp_path, "twopack", many("two"))

    def fingerprint() -> str:
        return Docstrings(("onepack", "twopack")).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "onepack" / "m0.py").write_text(many("other")["m0.py"])
    assert fingerprint() != before


def test_fewer_than_two_packages_are_refused() -> None:
    with pytest.raises(
        DataError, match="data set 'docstrings': sources of at least 2 of numpy, nopack are needed; found"
    ):
        Docstrings(("numpy", "nopack")).load(0)
    assert package_folder("nopack") is None


def test_real_packages_make_a_set_of_the_promised_shape(dataset: Docstrings, parsed: list[object]) -> None:
    train = dataset.load(0).train
    assert 100 < len(parsed) < 1000  # of 9,000 files: what makes it load in 3 s
    assert train.class_names == tuple(sorted(PACKAGES))
    counts = np.bincount(train.labels)
    assert counts.max() <= PER_PACKAGE
    assert counts.min() >= 0.6 * PER_PACKAGE
    texts = [train[i] for i in range(len(train))]
    assert len(set(texts)) == len(texts)
    assert [text for text in texts if GIVEAWAYS.search(text)] == []
    assert {len(text.split()) <= MOST_WORDS for text in texts} == {True}
    assert dataset.problems() == ()
    assert not dataset.has_test
    assert dataset.modality == "text"


def test_ids_lead_to_the_docstring(dataset: Docstrings) -> None:
    """The independent reference: importing the module and asking the object."""
    train = dataset.load(0).train
    checked = 0
    for index, name in enumerate(train.ids):
        if not name.startswith("numpy.") or "distutils" in name or "f2py" in name:
            continue
        module, _, qualified = name.partition(":")
        try:
            found: object = import_module(module)
            for part in qualified.split("."):
                found = inspect.getattr_static(found, part)
        except (ImportError, AttributeError):
            continue
        text = inspect.cleandoc(getattr(found, "__doc__", None) or "")
        first = train[index].split(MASK)[0].split()
        if text:
            checked += text.split()[: len(first) - 1] == first[: len(first) - 1]
    assert checked > 50


def test_bags_of_words_answer_it_better_than_chance_and_not_perfectly(dataset: Docstrings) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    data = load_data(dataset, split_seed=0, shots=None)
    (texts, labels), (held, answers) = (
        ([part.sample(i) for i in range(len(part))], part.labels) for part in (data.train, data.validation)
    )
    vectoriser = TfidfVectorizer(sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectoriser.fit_transform(texts), labels)
    accuracy = model.score(vectoriser.transform(held), answers)
    assert 0.5 < accuracy < 0.9  # 0.71 when it was made; the majority has 0.13
    assert np.bincount(answers).max() / len(answers) < 0.2


def test_nothing_is_read_until_it_is_asked_for() -> None:
    code = (
        "import sys, tlbench_data; names = [item.name for item in tlbench_data.register_datasets()];"
        "assert 'docstrings' in names; print('tlbench_data.sources' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
