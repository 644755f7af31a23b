"""The store: a results folder in which every result is whole or not there at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

from tlbench import files, parquet
from tlbench.batches import JSON, Batches
from tlbench.errors import StoreError
from tlbench.measurement import SCHEMA, Measurement, Predictions, flat
from tlbench.speed import SpeedRecord

_TOLD = ("trial", "status", "failure", "scores", "cost", "counts")
"""What a table of many rows shows in columns; the text has it all."""


@final
class Store:
    """The results in one folder: `measurements/<key>/`, `models/<key>.*`, `speed/<key>.json`, `index.parquet` and more.

    A job of many rows has one folder for all of them; whether a result came alone or as one of many makes no difference
    to who reads it. Of several results of one trial the one that came alone counts, else the newest.

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
        self._batches = Batches(self._measurements)
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
                files.write(part / "predictions.parquet", parquet.content(parquet.predictions_table(predictions)))
            files.sync(part)
            files.replace_folder(part, self._measurements / measurement.key)

    def put_many(
        self, job_key: str, measurements: Sequence[Measurement], predictions: Mapping[str, Predictions]
    ) -> None:
        """Keep the results of one job, at least one, all or none; `predictions` by key, of those that are to be kept.

        They take the place of those there were for their keys.
        """
        table = parquet.content(parquet.rows_table([_many_row(each) for each in measurements]))
        with self._writing(self._measurements, f"results of job {job_key}") as part:
            part.mkdir()
            files.write(part / "measurements.parquet", table)
            if predictions:
                kept = parquet.keyed_predictions_table(predictions.items())
                files.write(part / "predictions.parquet", parquet.content(kept))
            files.sync(part)
            files.replace_folder(part, self._measurements / job_key)
        for each in measurements:
            self._remove_folder(each.key)

    def get(self, key: str) -> Measurement | None:
        """The result for `key`; None where there is none or it is damaged. Raises `StoreError` for a newer schema."""
        path = self._measurements / key / "measurement.json"
        try:
            content: bytes | str = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            job = self._batches.job_of(key)
            if job is None:
                return None
            path, content = self._batches.table(job), self._batches.texts(job).get(key, "")
        except OSError as error:
            raise StoreError(f"'{path}' cannot be read: {error.strerror}") from error
        measurement = _measurement(content, path)
        return measurement if measurement is not None and measurement.key == key else None

    def keys(self) -> list[str]:
        """Every key that has a result, in order; whether it is damaged, only `get` finds out."""
        rows = (key for keys in self._batches.rows().values() for key in keys)
        return sorted({*self._stamps(), *rows})

    def measurements(self) -> list[Measurement]:
        """Every result that is not damaged, in order of keys."""
        keys = dict.fromkeys(key for keys in self._batches.rows().values() for key in keys)  # a job's together
        found = (self.get(key) for key in {**keys, **self._stamps()})
        return sorted((each for each in found if each is not None), key=lambda measurement: measurement.key)

    def predictions(self, key: str) -> Predictions | None:
        """The predictions kept with a result; None where there are none or they are damaged."""
        job = None if (self._measurements / key).exists() else self._batches.job_of(key)
        if job is not None and key not in self._batches.predicted(job):
            return None
        table = parquet.read(self._measurements / (job or key) / "predictions.parquet")
        return None if table is None else parquet.predictions_of(table, None if job is None else key)

    def discard(self, *keys: str) -> None:
        """Remove results, their predictions and their models, if there are any."""
        for key in keys:
            self.drop_model(key)
            self._remove_folder(key)
        for job in self._batches.jobs_with(keys):
            self._remove_rows(job, frozenset(keys))

    def drop_predictions(self, *keys: str) -> None:
        """Remove the predictions kept with results, if there are any."""
        for key in keys:
            self._remove(self._measurements / key / "predictions.parquet")
        for job in self._batches.jobs_with(keys):
            if dropped := self._batches.predicted(job) & set(keys):
                self._rewrite(self._batches.predictions(job), dropped)

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
        stamps = {**self._stamps(), **self._batches.stamps()}
        state = json.dumps([SCHEMA, sorted(stamps.items())]).encode()
        index = parquet.read(self.path / "index.parquet")
        if index is None or (index.schema.metadata or {}).get(b"tlbench") != state:
            index = parquet.rows_table([result.row() for result in self.measurements()], {b"tlbench": state})
            with suppress(StoreError):  # the index only saves time: a full disk must not hide the results
                self._write_file("index.parquet", parquet.content(index))
        return parquet.rows_of(index)

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
        """When each result that came alone was written, in nanoseconds, by key."""
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

    def _remove_folder(self, key: str) -> None:
        """Remove a result that came alone, if it is there."""
        folder = self._measurements / key
        if folder.exists():
            with self._writing(self._measurements, f"removal of {key}") as part, suppress(FileNotFoundError):
                folder.rename(part)

    def _remove_rows(self, job: str, keys: frozenset[str]) -> None:
        """Write a job's folder again without some of its rows, or remove it where no other is left."""
        table, predictions = parquet.read(self._batches.table(job)), parquet.read(self._batches.predictions(job))
        left = None if table is None else parquet.without(table, keys)
        if not left:
            self._remove_folder(job)
            return
        with self._writing(self._measurements, f"job {job}") as part:
            part.mkdir()
            files.write(part / "measurements.parquet", parquet.content(left))
            if predictions is not None and (kept := parquet.without(predictions, keys)):
                files.write(part / "predictions.parquet", parquet.content(kept))
            files.sync(part)
            files.replace_folder(part, self._measurements / job)

    def _rewrite(self, path: Path, without: frozenset[str]) -> None:
        """Write a table again without the rows of some keys; remove it where no row is left or it is damaged."""
        table = parquet.read(path)
        left = None if table is None else parquet.without(table, without)
        if not left:
            self._remove(path)
            return
        with self._writing(self._measurements, str(path.relative_to(self.path))) as part:
            files.write(part, parquet.content(left))
            part.replace(path)
            files.sync(path.parent)

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


def _many_row(measurement: Measurement) -> dict[str, Any]:
    """The measurement as text and, to be read as a table, flat; without what all rows of a job have in common."""
    value = measurement.to_json()
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return {"key": value["key"], JSON: text, **flat({name: value[name] for name in _TOLD if name in value})}


def _measurement(content: bytes | str, path: Path) -> Measurement | None:
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
