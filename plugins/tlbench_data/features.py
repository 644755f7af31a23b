"""Features: which columns of a hub data set hold the images or texts and the labels, and their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.errors import DataError
from tlbench.samples.cells import word
from tlbench.samples.columns import find_columns, label_by_content, named_column
from tlbench.samples.pixels import decode, reason
from tlbench.samples.threads import Each
from tlbench_data.labelled import Rows, blank, sha256

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@final
@dataclass(frozen=True, kw_only=True)
class Features:
    """The columns that count."""

    content: str
    """The column of images or texts."""

    is_image: bool
    label: str
    class_names: tuple[str, ...] | None
    """As the data set declares them; None where labels are plain words or numbers."""

    def rows(self, split: str, data: Dataset) -> Rows:
        """The rows of `data`, decoded when asked for. Raises `DataError` for columns that are missing or nested."""
        for column in (self.content, self.label):
            if column not in data.features:
                raise DataError(f"the {split} split has no column '{column}'; it has {', '.join(data.features)}")
        samples = _Images(data, self.content) if self.is_image else _Texts(data, self.content)
        return Rows(
            place=f"the {split} split",
            labels=_labels(data, self.label),
            digests=samples.digests(),
            samples=samples,
            faults=samples.faults,
        )


def find_features(train: Dataset, *, text: str | None, image: str | None, label: str | None) -> Features:
    """The columns as named, else by their types, usual names and content. Raises `DataError`."""
    from datasets import ClassLabel, Image, Value

    features = train.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    values = [
        name for name, feature in features.items() if isinstance(feature, Value) and "binary" not in feature.dtype
    ]
    _check_given(features, {"image": (image, images), "text": (text, values), "label": (label, [*values, *classes])})
    if label is None and classes:
        label = classes[0] if len(classes) == 1 else named_column(classes, "label", None, None)
    words = _Words(train, [*values, *classes])
    try:
        if text is None and images:
            content = image or _only_image(images)
            label = label or named_column(words, "label", None, None) or label_by_content(words, None)
        else:
            content, label = find_columns(words, text, label)
    except DataError as error:
        others = [f"'{name}'" for name in features if name not in {*images, *words}]
        raise DataError(
            f"{error} ({', '.join(others)}: neither images nor single values)" if others else str(error)
        ) from error
    declared = features[label]
    names = tuple(declared.names) if isinstance(declared, ClassLabel) else None
    return Features(content=content, is_image=content in images, label=label, class_names=names)


def _check_given(features: Mapping[str, Any], given: Mapping[str, tuple[str | None, Sequence[str]]]) -> None:
    for kind, (name, fitting) in given.items():
        if name is not None and name not in features:
            raise DataError(f"no column '{name}'; its columns are {', '.join(features)}")
        if name is not None and name not in fitting:
            raise DataError(f"column '{name}' cannot be the {kind} column: it holds {features[name]}")


def _only_image(images: Sequence[str]) -> str:
    if len(images) > 1:
        example = f'options = {{ image = "{images[0]}" }}'
        raise DataError(f"{', '.join(images)} all hold images: say which column to take, such as {example}")
    return images[0]


def _labels(data: Dataset, column: str) -> list[str | None]:
    """The class of every row; None for a gap and for -1, by which the hub marks a class that is kept secret."""
    from datasets import ClassLabel

    feature, values = data.features[column], data.with_format(None)[column][:]
    if isinstance(feature, ClassLabel):
        return [feature.names[value] if value is not None and value >= 0 else None for value in values]
    return [word(value).strip() or None for value in values]


@final
class _Words(Mapping[str, Sequence[str]]):
    """Columns as words, read when asked for."""

    def __init__(self, data: Dataset, names: Sequence[str]) -> None:
        self._data, self._names = data, names

    def __getitem__(self, name: str) -> Sequence[str]:
        return [label or "" for label in _labels(self._data, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@final
class _Texts:
    """The texts of a column."""

    def __init__(self, data: Dataset, column: str) -> None:
        self._data, self._column = data.with_format(None).select_columns([column]), column

    def __getitem__(self, index: int) -> str:
        return word(self._data[index][self._column])

    def __iter__(self) -> Iterator[str]:
        for batch in self._data.iter(1000):
            yield from map(word, batch[self._column])

    def digests(self) -> list[str]:
        """The hash of every text."""
        return [sha256(text) for text in self]

    def faults(self) -> list[str | None]:
        """Texts with nothing in them."""
        return blank(list(self))


@final
class _Images:
    """The images of a column, decoded when asked for."""

    def __init__(self, data: Dataset, column: str) -> None:
        from datasets import Image

        self._data = data.with_format(None).select_columns([column]).cast_column(column, Image(decode=False))
        self._column = column

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return decode(self._bytes(index))
        except Exception as error:  # as in tlbench_data.images
            raise DataError(f"image {index + 1} of column '{self._column}' does not decode: {reason(error)}") from error

    def digests(self) -> list[str]:
        """The hash of every image file's bytes; that of nothing where they cannot be read."""
        return Each(self._digest)(range(len(self._data)))

    def faults(self) -> list[str | None]:
        """Why images do not decode."""
        return Each(self._fault)(range(len(self._data)))

    def _bytes(self, index: int) -> bytes:
        """The image file; empty where the row has none."""
        cell = self._data[index][self._column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            return b""
        data: bytes = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
        return data

    def _digest(self, index: int) -> str:
        try:
            return hashlib.sha256(self._bytes(index)).hexdigest()
        except OSError:  # a problem of the row, which _fault reports
            return hashlib.sha256(b"").hexdigest()

    def _fault(self, index: int) -> str | None:
        try:
            decode(self._bytes(index))
        except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
            return reason(error)
        return None
