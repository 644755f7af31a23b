"""The tree of an image folder: which files belong to which class of which split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlbench.errors import DataError
from tlbench.samples.walk import IMAGE_NAME, image_files, refuse, walk
from tlbench_data.splits import SPLITS

Classes = Mapping[str, list[Path]]
"""Image files by class."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One labelled image file."""

    id: str
    """Its path relative to the root, with `/`."""

    path: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of every split, by id, and the classes, by name."""

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[File, ...]]
    """`train`; `validation` and `test` where the folder has them."""


def read_tree(root: Path) -> Tree:
    """The tree below `root`: `train/<class>/`, with `validation/` and `test/` beside it or not, or flat `<class>/`.

    Hidden files and folders are ignored. Raises `DataError`, one line, for any other layout.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}" if not root.exists() else f"{root} is a file; a folder is needed")
    splits = _splits(root) or {"train": _flat(root)}
    class_names = sorted(splits["train"])
    if len(class_names) < 2:
        raise DataError(f"{root} has a single class, '{class_names[0]}'; at least 2 are needed")
    for split, classes in splits.items():
        for name in classes.keys() - splits["train"].keys():
            raise DataError(f"class '{name}' of the {split} split in {root} has no images to train on")
    labels = {name: label for label, name in enumerate(class_names)}
    return Tree(
        class_names=tuple(_text(name) for name in class_names),
        splits={split: _files(root, classes, labels) for split, classes in splits.items()},
    )


def _files(root: Path, classes: Classes, labels: Mapping[str, int]) -> tuple[File, ...]:
    files = [
        File(id=_text(path.relative_to(root).as_posix()), path=path, label=labels[name])
        for name, paths in classes.items()
        for path in paths
    ]
    return tuple(sorted(files, key=lambda file: file.id))


def _splits(root: Path) -> dict[str, Classes]:
    """The splits of a folder that has `train/<class>/`; nothing of a flat one.

    A flat folder may have a class called `train`: with images in it, not folders of images.
    """
    splits: dict[str, Classes] = {}
    unsorted: list[Path] = []
    for folder in _folders(root):
        split = SPLITS.get(folder.name.lower())
        if split is None:
            continue
        classes = _classes(folder, root)
        if classes and split in splits:
            raise DataError(f"{root} has two folders for its {split} split; {folder.name}/ is one of them: keep one")
        if classes:
            splits[split] = classes
        elif image_files(folder, root):
            unsorted.append(folder)
    if splits and "train" not in splits:
        raise DataError(f"{root} has a {', a '.join(splits)} split but no train/<class>/ with images")
    for folder in unsorted:
        if splits or SPLITS[folder.name.lower()] != "train":
            raise DataError(f"{folder} has images but no class folders: sort them by class, or move them elsewhere")
    return splits


def _flat(root: Path) -> Classes:
    classes = _classes(root)
    if all(SPLITS.get(name.lower()) == "train" for name in classes):
        raise DataError(
            f"no class folders with images in {root} ({contents(root)}): train/<class>/ or <class>/ is needed"
        )
    return classes


def _classes(folder: Path, *parents: Path) -> Classes:
    """The images below every subfolder that has any."""
    found = {subfolder.name: image_files(subfolder, folder, *parents) for subfolder in _folders(folder)}
    return {name: images for name, images in found.items() if images}


def _folders(folder: Path) -> list[Path]:
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        folders = sorted(path for path in visible if path.is_dir())
    except OSError as error:
        refuse(error)
        raise
    for path in visible:
        if path.is_symlink() and not path.suffix and not path.exists():
            raise DataError(f"{path} is a link to nothing, where a class folder may be meant: mend or remove it")
    return folders


def has_images(root: Path) -> bool:
    """Whether a folder below `root` has an image."""
    return any(IMAGE_NAME.search(path.name) for path in walk(root) if path.parent != root)


def contents(root: Path) -> str:
    """What lies below `root`, in a few words."""
    kinds = Counter(path.suffix.lower() or "no extension" for path in walk(root))
    if not kinds:
        return "it has no files"
    commonest = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
    return f"{kinds.total()} files: {commonest}" + (", ..." if len(kinds) > 3 else "")


def _text(name: str) -> str:
    """The name as valid Unicode: bytes of a file name that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
