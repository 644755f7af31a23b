"""The store: a results folder in which every result is whole or not there at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench import files
from tlbench.errors import StoreError
from tlbench.measurement import SCHEMA, Measurement, Predictions
from tlbench.speed import SpeedRecord

if TYPE_CHECKING:
    from pyarrow import Array, Table

# pyarrow is imported where it is used: it brings numpy, which commands that show no predictions do without.

_JSON = {b"form": b"json"}
"""Marks a column of the index whose values are JSON texts."""


@final
class Store:
    """The results in one folder: `measurements/<key>/`, `models/<key>.*`, `speed/<key>.json`, `index.parquet` and more.

    What is written gets its name when it is complete and on the disk. Several processes may write different keys at
    once; each holds a shared lock while it does, so that what a crash left behind can be told from what is being
    written and is removed when a store is next opened. Raises `StoreError` for whatever the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, which is made if need be."""
        self.path = folder
        self._measurements = folder / "measurements"
        self._models = folder / "models"
        self._speeds = folder / "speed"
        try:
            self._measurements.mkdir(parents=True, exist_ok=True)
            self._models.mkdir(exist_ok=True)
            self._sweep()
        except OSError as error:
            is_file = isinstance(error, FileExistsError | NotADirectoryError) and folder.is_file()
            reason = "it is a file" if is_file else error.strerror
            raise StoreError(f"the results folder '{folder}' cannot be used: {reason}") from error

    def put(self, measurement: Measurement, predictions: Predictions | None = None) -> None:
        """Keep a result, in place of the one there was for its key."""
        text = json.dumps(measurement.to_json(), allow_nan=False, indent=1)
        with self._writing(self._measurements, f"result {measurement.key}") as part:
            part.mkdir()
            files.write(part / "measurement.json", text.encode())
            if predictions is not None:
                files.write(part / "predictions.parquet", _parquet(_predictions_table(predictions)))
            files.sync(part)
            files.replace_folder(part, self._measurements / measurement.key)

    def get(self, key: str) -> Measurement | None:
        """The result for `key`; None where there is none or it is damaged. Raises `StoreError` for a newer schema."""
        path = self._measurements / key / "measurement.json"
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"'{path}' cannot be read: {error.strerror}") from error
        measurement = _measurement(content, path)
        return measurement if measurement is not None and measurement.key == key else None

    def keys(self) -> list[str]:
        """Every key that has a result, in order; whether it is damaged, only `get` finds out."""
        return sorted(self._stamps())

    def measurements(self) -> list[Measurement]:
        """Every result that is not damaged, in order of keys."""
        return [measurement for key in self.keys() if (measurement := self.get(key)) is not None]

    def predictions(self, key: str) -> Predictions | None:
        """The predictions kept with a result; None where there are none or they are damaged."""
        table = _read_parquet(self._measurements / key / "predictions.parquet")
        try:
            return None if table is None else _predictions(table)
        except (KeyError, ValueError):
            return None

    def discard(self, key: str) -> None:
        """Remove a result, its predictions and its model, if there are any."""
        self.drop_model(key)
        with self._writing(self._measurements, f"removal of {key}") as part, suppress(FileNotFoundError):
            (self._measurements / key).rename(part)

    def drop_predictions(self, key: str) -> None:
        """Remove the predictions kept with a result, if there are any."""
        self._remove(self._measurements / key / "predictions.parquet")

    def save_model(self, key: str, write: Callable[[Path], None], recipe: Mapping[str, Any]) -> None:
        """Keep a model: `write` puts its tensors into the file it is given; the recipe, written last, completes it."""
        text = json.dumps(recipe, allow_nan=False, indent=1)
        with self._writing(self._models, f"model {key}") as part:
            write(part)
            files.sync(part)
            self.recipe_path(key).unlink(missing_ok=True)  # else the old recipe would vouch for the new tensors
            part.replace(self.model_path(key))
            files.sync(self._models)
            files.write(part, text.encode())
            part.replace(self.recipe_path(key))
            files.sync(self._models)

    def model_path(self, key: str) -> Path:
        """Where the tensors of a model are, if it is kept."""
        return self._models / f"{key}.safetensors"

    def recipe_path(self, key: str) -> Path:
        """Where the recipe of a model is, if it is kept."""
        return self._models / f"{key}.recipe.json"

    def drop_model(self, key: str) -> None:
        """Remove a model, if it is kept."""
        self._remove(self.recipe_path(key))
        self._remove(self.model_path(key))

    def model_keys(self) -> list[str]:
        """The keys of every model that is kept, in order."""
        recipes = (path.name.removesuffix(".recipe.json") for path in self._models.glob("[!.]*.recipe.json"))
        return sorted(key for key in recipes if self.model_path(key).exists())

    def put_speed(self, record: SpeedRecord) -> None:
        """Keep a speed record, in place of the one there was for its key."""
        text = json.dumps(record.to_json(), allow_nan=False, indent=1)
        try:
            self._speeds.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"'{self._speeds}' cannot be made: {error.strerror}") from error
        with self._writing(self._speeds, f"speed {record.key}") as part:
            files.write(part, text.encode())
            part.replace(self._speeds / f"{record.key}.json")
            files.sync(self._speeds)

    def speeds(self) -> list[SpeedRecord]:
        """Every speed record, the newest last; a damaged one is as good as none."""
        found = []
        for path in self._speeds.glob("[!.]*.json"):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                found.append(SpeedRecord.from_json(json.loads(path.read_text())))
        return sorted(found, key=lambda record: (str(record.provenance.get("started_utc")), record.key))

    def write_benchmark(self, text: str) -> None:
        """Keep the benchmark as resolved."""
        self._write_file("benchmark.toml", text.encode())

    def rows(self) -> list[dict[str, Any]]:
        """`Measurement.row` of every result, in order of keys; every row has the names of all, None where it lacks one.

        They come from `index.parquet`, which is made anew whenever it does not fit the results.
        """
        stamps = self._stamps()
        state = json.dumps([SCHEMA, sorted(stamps.items())]).encode()
        index = _read_parquet(self.path / "index.parquet")
        if index is None or (index.schema.metadata or {}).get(b"tlbench") != state:
            found = (self.get(key) for key in sorted(stamps))
            index = _rows_table([result.row() for result in found if result is not None], {b"tlbench": state})
            with suppress(StoreError):  # the index only saves time: a full disk must not hide the results
                self._write_file("index.parquet", _parquet(index))
        return _rows(index)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store against other runs. Raises `StoreError`, naming the process, where one holds it already."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(files.opened(self.path / "lock"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(file, 0)
                os.pwrite(file, str(os.getpid()).encode(), 0)
            except BlockingIOError as error:
                holder = os.pread(file, 32, 0).decode() or "that is just starting"
                message = f"the results folder '{self.path}' is in use by process {holder}"
                raise StoreError(f"{message}: wait for it to end, or stop it") from error
            except OSError as error:
                raise StoreError(f"the results folder '{self.path}' cannot be locked: {error.strerror}") from error
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile would keep it beyond the closing

    def _stamps(self) -> dict[str, int]:
        """When each result was written, in nanoseconds, by key."""
        stamps = {}
        for folder in self._measurements.glob("[!.]*"):
            with suppress(OSError):  # no result, or replaced at this moment
                stamps[folder.name] = (folder / "measurement.json").stat().st_mtime_ns
        return stamps

    def _write_file(self, name: str, content: bytes | memoryview) -> None:
        with self._writing(self.path, name) as part:
            files.write(part, content)
            part.replace(self.path / name)
            files.sync(self.path)

    @contextmanager
    def _writing(self, folder: Path, what: str) -> Iterator[Path]:
        """A temporary name in `folder`, gone in the end whatever happens."""
        part = files.part_of(folder)
        try:
            with files.opened(self.path / ".writing") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                try:
                    yield part
                finally:
                    files.discard(part)
        except OSError as error:
            raise StoreError(f"{what} could not be written to '{self.path}': {error.strerror or error}") from error

    def _sweep(self) -> None:
        """Remove what writes that never ended left behind, unless somebody is writing at this moment."""
        with files.opened(self.path / ".writing") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            for folder in (self.path, self._measurements, self._models, self._speeds):
                files.sweep(folder)
            for tensors in self._models.glob("*.safetensors"):
                if not self.recipe_path(tensors.stem).exists():
                    files.discard(tensors)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"'{path}' cannot be removed: {error.strerror}") from error


def _measurement(content: bytes, path: Path) -> Measurement | None:
    """The measurement in a file; None where the content is damaged or does not fit its key."""
    try:
        value = json.loads(content)
        schema = value["schema"]
        if schema <= SCHEMA:
            return Measurement.from_json(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError):
        return None
    message = f"'{path}' has schema {schema} and this tlbench reads up to {SCHEMA}"
    raise StoreError(f"{message}: use the newer tlbench that wrote it, or another results folder")


def _parquet(table: Table) -> memoryview:
    """The table as the content of a Parquet file: writing it is then like any other write."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return memoryview(sink.getvalue())


def _read_parquet(path: Path) -> Table | None:
    """The table in a Parquet file; None where there is none or it is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read()
    except (OSError, pa.ArrowException):
        return None


def _predictions_table(predictions: Predictions) -> Table:
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


def _predictions(table: Table) -> Predictions:
    logits = table["logits"].combine_chunks()
    return Predictions(
        sample_id=table["sample_id"].to_pylist(),
        split=table["split"].to_pylist(),
        label=table["label"].to_numpy().copy(),  # a copy can be written to, as torch asks
        predicted=table["predicted"].to_numpy().copy(),
        logits=logits.flatten().to_numpy(zero_copy_only=False).reshape(-1, logits.type.list_size).copy(),
    )


def _rows_table(rows: list[dict[str, Any]], metadata: Mapping[bytes, bytes]) -> Table:
    """A table with the names of all rows; a column whose values are not of one plain type holds JSON texts."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [_column([row.get(name) for row in rows]) for name in names]
    forms = [_JSON if is_json else None for _, is_json in columns]
    schema = [pa.field(name, a.type, metadata=form) for name, (a, _), form in zip(names, columns, forms, strict=True)]
    return pa.Table.from_arrays([array for array, _ in columns], schema=pa.schema(schema, metadata=metadata))


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


def _rows(table: Table) -> list[dict[str, Any]]:
    columns = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        if (field.metadata or {}).get(b"form") == b"json":
            values = [None if value is None else json.loads(value) for value in values]
        columns.append(values)
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
