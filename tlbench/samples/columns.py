"""Columns: which column of a table holds the texts, and which the labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tlbench.errors import DataError

Columns = Mapping[str, Sequence[str]]
"""Words by column, as many in each; an empty word where a row has none."""

_TEXTS = (
    *("text", "sentence", "review", "comment", "content", "document", "title", "tweet", "message", "question"),
    *("description", "body", "headline", "utterance", "abstract", "query", "article", "post"),
)
_LABELS = (
    *("label", "class", "category", "target", "sentiment", "stars", "labels", "rating", "topic", "intent", "emotion"),
    *("score", "polarity", "language", "genre"),
)
_USUAL = {"text": _TEXTS, "label": _LABELS}
"""Usual names, in any case. The first settles it; of the others, only one may be there."""

MOST_CLASSES = 1000

_IN_A_FILE = 'options = {{ {kind} = "{name}" }}'
"""How a benchmark file names a column."""


def find_columns(columns: Columns, text: str | None, label: str | None) -> tuple[str, str]:
    """The text column and the label column: as named, else by a usual name, else by content. Raises `DataError`."""
    label = named_column(columns, "label", label, text)
    text = named_column(columns, "text", text, label)
    if text is None or label is None:
        _check_header(columns)
    label = label or label_by_content(columns, text)
    return text or text_by_content(columns, label), label


def text_column(columns: Columns, given: str | None, how: str) -> str:
    """The text column of a table that may have no labels: as named, the only one, by a usual name, else by content.

    `how` one is named: a format with `{kind}` and `{name}`. Raises `DataError`.
    """
    if given is None and len(columns) == 1:
        return next(iter(columns))
    text = named_column(columns, "text", given, None, how)
    return text or text_by_content(columns, None, how)


def named_column(
    columns: Collection[str], kind: str, given: str | None, taken: str | None, how: str = _IN_A_FILE
) -> str | None:
    """The column called `given`, else the one with a usual name that is not `taken`; None where there is none.

    `kind`: `text` or `label`. Raises `DataError` where `given` is not there or several names are usual ones.
    """
    if given is not None:
        if given not in columns:
            raise DataError(f"no column '{given}'; its columns are {_listed(columns)}")
        return given
    usual = [name for name in columns if name.lower() in _USUAL[kind] and name != taken]
    first = [name for name in usual if name.lower() == _USUAL[kind][0]]
    return _only(columns, kind, first or usual, how) if usual else None


def label_by_content(columns: Columns, taken: str | None) -> str:
    """The only column of few distinct words: from 2 to half as many as there are rows, and at most 1,000."""
    found = [
        name
        for name, words in columns.items()
        if name != taken and 2 <= len(set(words) - {""}) <= min(MOST_CLASSES, len(words) // 2)
    ]
    return _only(columns, "label", found)


def text_by_content(columns: Columns, taken: str | None, how: str = _IN_A_FILE) -> str:
    """The only other column with letters in it, else the one with the longest texts.

    More than half of these have to be distinct, and no other such column may have half their mean length.
    """
    lengths = {
        name: sum(map(len, words))
        for name, words in columns.items()
        if name != taken and any(any(map(str.isalpha, text)) for text in words)
    }
    if len(lengths) > 1:
        lengths = {name: length for name, length in lengths.items() if _varied(columns[name])}
    longest = max(lengths.values(), default=0)
    return _only(columns, "text", [name for name, length in lengths.items() if 2 * length >= longest], how)


def _varied(words: Sequence[str]) -> bool:
    return 2 * len(set(words)) > len(words)


def _only(columns: Collection[str], kind: str, found: Sequence[str], how: str = _IN_A_FILE) -> str:
    """The only one `found`."""
    if len(found) == 1:
        return found[0]
    example = found[0] if found else "its name"
    what = f"{_listed(found)} could each be the {kind} column" if found else f"no column looks like the {kind} column"
    columns_there = f"; its columns are {_listed(columns)}" if set(found) != set(columns) else ""
    raise DataError(f"{what}{columns_there}: say which one it is, such as {how.format(kind=kind, name=example)}")


def _check_header(columns: Columns) -> None:
    """Refuse column names that are values of their own columns: they are a sample, and the header is missing.

    Asked only where no name is obvious: a review may well be called "Title".
    """
    for name, words in columns.items():
        if name in words:
            raise DataError(
                f"its first line holds a sample ('{name[:40]}' is a value of that column too), not the names of its "
                "columns: put a line such as text,label above it, or name both columns in options"
            )


def _listed(names: Collection[str]) -> str:
    shown = [f"'{name[:40]}'" for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
