"""Image folders: one folder of the user's own, with a folder of images per class, as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE, Dataset, Problem, Split, Splits
from tlbench.errors import BenchmarkError, DataError
from tlbench.samples.pixels import decode, read, reason
from tlbench.samples.threads import Each
from tlbench_data.copies import copies
from tlbench_data.fingerprint import fingerprint
from tlbench_data.tree import File, Tree, read_tree

if TYPE_CHECKING:
    import numpy as np


@final
class ImageFolder(Dataset):
    """A folder of images, `train/<class>/` (with `validation/` and `test/` where there are any) or flat `<class>/`.

    Without a path it is the template that `[[dataset]]` declarations derive theirs from.
    """

    summary = "a folder of images, one folder per class (needs a path: [[dataset]] with base and path)"
    modality = IMAGE

    def __init__(self, name: str = "images", path: Path | None = None) -> None:
        self.name, self.path = name, path

    def recognises(self, path: Path) -> bool:
        """Whether there is a folder of images for each class. Raises `DataError` where there is no data."""
        from tlbench_data.finding import kind

        return kind(path) == "images"

    def derive(self, *, name: str, path: Path | None, options: Mapping[str, Any]) -> ImageFolder:
        """The folder at `path`; there are no options."""
        if options:
            raise BenchmarkError(f"data set '{name}': unknown option '{min(options)}'; a folder of images has none")
        if path is None:
            raise BenchmarkError(f"data set '{name}': a folder of images needs a path, such as: path = \"photos\"")
        return ImageFolder(name, path)

    @property
    def has_test(self) -> bool:  # type: ignore[override]  # a fact of the folder, read when first asked for
        """Whether the folder has `test/` with images."""
        return "test" in self._tree.splits

    @property
    def fingerprint(self) -> str:
        """Hash over ids, labels and bytes of all files; the same pass finds the problems."""
        return self._survey[0]

    def problems(self) -> Sequence[Problem]:
        """Files that are empty, damaged or no images."""
        return self._survey[1]

    def duplicates(self) -> Sequence[Sequence[str]]:
        """Files of the same bytes."""
        return self._survey[2]

    def load(self, seed: int) -> Splits:
        """Training images and, where the folder has them, validation images."""
        return Splits(self._split("train"), self._split("validation") if "validation" in self._tree.splits else None)

    def load_test(self, seed: int) -> Split:
        """The images in `test/`."""
        if not self.has_test:
            raise DataError(f"data set '{self.name}': {self.path} has no test/ with images")
        return self._split("test")

    def _split(self, name: str) -> Split:
        files = self._tree.splits[name]
        samples = _Samples([file.path for file in files])
        return Split([file.id for file in files], [file.label for file in files], self._tree.class_names, samples)

    @cached_property
    def _tree(self) -> Tree:
        if self.path is None:
            raise BenchmarkError(
                "data set 'data/images' needs a path: declare one in the benchmark file, [[dataset]] with "
                'name = "mine/photos", base = "data/images", path = "photos"'
            )
        try:
            return read_tree(self.path)
        except DataError as error:
            raise DataError(f"data set '{self.name}': {error}") from error

    @cached_property
    def _survey(self) -> tuple[str, tuple[Problem, ...], tuple[tuple[str, ...], ...]]:
        """Fingerprint, problems and groups of copies, from one pass over the bytes."""
        files = [file for split in self._tree.splits.values() for file in split]
        seen = Each(_examine)(files)
        digests = [(file.id, file.label, digest) for file, (digest, _) in zip(files, seen, strict=True)]
        problems = [Problem(file.id, why) for file, (_, why) in zip(files, seen, strict=True) if why]
        usable = [(file.id, digest) for file, (digest, why) in zip(files, seen, strict=True) if not why]
        return fingerprint(digests), tuple(problems), copies(usable)


@final
class _Samples:
    """Images decoded when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __getitem__(self, index: int) -> np.ndarray:
        return read(self._paths[index])


def _examine(file: File) -> tuple[str, str | None]:
    """Hash of the file's bytes, and why it cannot be used, if it cannot."""
    data = b""
    try:
        if file.path.exists() and not file.path.is_file():
            raise ValueError("no regular file")  # opening a pipe would wait for somebody to write to it
        data = file.path.read_bytes()
        decode(data)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
        return hashlib.sha256(data).hexdigest(), reason(error)
    return hashlib.sha256(data).hexdigest(), None
