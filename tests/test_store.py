"""The store: what was put comes back exactly, whole or not at all, whatever kills the process or fills the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlbench import files, parquet
from tlbench.errors import StoreError
from tlbench.measurement import SCHEMA, Epoch, Failure, Measurement, Predictions
from tlbench.store import Store
from tlbench.trial import Reference, Trial


def make_trial(seed: int = 0) -> Trial:
    return Trial(
        backbone=Reference(name="zoo/net", version=1),
        strategy=Reference(name="basic/full", version=2),
        dataset=Reference(name="data/größe", version=1),
        weights="sha256:0",
        preprocess={"size": 8, "mean": [0.5, 0.1]},
        fingerprint="f",
        split_seed=0,
        shots=None,
        params={"learning_rate": 1e-3, "blocks": [1, 2]},
        seed=seed,
        epochs=3,
        stage="search",
        metric="accuracy",
        evaluator=1,
    )


def complete(seed: int = 0, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "scores": {"search": {"accuracy": 0.1 + seed / 7, "confusion": [[1, 2], [3, 4]]}},
        "curve": (Epoch(epoch=1, train_loss=None, search_score=0.5, elapsed_s=0.25),),
        "cost": {"elapsed_s": 1.5, "peak_mib": None},
        "provenance": {"host": "näme", "threads": 2},
    }
    return Measurement(trial=make_trial(seed), status="complete", **{**fields, **changes})


def failed(seed: int) -> Measurement:
    failure = Failure(kind="infrastructure", stage="train", type="OSError", message="half a pair: \ud83d")
    return Measurement(trial=make_trial(seed), status="failed", failure=failure, counts={"retries": 1})


def make_predictions(n: int = 4, classes: int = 3) -> Predictions:
    return Predictions(
        sample_id=[f"bild-{i}-é" for i in range(n)],
        split=["validation" if i % 2 else "test" for i in range(n)],
        label=np.arange(n, dtype=np.int64),
        predicted=np.arange(n, dtype=np.int64)[::-1].copy(),
        logits=np.arange(n * classes).reshape(n, classes).astype(np.float16),
    )


def tensors(content: bytes) -> Callable[[Path], None]:
    """What writes a model whose file has this content."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a store but its locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", ".writing"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob(".part-*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "a")


def test_a_result_comes_back_from_another_store_on_the_same_folder(store: Store) -> None:
    results = [complete(0), complete(1), failed(2)]
    for result in results:
        store.put(result)
    again = Store(store.path)
    assert [again.get(result.key) for result in results] == results
    assert again.keys() == sorted(result.key for result in results)
    assert again.measurements() == sorted(results, key=lambda result: result.key)
    assert again.get("0" * 16) is None
    assert not parts(store.path)


def test_every_float16_comes_back_bit_for_bit(store: Store) -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(-1, 16)
    predictions = replace(make_predictions(len(bits)), logits=bits.view(np.float16))
    store.put(complete(), predictions)
    found = store.predictions(complete().key)
    assert found is not None
    assert found.logits.dtype == np.float16
    assert np.array_equal(found.logits.view(np.uint16), bits)
    assert (found.sample_id, found.split) == (predictions.sample_id, predictions.split)
    for name in ("label", "predicted"):
        assert getattr(found, name).dtype == np.int64
        assert np.array_equal(getattr(found, name), getattr(predictions, name))
    assert all(array.flags.writeable for array in (found.label, found.predicted, found.logits))


@pytest.mark.parametrize(("n", "classes"), [(0, 5), (1, 1), (3, 2)])
def test_predictions_keep_their_shape_and_the_order_of_a_strided_array(store: Store, n: int, classes: int) -> None:
    logits = np.arange(n * classes).reshape(classes, n).T.astype(np.float16, order="F")
    store.put(complete(), replace(make_predictions(n), logits=logits))
    found = store.predictions(complete().key)
    assert found is not None
    assert found.logits.shape == (n, classes)
    assert np.array_equal(found.logits, logits)


def test_predictions_may_be_absent_damaged_or_dropped(store: Store) -> None:
    store.put(complete(0))
    store.put(complete(1), make_predictions())
    path = store.path / "measurements" / complete(1).key / "predictions.parquet"
    assert store.predictions(complete(0).key) is None
    assert store.predictions("unknown") is None
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        assert store.predictions(complete(1).key) is None
    store.drop_predictions(complete(1).key)
    store.drop_predictions(complete(1).key)
    assert not path.exists()
    assert store.get(complete(1).key) == complete(1)


def test_a_result_is_replaced_with_all_that_belongs_to_it(store: Store) -> None:
    lost = Measurement(trial=make_trial(), status="failed", failure=failed(0).failure)
    store.put(lost, make_predictions())
    store.put(complete())
    assert store.get(lost.key) == complete()
    assert store.predictions(lost.key) is None
    assert not parts(store.path)


def test_a_discarded_result_takes_all_that_belongs_to_it_along(store: Store) -> None:
    store.put(complete(0), make_predictions())
    store.save_model(complete(0).key, tensors(b"1"), {})
    store.put(complete(1))
    store.discard(complete(0).key)
    store.discard(complete(0).key)
    assert set(content(store.path)) == {f"measurements/{complete(1).key}/measurement.json"}
    assert not parts(store.path)


def test_what_is_damaged_is_a_miss(store: Store) -> None:
    key = complete().key
    store.put(complete())
    path = store.path / "measurements" / key / "measurement.json"
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert store.get(key) is None
    value = json.loads(whole)
    misfits: list[Any] = [
        [],
        {},
        {**value, "schema": "1"},
        {**value, "more": 1},
        {**value, "trial": None},
        {**value, "trial": {**value["trial"], "seed": 9}},
        {name: item for name, item in value.items() if name != "status"},
    ]
    for misfit in misfits:
        path.write_text(json.dumps(misfit))
        assert store.get(key) is None
        assert store.measurements() == []
        assert store.rows() == []
    path.write_bytes(b"\xff\x00")
    assert store.get(key) is None
    path.unlink()
    assert store.get(key) is None
    path.mkdir()
    assert store.get(key) is None
    shutil.rmtree(path.parent)
    path.parent.write_text("a file in place of the folder")
    assert store.get(key) is None
    store.put(complete())
    assert store.get(key) == complete()


def test_a_result_under_the_name_of_another_is_a_miss(store: Store) -> None:
    store.put(complete(0))
    folder = store.path / "measurements"
    shutil.copytree(folder / complete(0).key, folder / complete(1).key)
    assert store.get(complete(1).key) is None
    assert store.measurements() == [complete(0)]


def test_a_newer_schema_is_an_error_and_no_miss(store: Store) -> None:
    store.put(complete())
    path = store.path / "measurements" / complete().key / "measurement.json"
    path.write_text(json.dumps({"schema": SCHEMA + 1, "unheard": "of"}))
    for read in (lambda: store.get(complete().key), store.measurements, store.rows):
        with pytest.raises(StoreError, match=f"has schema {SCHEMA + 1} and this tlbench reads up to {SCHEMA}"):
            read()


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    return {name: json.loads(json.dumps(item)) for name, item in row.items() if item is not None}


def test_rows_of_every_kind_come_back_under_the_names_of_all(store: Store) -> None:
    odd = [
        complete(3, cost={"elapsed_s": 2, "peak_mib": 7}),  # whole numbers among fractions
        complete(4, provenance={"host": 5, "threads": "two", "big": 2**70, "list": [1, None]}),
        complete(5, provenance={"threads": True, "big": 2**53 + 1}, cost={"elapsed_s": 2**60 + 1}),
        Measurement(trial=make_trial(6), status="excluded"),
    ]
    results = sorted([complete(0), failed(1), *odd], key=lambda result: result.key)
    for result in results:
        store.put(result)
    expected = [as_json(result.row()) for result in results]
    made = store.rows()
    assert (store.path / "index.parquet").exists()
    read = Store(store.path).rows()
    assert made == read
    assert [[type(item) for item in row.values()] for row in made] == [[type(i) for i in row.values()] for row in read]
    assert [as_json(row) for row in read] == expected
    names = set().union(*(result.row() for result in results))
    assert all(set(row) == names for row in read)
    threads = {row["key"]: row["provenance_threads"] for row in read}
    assert threads[odd[2].key] is True
    assert threads[results[0].key] != "2"


def test_rows_come_through_the_index_until_a_result_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.rows() == []
    for seed in range(3):
        store.put(complete(seed))
    damaged = store.path / "measurements" / complete(2).key / "measurement.json"
    damaged.write_text("{")
    rows = store.rows()
    assert [row["key"] for row in rows] == sorted(complete(seed).key for seed in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", lambda self, key: pytest.fail("the index was not used"))
        assert store.rows() == rows
    index = store.path / "index.parquet"
    for spoil in (lambda: index.write_bytes(index.read_bytes()[:-9]), index.unlink):
        spoil()
        assert store.rows() == rows
    store.put(complete(0, cost={"elapsed_s": 99.0}))
    assert {row["cost_elapsed_s"] for row in store.rows()} == {1.5, 99.0}
    store.put(complete(3))
    assert len(store.rows()) == 3
    shutil.rmtree(store.path / "measurements" / complete(3).key)
    assert len(store.rows()) == 2


# Jobs of many rows


def put_many(store: Store, job: str, seeds: Iterable[int], kept: Sequence[int] = (), **changes: Any) -> None:
    results = [failed(seed) if seed == 9 else complete(seed, **changes) for seed in seeds]
    predictions = {complete(seed).key: make_predictions(seed + 1) for seed in kept}
    store.put_many(job, results, predictions)


def test_many_rows_are_read_like_results_that_came_alone(store: Store, tmp_path: Path) -> None:
    alone = Store(tmp_path / "alone")
    for seed in range(4):
        alone.put(complete(seed), make_predictions(seed + 1) if seed in (0, 2) else None)
    alone.put(failed(9))
    put_many(store, "one", [0, 9, 1], kept=[0])
    put_many(store, "two", [3], kept=[])
    store.put(complete(2), make_predictions(3))
    for reader in (store, Store(store.path)):
        assert reader.keys() == alone.keys()
        assert reader.measurements() == alone.measurements()
        assert reader.rows() == alone.rows()
        for key in alone.keys():  # noqa: SIM118 (a store is no mapping)
            assert reader.get(key) == alone.get(key)
            found, expected = reader.predictions(key), alone.predictions(key)
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert found.sample_id == expected.sample_id
                assert np.array_equal(found.logits, expected.logits)
        assert reader.get("one") is None
        assert reader.get("0" * 16) is None
    assert not parts(store.path)
    table = parquet.read(store.path / "measurements" / "one" / "measurements.parquet")
    assert table is not None
    columns = table.to_pydict()
    assert columns["key"] == [complete(0).key, failed(9).key, complete(1).key]
    assert columns["scores_search_accuracy"] == [0.1, None, pytest.approx(0.1 + 1 / 7)]
    assert columns["status"] == ["complete", "failed", "complete"]


def test_rows_that_another_store_writes_are_seen(store: Store) -> None:
    assert store.get(complete(0).key) is None
    put_many(Store(store.path), "one", [0, 1], kept=[1])
    assert store.get(complete(0).key) == complete(0)
    put_many(Store(store.path), "two", [1, 2], cost={"new": 1})
    newer = complete(1, cost={"new": 1})
    assert store.get(complete(1).key) == newer
    assert store.predictions(complete(1).key) is None, "those of the older result"
    assert len(store.measurements()) == len(store.rows()) == len(store.keys()) == 3
    put_many(Store(store.path), "one", [5])
    assert store.get(complete(0).key) is None
    assert store.keys() == sorted([complete(1).key, complete(2).key, complete(5).key])
    shutil.rmtree(store.path / "measurements" / "one")
    assert store.get(complete(5).key) is None


def test_of_two_results_the_one_written_last_counts(store: Store) -> None:
    put_many(store, "one", [0, 1], kept=[0])
    store.put(complete(0, cost={"alone": 1}))
    assert store.get(complete(0).key) == complete(0, cost={"alone": 1})
    assert store.predictions(complete(0).key) is None
    put_many(store, "two", [0], cost={"again": 1})
    assert store.get(complete(0).key) == complete(0, cost={"again": 1})
    assert len(store.measurements()) == 2
    assert not parts(store.path)


def test_a_damaged_table_is_as_good_as_none(store: Store) -> None:
    put_many(store, "one", range(3), kept=[1])
    put_many(store, "two", [5])
    path = store.path / "measurements" / "one" / "measurements.parquet"
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        for reader in (store, Store(store.path)):
            assert reader.get(complete(1).key) is None
            assert reader.measurements() == [complete(5)]
            assert [row["key"] for row in reader.rows()] == [complete(5).key]
            assert Store(store.path).predictions(complete(1).key) is None
    path.write_bytes(whole)
    assert len(Store(store.path).measurements()) == 4
    predictions = path.with_name("predictions.parquet")
    content = predictions.read_bytes()
    predictions.write_bytes(content[:-5])
    assert Store(store.path).predictions(complete(1).key) is None
    assert Store(store.path).get(complete(1).key) == complete(1)


def test_a_row_that_does_not_fit_its_key_is_a_miss_and_a_newer_schema_an_error(store: Store) -> None:
    put_many(store, "one", [0, 1])
    path = store.path / "measurements" / "one" / "measurements.parquet"
    first, second = ({"key": key, "json": text} for key, text in store._batches.texts("one").items())
    swapped = [{**first, "json": second["json"]}, {**second, "json": "{"}]
    path.write_bytes(parquet.content(parquet.rows_table(swapped)))
    assert store.measurements() == []
    newer = json.dumps({"schema": SCHEMA + 1})
    path.write_bytes(parquet.content(parquet.rows_table([{**first, "json": newer}])))
    with pytest.raises(StoreError, match=f"has schema {SCHEMA + 1}"):
        store.get(first["key"])


def test_rows_are_discarded_and_lose_their_predictions_one_by_one(store: Store) -> None:
    put_many(store, "one", range(4), kept=[0, 1, 2])
    put_many(store, "two", [0, 5])
    store.save_model(complete(0).key, tensors(b"1"), {})
    store.drop_predictions(complete(1).key)
    store.drop_predictions(complete(3).key)
    left = [seed for seed in range(4) if store.predictions(complete(seed).key) is not None]
    assert left == [2], "the newest result of row 0 has none"
    store.discard(complete(0).key, complete(2).key, "unknown")
    assert store.keys() == sorted(complete(seed).key for seed in (1, 3, 5))
    assert store.model_keys() == []
    assert store.predictions(complete(2).key) is None
    assert "measurements/one/predictions.parquet" not in content(store.path)
    store.discard(complete(1).key, complete(3).key)
    assert store.measurements() == [complete(5)]
    assert set(content(store.path)) == {"measurements/two/measurements.parquet"}
    assert not parts(store.path)


def test_predictions_of_several_jobs_are_dropped_in_one_write_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(store, "one", range(4), kept=[0, 1, 2])
    put_many(store, "two", [3, 4], kept=[3, 4])
    store.put(complete(5), make_predictions())
    written = []
    write = files.write
    monkeypatch.setattr(files, "write", lambda path, data: (written.append(path), write(path, data)))
    store.drop_predictions(*(complete(seed).key for seed in (0, 1, 3, 5, 9)))
    assert len(written) == 2
    assert [seed for seed in range(6) if store.predictions(complete(seed).key) is not None] == [2, 4]
    assert [seed for seed in range(6) if store.get(complete(seed).key) is None] == []


def test_looking_up_thousands_of_rows_reads_no_table_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(complete(5000))
    put_many(store, "one", range(10, 1010), kept=[10])
    put_many(store, "two", range(1010, 1020))
    time.sleep(0.2)  # until a further change would leave another time on the folder
    asked = [complete(seed).key for seed in range(10, 1020)]
    assert all(store.get(key) is not None for key in asked)
    store.drop_predictions(asked[1])
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "read", lambda *_: pytest.fail("a table was read again"))
        patch.setattr(Path, "glob", lambda *_: pytest.fail("the folder was listed again"))
        assert all(store.get(key) is not None for key in asked)
        assert all(store.get(f"{number:016x}") is None for number in range(1000))
        for key in asked[1:]:
            store.drop_predictions(key)


def test_a_model_counts_once_it_has_its_recipe(store: Store) -> None:
    recipe = {"backbone": "zoo/net", "params": {"a": [1.5, None, "é"]}}
    store.save_model("k", tensors(b"1"), recipe)
    assert store.model_keys() == ["k"]
    assert store.model_path("k") == store.path / "models" / "k.safetensors"
    assert store.recipe_path("k") == store.path / "models" / "k.recipe.json"
    assert store.model_path("k").read_bytes() == b"1"
    assert json.loads(store.recipe_path("k").read_text()) == recipe

    def write_and_fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no tensors")

    with pytest.raises(RuntimeError, match="no tensors"):
        store.save_model("k", write_and_fail, recipe)
    assert store.model_path("k").read_bytes() == b"1"
    store.save_model("k", tensors(b"2"), {"n": 2})
    assert (store.model_path("k").read_bytes(), json.loads(store.recipe_path("k").read_text())) == (b"2", {"n": 2})
    store.drop_model("k")
    store.drop_model("k")
    assert store.model_keys() == []
    assert content(store.path) == {}


def test_the_benchmark_is_kept_beside_the_results(store: Store) -> None:
    store.write_benchmark('name = "é"\n')
    store.write_benchmark('name = "ü"\n')
    assert content(store.path) == {"benchmark.toml": 'name = "ü"\n'.encode()}


def test_opening_removes_what_unfinished_writes_left(store: Store) -> None:
    store.put(complete(0), make_predictions())
    store.save_model("k", tensors(b"1"), {})
    before = content(store.path)
    for folder in (store.path, store.path / "measurements", store.path / "models"):
        part = files.part_of(folder)
        part.mkdir()
        (part / "measurement.json").write_text("{")
        files.part_of(folder).write_text("half")
    store.model_path("without-recipe").write_bytes(b"tensors")
    assert content(store.path) != before
    assert store.keys() == [complete(0).key]
    assert store.model_keys() == ["k"]
    Store(store.path)
    assert content(store.path) == before
    assert not parts(store.path)


def test_opening_leaves_alone_what_is_being_written(store: Store) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        Store(store.path)
        assert path.read_bytes() == b"half"
        path.write_bytes(b"whole")

    store.save_model("k", write, {})
    assert store.model_path("k").read_bytes() == b"whole"


def test_contents_are_on_the_disk_before_they_get_their_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    named: list[set[int]] = []
    fsync, rename, rename_over = os.fsync, Path.rename, Path.replace

    def seen_fsync(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    def inodes(path: Path) -> set[int]:
        return {item.stat().st_ino for item in (path, *path.rglob("*"))}

    def seen(real: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def renamed(path: Path, target: Path) -> Path:
            named.append(inodes(path))
            assert named[-1] <= set(synced)
            synced.clear()
            return real(path, target)

        return renamed

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen(rename))
    monkeypatch.setattr(Path, "replace", seen(rename_over))
    steps = (("put", "measurements", 1), ("put many", "measurements", 1), ("model", "models", 2), ("benchmark", ".", 1))
    for action, folder, names in steps:
        named.clear()
        ACTIONS[action](store)
        assert len(named) == names
        assert (store.path / folder).stat().st_ino in synced


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*arguments: Any, **options: Any) -> Any:
    raise FULL


ACTIONS: dict[str, Callable[[Store], None]] = {
    "put many": lambda store: put_many(store, "job", range(1, 4), kept=[1, 2]),
    "put": lambda store: store.put(complete(0, cost={"new": 1}), make_predictions()),
    "put another": lambda store: store.put(complete(9), make_predictions()),
    "model": lambda store: store.save_model("other", tensors(b"1"), {}),
    "benchmark": lambda store: store.write_benchmark("new"),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "open"), (Path, "mkdir")]
)
def test_a_full_disk_is_a_store_error_and_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, action: str, owner: Any, name: str
) -> None:
    store.put(complete(0), make_predictions())
    store.write_benchmark("old")
    before = content(store.path)
    real, calls = getattr(owner, name), 0

    def fails_once(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return (fail if calls == step else real)(*arguments, **options)

    for step in range(1, 20):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails_once)
            error = error_of(ACTIONS[action], store)
        if calls < step:
            break
        assert error is not None
        assert error.__cause__ is FULL
        assert re.fullmatch(rf".* could not be written to '{store.path}': No space left on device", str(error))
        assert not parts(store.path)
        after = content(store.path)
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        # a name that is there when only its folder fails to be synchronised stands for a whole content
        assert name == "fsync" or changed <= {"models/other.safetensors"}
        assert store.get(complete(0).key) is not None
        assert store.predictions(complete(0).key) is not None
    assert error is None
    assert content(store.path) != before


def error_of(action: Callable[[Store], None], store: Store) -> StoreError | None:
    try:
        action(store)
    except StoreError as error:
        return error
    return None


def test_a_full_disk_does_not_hide_the_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(complete())
    monkeypatch.setattr(os, "fsync", fail)
    assert [row["key"] for row in store.rows()] == [complete().key]
    assert not (store.path / "index.parquet").exists()


def test_what_has_no_json_is_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.put(complete(0, cost={"elapsed_s": float("nan")}))
    assert content(store.path) == {}


def test_a_folder_that_cannot_be_one_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(StoreError, match=rf"^the results folder '{folder}' cannot be used: [^\n]+$"):
            Store(folder)

    def read_only(*arguments: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    Store(tmp_path / "results")
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StoreError, match=r"results' cannot be used: Read-only file system$"):
        Store(tmp_path / "results")


PROGRAM = """
import random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_store import *
os.fsync = lambda file: None  # what was written outlives the process without it; it would only slow the loops down
folder = Path(sys.argv[2])
"""


def start(folder: Path, program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM + program, str(Path(__file__).parent), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_one_run_at_a_time_holds_the_lock(store: Store) -> None:
    with start(store.path, "with Store(folder).lock(): print('held', flush=True); input()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"'{store.path}' is in use by process {process.pid}: "), store.lock():
            pass
        store.put(complete())  # workers and readers need no lock
        process.kill()
    with store.lock(), pytest.raises(StoreError, match=f"process {os.getpid()}"), Store(store.path).lock():
        pass
    with pytest.raises(RuntimeError, match="inside"), store.lock():
        raise RuntimeError("inside")
    with store.lock():
        pass


STEPS = """
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

def die_at(step):
    left = step
    def hook(event, arguments):
        nonlocal left
        if event in STEPS:
            left -= 1
            if left < 0:
                os._exit(9)
    sys.addaudithook(hook)

step, status = 0, 9
while status == 9:
    shutil.rmtree(folder, ignore_errors=True)
    store = Store(folder)
    store.put(complete(0, cost={"old": 1}), make_predictions(2))
    store.save_model("k", tensors(b"first"), {"n": "first"})
    child = os.fork()
    if not child:
        die_at(step)
        store.put(complete(0, cost={"new": 1}), make_predictions(3))
        store.put(complete(1))
        put_many(store, "job", [3, 4], kept=[3], cost={"first": 1})
        put_many(store, "job", [3, 4], kept=[3, 4], cost={"second": 1})
        store.drop_predictions(complete(3).key)
        store.discard(complete(4).key)
        store.save_model("k", tensors(b"second"), {"n": "second"})
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    check(folder)
    step += 1
print(step, status)
"""


def check(folder: Path) -> None:
    """After a crash at any step: the old result or the new one, each with its own predictions; no leftovers."""
    store = Store(folder)
    assert not parts(folder)
    result, predictions = store.get(complete(0).key), store.predictions(complete(0).key)
    assert result is not None
    assert predictions is not None
    assert len(predictions.label) == {"old": 2, "new": 3}[next(iter(result.cost))]
    assert len(store.measurements()) == len(store.keys())
    rows = [store.get(complete(seed).key) for seed in (3, 4)]
    assert rows[1] is None or rows[0] is not None
    assert len({next(iter(row.cost)) for row in rows if row is not None}) < 2, "rows of two jobs"
    if rows[1] is not None and rows[1].cost == {"first": 1}:
        assert [store.predictions(complete(seed).key) is None for seed in (3, 4)] == [False, True]
    for key in store.model_keys():
        assert store.model_path(key).read_bytes().decode() == json.loads(store.recipe_path(key).read_text())["n"]
    assert set(content(folder)) <= {
        f"measurements/{complete(0).key}/measurement.json",
        f"measurements/{complete(0).key}/predictions.parquet",
        f"measurements/{complete(1).key}/measurement.json",
        "measurements/job/measurements.parquet",
        "measurements/job/predictions.parquet",
        *(["models/k.safetensors", "models/k.recipe.json"] if store.model_keys() else []),
    }


def test_a_crash_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    with start(tmp_path / "store", STEPS) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    steps, status = map(int, output.split())
    assert status == 0
    assert steps > 20


LOOP = """
def work():
    store = Store(folder)
    for number in range(10**9):
        store.put(complete(number % 5, cost={"rows": number % 97}), make_predictions(number % 97))
        store.save_model(f"k{number % 2}", tensors(str(number).encode() * 100_000), {"n": number})

Store(folder).put(complete(0, cost={"rows": 1}), make_predictions(1))
draw = random.Random(0)
for _ in range(15):
    child = os.fork()
    if not child:
        work()
    time.sleep(draw.uniform(0.01, 0.15))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    check_loop(folder)
"""


def check_loop(folder: Path) -> None:
    """After a kill: every result with its own predictions, every model with its own recipe, no leftovers."""
    store = Store(folder)
    assert not parts(folder)
    for key in store.keys():  # noqa: SIM118 (a store is no mapping)
        result, predictions = store.get(key), store.predictions(key)
        assert result is not None
        assert predictions is not None
        assert len(predictions.label) == result.cost["rows"]
    for key in store.model_keys():
        number = json.loads(store.recipe_path(key).read_text())["n"]
        assert store.model_path(key).read_bytes() == str(number).encode() * 100_000
    assert len(list((folder / "models").iterdir())) == 2 * len(store.model_keys())


def test_killed_at_random_moments_every_visible_result_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with start(folder, LOOP) as process:
        process.communicate()
    assert process.returncode == 0
    assert len(Store(folder).keys()) > 1, "no child wrote anything before it was killed"


MANY = """
def work(worker):
    for number in range(15):
        Store(folder).put(complete(100 * worker + number), make_predictions(number + 1))
        Store(folder).put(complete(999, cost={"worker": worker}))

children = []
for worker in (1, 2, 3):
    children.append(os.fork())
    if not children[-1]:
        work(worker)
        os._exit(0)
print([os.waitpid(child, 0)[1] for child in children])
"""


def test_several_processes_write_at_once(store: Store) -> None:
    with start(store.path, MANY) as process:
        output, _ = process.communicate()
    assert output == "[0, 0, 0]\n"
    expected = {complete(100 * worker + number).key: number + 1 for worker in (1, 2, 3) for number in range(15)}
    assert set(store.keys()) == {*expected, complete(999).key}
    for key, size in expected.items():
        assert store.get(key) is not None
        predictions = store.predictions(key)
        assert predictions is not None
        assert len(predictions.label) == size
    last = store.get(complete(999).key)
    assert last is not None
    assert last.cost["worker"] in (1, 2, 3)
    assert len(store.rows()) == 46
    assert not parts(store.path)
