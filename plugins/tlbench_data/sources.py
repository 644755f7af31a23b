"""Sources: the docstrings in a package's source files, which are parsed and never imported."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ast

PER_FILE = 8
"""Most docstrings from one file, whose docstrings resemble each other."""

FEWEST_WORDS, MOST_WORDS = 8, 60
_LEFT_OUT = re.compile(r"tests?|testing|conftest|test_.*|.*_test|_?vendor(ed)?|externals|thirdparty.*|generated", re.I)
"""Names of folders and files, without endings, that hold no documentation or somebody else's."""

_SECTION = re.compile(r"\S.*\n[-=~]{3,}\s*(\n|$)|[A-Z][\w ]*:\s*(\n|$)|>>>|\.\. |:\w+ |@")
"""How a paragraph begins that is no prose: a heading, a list of parameters, an example, a directive."""


def package_folder(package: str) -> Path | None:
    """Where the sources of an installed top-level package are; None where it is not installed or has no folder."""
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def docstrings(folder: Path, package: str) -> Iterator[tuple[str, str]]:
    """Ids, `package.module:qualified.name`, and beginnings of docstrings, in hash order.

    Of functions, methods and classes, at most `PER_FILE` of a file. A file is parsed when its turn comes.
    """
    paths = {path.relative_to(folder): path for path in folder.rglob("*.py")}
    names = [relative for relative in paths if not any(map(_LEFT_OUT.fullmatch, [*relative.parts[:-1], relative.stem]))]
    for relative in sorted(names, key=lambda name: _hash(name.as_posix())):
        parts = relative.with_suffix("").parts
        module = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        texts = {f"{module}:{name}": text for name, text in _beginnings(paths[relative])}
        for identifier in sorted(texts, key=_hash)[:PER_FILE]:
            yield identifier, texts[identifier]


def beginning(docstring: str) -> str:
    """The first two paragraphs of prose, at most 60 words, on one line."""
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", cleandoc(docstring))[:2]:
        if _SECTION.match(paragraph):
            break
        words += paragraph.split()
    return " ".join(words[:MOST_WORDS])


def _beginnings(path: Path) -> Iterator[tuple[str, str]]:
    """Qualified names and beginnings, of at least 8 words; nothing of a file that is no Python."""
    import ast

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # somebody else's escape sequences
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for name, docstring in _documented(tree, ()):
        text = beginning(docstring)
        if len(text.split()) >= FEWEST_WORDS:
            yield name, text


def _documented(node: ast.Module | ast.ClassDef, parents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Qualified name and docstring of what a module and its classes define; insides of functions are left out."""
    import ast

    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = (*parents, child.name)
            docstring = ast.get_docstring(child, clean=False)
            if docstring:
                yield ".".join(name), docstring
            if isinstance(child, ast.ClassDef):
                yield from _documented(child, name)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
