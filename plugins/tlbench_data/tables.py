"""Tables of texts: a file, or a folder with a file for each split, whose rows have a text and a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tlbench.components import TEXT
from tlbench.errors import BenchmarkError, DataError
from tlbench_data.labelled import RowDataset, Rows, blank, sha256
from tlbench_data.splits import SPLITS

_OPTIONS = ("text", "label")


@final
class TextTables(RowDataset):
    """A table of texts and labels, all of it training data, or a folder of tables called after the splits they hold.

    Without a path it is the template that `[[dataset]]` declarations derive theirs from. The columns are found
    (`tlbench.samples.columns`) unless the options name them.
    """

    summary = "a table of texts and labels, or a folder of them (needs a path: [[dataset]] with base and path)"
    modality = TEXT

    def __init__(self, name: str = "texts", path: Path | None = None, options: Mapping[str, str] | None = None) -> None:
        self.name, self.path, self._options = name, path, options or {}

    def recognises(self, path: Path) -> bool:
        """Whether there is a table, or a folder of them by split. Raises `DataError` where there is no data set."""
        from tlbench_data.finding import kind

        return kind(path) == "texts"

    def derive(self, *, name: str, path: Path | None, options: Mapping[str, Any]) -> TextTables:
        """The table or tables at `path`; the options `text` and `label` name columns."""
        for option, value in options.items():
            if option not in _OPTIONS:
                advice = f"'{_OPTIONS[0]}' and '{_OPTIONS[1]}', each a column's name, are all there are"
                raise BenchmarkError(f"data set '{name}': unknown option '{option}'; {advice}")
            if not isinstance(value, str) or not value:
                raise BenchmarkError(f"data set '{name}': option {option} = {value!r}: a column's name is needed")
        if path is None:
            raise BenchmarkError(f"data set '{name}': a table needs a path, such as: path = \"reviews.csv\"")
        if options and options.get("text") == options.get("label"):
            raise BenchmarkError(f"data set '{name}': text and labels are both to be column '{options['text']}'")
        return TextTables(name, path, options)

    def read(self) -> Mapping[str, Rows]:
        """The rows of every table; the training table decides which columns count."""
        if self.path is None:
            raise BenchmarkError(
                "data set 'data/texts' needs a path: declare one in the benchmark file, [[dataset]] with "
                'name = "mine/reviews", base = "data/texts", path = "reviews.csv"'
            )
        from tlbench.samples.reading import read_columns

        files = split_files(self.path)
        tables = {split: read_columns(file) for split, file in files.items()}
        text, label = self._columns(files["train"], tables["train"])
        return {split: _rows(file, tables[split], text, label) for split, file in files.items()}

    def _columns(self, file: Path, table: Mapping[str, Sequence[str] | None]) -> tuple[str, str]:
        from tlbench.samples.columns import find_columns

        for given in self._options.values():
            if given in table:
                _column(file, table, given)  # refuses one that holds lists
        single = {name: words for name, words in table.items() if words is not None}
        try:
            return find_columns(single, self._options.get("text"), self._options.get("label"))
        except DataError as error:
            nested = [f"'{name}'" for name in table if name not in single]
            more = f" ({', '.join(nested)}: lists or objects, not single values)" if nested else ""
            raise DataError(f"{file}: {error}{more}") from error


def split_files(path: Path) -> dict[str, Path]:
    """The table of each split: the file itself as `train`, or a folder's tables by the splits they are called after.

    Hidden files and tables called otherwise are ignored. Raises `DataError` where there is no table to train on.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"no file or folder {path}")
        return {"train": path}
    tables = _tables(path)
    files: dict[str, Path] = {}
    for file, stem in tables.items():
        split = SPLITS.get(stem.lower())
        if split in files:
            raise DataError(
                f"{path} has two tables for its {split} split, {files[split].name} and {file.name}: keep one"
            )
        if split is not None:
            files[split] = file
    if "train" not in files:
        found = ", ".join(file.name for file in list(tables)[:5]) or "no tables"
        raise DataError(f"{path} has no table to train on, such as train.csv ({found}); a path may name a single file")
    return files


def _tables(folder: Path) -> dict[Path, str]:
    """Visible files named like tables, and their names without endings."""
    from tlbench.samples.reading import table_stem

    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    return {path: stem for path in files if (stem := table_stem(path)) is not None}


def _column(file: Path, table: Mapping[str, Sequence[str] | None], name: str) -> Sequence[str]:
    if name not in table:
        there = f"it has {', '.join(table)}"
        raise DataError(f"{file} has no column '{name}', as the training table has; {there}: add it or move the file")
    words = table[name]
    if words is None:
        raise DataError(f"{file}: column '{name}' holds lists or tables; texts or numbers are needed")
    return words


def _rows(file: Path, table: Mapping[str, Sequence[str] | None], text: str, label: str) -> Rows:
    texts = _column(file, table, text)
    labels = [word.strip() or None for word in _column(file, table, label)]
    if not any(labels):
        raise DataError(f"{file}: column '{label}' is empty: fill it in or move the file elsewhere")
    return Rows(
        place=file.name,
        labels=labels,
        digests=[sha256(text) for text in texts],
        samples=texts,
        faults=lambda: blank(texts),
    )
