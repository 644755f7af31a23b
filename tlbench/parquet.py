"""Parquet: results as tables in files. Beside the reading of samples it is pyarrow's one door."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbench.measurement import Predictions

if TYPE_CHECKING:
    from pyarrow import Array, Table

# pyarrow is imported where it is used: it brings numpy, which commands that show no predictions do without.

_JSON = {b"form": b"json"}
"""Marks a column of rows whose values are JSON texts."""


def content(table: Table) -> memoryview:
    """The table as the content of a Parquet file: writing it is then like any other write."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return memoryview(sink.getvalue())


def read(path: Path, columns: Sequence[str] | None = None) -> Table | None:
    """The table in a Parquet file, or some of its columns; None where they are not there or the file is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(columns)
    except (OSError, pa.ArrowException):
        return None
    return None if columns is not None and table.column_names != list(columns) else table


def without(table: Table, keys: Collection[str]) -> Table:
    """The table without the rows whose column `key` is one of `keys`."""
    return table.filter([key not in keys for key in table["key"].to_pylist()])


def rows_table(rows: Sequence[Mapping[str, Any]], metadata: Mapping[bytes, bytes] | None = None) -> Table:
    """A table with the names of all rows; a column whose values are not of one plain type holds JSON texts."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [_column([row.get(name) for row in rows]) for name in names]
    forms = [_JSON if is_json else None for _, is_json in columns]
    schema = [pa.field(name, a.type, metadata=form) for name, (a, _), form in zip(names, columns, forms, strict=True)]
    return pa.Table.from_arrays([array for array, _ in columns], schema=pa.schema(schema, metadata=metadata))


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows that `rows_table` was given, each with the names of all."""
    columns = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        if (field.metadata or {}).get(b"form") == b"json":
            values = [None if value is None else json.loads(value) for value in values]
        columns.append(values)
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def predictions_table(predictions: Predictions) -> Table:
    """One row per sample."""
    import pyarrow as pa

    logits = predictions.logits.astype("float16", copy=False)
    columns = {
        "sample_id": pa.array(predictions.sample_id, pa.string()),
        "split": pa.array(predictions.split, pa.string()),
        "label": pa.array(predictions.label, pa.int64()),
        "predicted": pa.array(predictions.predicted, pa.int64()),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1]),
    }
    return pa.table(columns)


def keyed_predictions_table(predictions: Iterable[tuple[str, Predictions]]) -> Table:
    """Those of several results over the same classes, with the result's key in a column `key`."""
    import pyarrow as pa

    tables = []
    for key, each in predictions:
        table = predictions_table(each)
        tables.append(table.add_column(0, "key", pa.array([key] * len(table), pa.string())))
    return pa.concat_tables(tables)


def predictions_of(table: Table, key: str | None = None) -> Predictions | None:
    """The predictions in a table, of several results those of `key`; None where there are none or they do not fit."""
    try:
        if key is not None:
            table = table.filter([found == key for found in table["key"].to_pylist()])
            if not len(table):
                return None
        logits = table["logits"].combine_chunks()
        return Predictions(
            sample_id=table["sample_id"].to_pylist(),
            split=table["split"].to_pylist(),
            label=table["label"].to_numpy().copy(),  # a copy can be written to, as torch asks
            predicted=table["predicted"].to_numpy().copy(),
            logits=logits.flatten().to_numpy(zero_copy_only=False).reshape(-1, logits.type.list_size).copy(),
        )
    except (KeyError, ValueError):
        return None


def _column(values: list[Any]) -> tuple[Array, bool]:
    """The values as one column, and whether as JSON texts."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} or kinds <= {int} or kinds <= {float} or kinds <= {str}:
        with suppress(pa.ArrowException, OverflowError, UnicodeError):  # beyond 64 bits; half of a surrogate pair
            return pa.array(values), False
    if kinds == {int, float} and all(value is None or abs(value) <= 2**53 for value in values):
        return pa.array(values, pa.float64()), False
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string()), True
