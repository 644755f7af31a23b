"""Finding: the data set that a name stands for which is not listed: a path, or an id of the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tlbench.components import Dataset
from tlbench.errors import BenchmarkError, DataError
from tlbench.samples.reading import table_stem
from tlbench_data.hub import HubDataset, HubOptions
from tlbench_data.images import ImageFolder
from tlbench_data.opening import is_saved
from tlbench_data.splits import SPLITS
from tlbench_data.tables import TextTables
from tlbench_data.tree import contents, has_images

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*(/[A-Za-z0-9._@:-]+)*")
_TEMPLATES: Mapping[str, Callable[[str, Path], Dataset]] = {
    "images": ImageFolder,
    "texts": TextTables,
    "hub": HubDataset,
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def find(name: str) -> Dataset | None:
    """The data set at the path `name`, relative to the working directory, else the one with this id on the hub.

    So it is in a benchmark file, too, where only what is given as a `path` is relative to the file.

    An id has the name of its owner, as in `stanfordnlp/sst2`, or is in the Hugging Face cache of this machine; so a
    misspelt name is not looked for in the network. Nothing is loaded. Raises `DataError` for a path that holds no data
    set and `BenchmarkError` for one that no data set can be called after.
    """
    path = Path(name)
    if path.exists():
        plain = name.rstrip("/")
        if not _NAME.fullmatch(plain) or ".." in plain or "." in plain.split("/"):
            refused = f"'{name}' cannot be part of a data set's name"
            raise BenchmarkError(f"{refused}: declare it in the file, {_declared(name)}")
        return _TEMPLATES[kind(path)](plain, path.absolute())
    if table_stem(path) is not None:
        raise DataError(f"no file {name} in {Path.cwd()}")
    if _HUB_ID.fullmatch(name) or ("/" not in name and _is_cached(name)):
        return HubDataset(name, options=HubOptions(id=name))
    return None


def kind(path: Path) -> str:
    """Which template a file or folder is for, by what is there: `images`, `texts` or `hub`. Raises `DataError`.

    Beside `train/<class>/`, a table may list the images.
    """
    if not path.is_dir():
        if table_stem(path) is None:
            raise DataError(f"'{path}' is a file but no table: a folder or a file such as reviews.csv is needed")
        return "texts"
    if is_saved(path):
        return "hub"
    entries = _entries(path)
    if any(entry.is_dir() and entry.name.lower() in SPLITS and has_images(entry) for entry in entries):
        return "images"
    tables = [entry.name for entry in entries if (table_stem(entry) or "").lower() in SPLITS]
    if tables and has_images(path):
        both = f"'{path}' has both tables ({tables[0]}) and folders of images"
        raise DataError(f"{both}: declare in the file which is meant, {_declared(str(path))}")
    if tables:
        return "texts"
    if has_images(path):
        return "images"
    needed = "a folder of images for each class, or tables such as train.csv, is needed"
    declared = 'what the library datasets reads is declared with base = "data/hub"'
    raise DataError(f"'{path}' is a folder without a data set ({contents(path)}): {needed}; {declared}")


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _declared(path: str) -> str:
    return f'[[dataset]] with name = "mine/...", base = "data/images" or "data/texts", path = "{path}"'


def _is_cached(name: str) -> bool:
    """Whether the hub's cache on this machine has a data set of this name."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"datasets--{name}").is_dir()
