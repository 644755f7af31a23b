"""Opening: data sets of the library `datasets`, from the hub, its cache or a folder, by the splits they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.errors import DataError
from tlbench_data.splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder: of several splits, or of one data set."""


def open_hub(identifier: str, config: str | None) -> Mapping[str, Dataset]:
    """The splits of the data set with this id, fetched where they are not on this machine. Raises `DataError`."""
    from datasets import config as settings
    from datasets import load_dataset

    advice = (
        f"fetch it once where there is a network; it is then read from the Hugging Face cache, "
        f"{settings.HF_DATASETS_CACHE} (HF_HOME moves it)"
    )
    return _opened(lambda: load_dataset(identifier, name=config), f"hub data set '{identifier}'", advice)


def open_folder(folder: Path, config: str | None) -> Mapping[str, Dataset]:
    """The splits in a folder of data files, or in one that `save_to_disk` wrote. Raises `DataError`."""
    from datasets import load_dataset, load_from_disk

    if not folder.is_dir():
        raise DataError(f"{folder} is a file; a folder is needed" if folder.exists() else f"no folder {folder}")
    if not is_saved(folder):
        return _opened(lambda: load_dataset(str(folder), name=config), f"folder {folder}", None)
    if config is not None:
        raise DataError(f"folder {folder} was written by save_to_disk and has no config to choose: take it out")
    return _opened(lambda: load_from_disk(str(folder)), f"folder {folder}", None)


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def choose_splits(found: Mapping[str, Dataset], given: Mapping[str, str | None]) -> dict[str, Dataset]:
    """The data by `train`, `validation` and `test`: as `given` names them, else by the usual names.

    Others are left alone. Raises `DataError` where there is no training split, or two for the same purpose.
    """
    there = f"its splits are {', '.join(found)}"
    for name in filter(None, given.values()):
        if name not in found:
            raise DataError(f"no split '{name}'; {there}")
    chosen = {purpose: found[name] for purpose, name in given.items() if name}
    free = [name for name in found if name not in given.values()]
    for purpose in (purpose for purpose, name in given.items() if not name):
        names = [name for name in free if SPLITS.get(name.lower()) == purpose]
        if len(names) > 1:
            raise DataError(f'{there}: say which one to take, such as options = {{ {purpose} = "{names[0]}" }}')
        if names:
            chosen[purpose] = found[names[0]]
    if "train" not in chosen:
        raise DataError(
            f'{there}, none called train: say which one it is, as in options = {{ train = "{min(found)}" }}'
        )
    return chosen


def _opened(load: Callable[[], Any], what: str, unreachable: str | None) -> Mapping[str, Dataset]:
    """What `load` gives. The library raises errors of many kinds, whatever a damaged or foreign file drives it to."""
    from datasets import Dataset

    try:
        found = load()
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        advice = f"; {unreachable}" if unreachable and isinstance(error, ConnectionError) else ""
        advice = advice or ('; say which, such as options = { config = "..." }' if "onfig" in reason else "")
        raise DataError(f"{what} does not load: {reason}{advice}") from error
    return {"train": found} if isinstance(found, Dataset) else dict(found)
