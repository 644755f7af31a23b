"""The hub: any data set of images or texts that the library `datasets` loads, by its id or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE, TEXT
from tlbench.errors import BenchmarkError
from tlbench_data.labelled import RowDataset, Rows, naming

if TYPE_CHECKING:
    from tlbench_data.features import Features

_SPLITS = ("train", "validation", "test")


@final
@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """What a declaration may say; None is found out."""

    id: str | None = None
    """On the Hugging Face hub, such as `stanfordnlp/sst2`."""

    config: str | None = None
    text: str | None = None
    """The column of the texts."""

    image: str | None = None
    """The column of the images."""

    label: str | None = None
    """The column of the labels."""

    train: str | None = None
    """The hub's name of the training split; likewise below."""

    validation: str | None = None
    test: str | None = None


@final
class HubDataset(RowDataset):
    """A data set as the library `datasets` loads it: downloaded once, then read from the Hugging Face cache.

    Without id and path it is the template that `[[dataset]]` declarations derive theirs from. No code that comes with
    a data set is ever run.
    """

    summary = "images or texts of the Hugging Face hub or of a folder (needs an id or a path: [[dataset]] with base)"

    def __init__(self, name: str = "hub", path: Path | None = None, options: HubOptions | None = None) -> None:
        self.name, self.path, self._options = name, path, options or HubOptions()

    def recognises(self, path: Path) -> bool:
        """Whether the library `datasets` saved this folder. Raises `DataError` where there is no data set at all."""
        from tlbench_data.finding import kind

        return kind(path) == "hub"

    def derive(self, *, name: str, path: Path | None, options: Mapping[str, Any]) -> HubDataset:
        """The data set with the id in `options`, or the one in the folder `path`, or this one. Loads nothing."""
        if path is None and not options and (self.path or self._options.id):
            return HubDataset(name, self.path, self._options)
        known = [field.name for field in fields(HubOptions)]
        for option, value in options.items():
            if option not in known:
                raise BenchmarkError(f"data set '{name}': unknown option '{option}'; there are {', '.join(known)}")
            if not isinstance(value, str) or not value:
                raise BenchmarkError(f"data set '{name}': option {option} = {value!r}: text is needed")
        chosen = HubOptions(**options)
        if (chosen.id is None) == (path is None):
            needed = 'either options = { id = "stanfordnlp/sst2" } or a path to a folder is needed'
            raise BenchmarkError(f"data set '{name}': {needed}, not {'both' if path else 'none'}")
        if chosen.text and chosen.image:
            raise BenchmarkError(f"data set '{name}': options text and image exclude each other")
        splits = [split for split in (chosen.train, chosen.validation, chosen.test) if split]
        for split in splits:
            if splits.count(split) > 1:
                raise BenchmarkError(f"data set '{name}': split '{split}' is named {splits.count(split)} times")
        return HubDataset(name, path, chosen)

    @property
    def modality(self) -> str:  # type: ignore[override]  # a fact of the data set, loaded when first asked for
        """`image` or `text`, as the columns have it; the template may become either."""
        if self._options.id is None and self.path is None:
            return f"{IMAGE}-or-{TEXT}"
        if self._options.image or self._options.text:
            return IMAGE if self._options.image else TEXT
        with naming(self.name):
            return IMAGE if self._features.is_image else TEXT

    def order(self, classes: Sequence[str]) -> Sequence[str]:
        """The order in which the data set names its classes, else that of other rows."""
        names = self._features.class_names
        return [name for name in names if name in set(classes)] if names else super().order(classes)

    def read(self) -> Mapping[str, Rows]:
        """The rows of every split; one without any label, such as the test split of a competition, is left out."""
        rows = {split: self._features.rows(split, data) for split, data in self._splits.items()}
        if "-1" not in rows["train"].labels:  # so those write "no label" who keep classes as plain numbers
            rows = {split: found.without("-1") for split, found in rows.items()}
        return {split: found for split, found in rows.items() if split == "train" or any(found.labels)}

    @cached_property
    def _splits(self) -> Mapping[str, Any]:
        """A `datasets.Dataset` by the split it holds."""
        from tlbench_data.opening import choose_splits, open_folder, open_hub

        if self._options.id is None and self.path is None:
            raise BenchmarkError(
                "data set 'data/hub' needs an id or a path: declare one in the benchmark file, [[dataset]] with "
                'name = "mine/sst2", base = "data/hub", options = { id = "stanfordnlp/sst2" }'
            )
        config = self._options.config
        found = open_folder(self.path, config) if self.path else open_hub(str(self._options.id), config)
        return choose_splits(found, {split: getattr(self._options, split) for split in _SPLITS})

    @cached_property
    def _features(self) -> Features:
        from tlbench_data.features import find_features

        given = self._options
        return find_features(self._splits["train"], text=given.text, image=given.image, label=given.label)
