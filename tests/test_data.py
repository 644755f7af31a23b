"""Splits: disjoint, complete, stratified, the same whatever the order; prepared arrays and duplicates."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tlbench.components import Dataset, Preprocess, Split, Splits
from tlbench.errors import DataError
from tlbench.evaluation.data import (
    FOLDS,
    Data,
    Part,
    Prepared,
    as_part,
    check_test,
    duplicates,
    held_out_test,
    load_data,
)


class Numbers(Dataset):
    """Sample i is the id itself; class c has `sizes[c]` samples."""

    name, summary, modality, fingerprint = "numbers", "", "word", ""

    def __init__(
        self, sizes: Sequence[int], validation: Sequence[int] | None = None, has_test: bool = True, order: int = 0
    ) -> None:
        self.sizes, self.validation, self.has_test, self.order = sizes, validation, has_test, order

    def load(self, seed: int) -> Splits:
        validation = None if self.validation is None else split("validation", self.validation, self.order)
        return Splits(split("train", self.sizes, self.order), validation)

    def load_test(self, seed: int) -> Split:
        raise AssertionError("the test split has one door, and it is not here")


def split(name: str, sizes: Sequence[int], order: int = 0) -> Split:
    samples = [(f"{name}/{label}/{number}", label) for label, size in enumerate(sizes) for number in range(size)]
    random.Random(order).shuffle(samples)
    ids = [identifier for identifier, _ in samples]
    return Split(ids, [label for _, label in samples], [f"class {label}" for label in range(len(sizes))], ids)


def counts(part: Part) -> list[int]:
    return [int(count) for count in np.bincount(part.labels, minlength=len(part.class_names))]


def facts(data: Data) -> Any:
    parts = [(part.ids, part.labels.tolist(), [part.sample(i) for i in range(len(part))]) for part in parts_of(data)]
    return parts, data.search.tolist()


def parts_of(data: Data) -> tuple[Part, Part]:
    return data.train, data.validation


SIZES = [3, 4, 7, 12, 30, 101]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("has_test", [True, False])
@pytest.mark.parametrize("validation", [None, [1, 2, 1, 4, 5, 6]])
def test_parts_are_disjoint_complete_and_have_every_class(
    seed: int, has_test: bool, validation: Sequence[int] | None
) -> None:
    dataset = Numbers(SIZES, validation, has_test)
    data = load_data(dataset, split_seed=seed, shots=None)
    parts = [*parts_of(data)] + ([] if has_test else [held_out_test(dataset, split_seed=seed)])
    ids = [identifier for part in parts for identifier in part.ids]
    loaded = dataset.load(seed)
    assert Counter(ids) == Counter([*loaded.train.ids, *(loaded.validation.ids if loaded.validation else ())])
    assert all(min(counts(part)) >= 1 for part in parts)
    for part in parts:
        assert part.ids == tuple(sorted(part.ids))
        assert all(part.sample(i) == identifier for i, identifier in enumerate(part.ids))
        assert [int(identifier.split("/")[1]) for identifier in part.ids] == part.labels.tolist()


def test_a_fifth_of_every_class_is_taken_the_test_first() -> None:
    dataset = Numbers([3, 50, 100], has_test=False)
    data = load_data(dataset, split_seed=0, shots=None)
    assert counts(held_out_test(dataset, split_seed=0)) == [1, 10, 20]
    assert counts(data.validation) == [1, 8, 16]
    assert counts(data.train) == [1, 32, 64]
    assert [part.name for part in (*parts_of(data), held_out_test(dataset, split_seed=0))] == [
        "train",
        "validation",
        "test",
    ]
    assert data.class_names == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("has_test", [True, False])
def test_every_fold_validates_on_another_fifth_of_every_class(has_test: bool) -> None:
    dataset = Numbers([50, 25, 5] if has_test else [50, 25, 6], has_test=has_test)
    folds = [load_data(dataset, split_seed=3, shots=None, fold=fold) for fold in range(FOLDS)]
    everything = {identifier for part in parts_of(folds[0]) for identifier in part.ids}
    for data in folds:
        assert data.folds == FOLDS
        assert {*data.train.ids, *data.validation.ids} == everything
        assert not {*data.train.ids} & {*data.validation.ids}
        assert 0 < data.search.sum() < len(data.validation)
    assert Counter(identifier for data in folds for identifier in data.validation.ids) == Counter(everything)


def test_of_classes_that_cannot_be_cut_into_five_every_fold_takes_a_part() -> None:
    dataset = Numbers([2, 4, 8])
    for fold in range(FOLDS):
        data = load_data(dataset, split_seed=0, shots=None, fold=fold)
        train, validation = map(counts, parts_of(data))
        assert [sum(pair) for pair in zip(train, validation, strict=True)] == [2, 4, 8]
        assert validation == [1, 1, 2 if fold < 3 else 1]


@pytest.mark.parametrize(
    ("dataset", "folds"),
    [(Numbers([500, 495]), 5), (Numbers([500, 500]), 1), (Numbers([500, 400], [5, 5]), 1)],
    ids=["199 to validate", "200 to validate", "validation of its own"],
)
def test_finals_are_cross_validated_where_validation_is_a_small_part_of_train(dataset: Dataset, folds: int) -> None:
    assert load_data(dataset, split_seed=0, shots=None).folds == folds


@pytest.mark.parametrize("fold", [-1, FOLDS])
def test_there_are_five_folds(fold: int) -> None:
    with pytest.raises(ValueError, match="fold"):
        load_data(Numbers(SIZES), split_seed=0, shots=None, fold=fold)


def test_a_validation_split_of_its_own_has_one_fold() -> None:
    with pytest.raises(ValueError, match="fold 1 of 1"):
        load_data(Numbers(SIZES, [1, 2, 1, 4, 5, 6]), split_seed=0, shots=None, fold=1)


def test_the_split_depends_on_ids_and_seed_alone() -> None:
    def of(order: int, seed: int) -> Any:
        dataset = Numbers(SIZES, has_test=False, order=order)
        return facts(load_data(dataset, split_seed=seed, shots=5)), held_out_test(dataset, split_seed=seed).ids

    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = of(0, seed=0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(2)
    np.random.seed(2)
    assert of(order=9, seed=0) == first
    assert of(order=0, seed=1) != first


def test_a_sample_more_moves_few_others() -> None:
    smaller = load_data(Numbers([50, 50]), split_seed=0, shots=None)
    larger = load_data(Numbers([51, 50]), split_seed=0, shots=None)
    assert len(set(smaller.validation.ids) ^ set(larger.validation.ids)) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_shots_and_fractions_are_nested_and_stratified(seed: int) -> None:
    def train(**options: Any) -> Part:
        return load_data(Numbers(SIZES), **{"split_seed": seed, "shots": None, **options}).train

    everything = counts(train())
    for one, other in zip((1, 2, 5, 10, 1000), (2, 5, 10, 1000, None), strict=True):
        assert set(train(shots=one).ids) <= set(train(shots=other).ids)
        assert counts(train(shots=one)) == [min(one, size) for size in everything]
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        assert set(train(fraction=fraction).ids) <= set(train(fraction=min(1.0, fraction * 2)).ids)
        assert counts(train(fraction=fraction)) == [max(1, round(fraction * size)) for size in everything]
    assert counts(train(shots=10, fraction=0.2)) == [max(1, round(0.2 * min(10, size))) for size in everything]


def test_another_split_seed_draws_other_shots_of_the_same_training_data() -> None:
    drawn = [load_data(Numbers(SIZES, [1] * 6), split_seed=seed, shots=3).train.ids for seed in range(3)]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("options", [{"shots": 1}, {"shots": None, "fraction": 0.01}])
def test_fewer_training_samples_leave_validation_alone(options: dict[str, Any]) -> None:
    whole = load_data(Numbers(SIZES), split_seed=0, shots=None)
    fewer = load_data(Numbers(SIZES), split_seed=0, **options)
    assert facts(fewer)[0][1] == facts(whole)[0][1]
    assert (fewer.search == whole.search).all()
    assert not set(fewer.train.ids) & set(whole.validation.ids)
    assert min(counts(fewer.train)) == min(counts(whole.validation)) == 1


@pytest.mark.parametrize("options", [{"shots": 0}, {"shots": None, "fraction": 0.0}, {"shots": None, "fraction": 1.5}])
def test_no_samples_at_all_are_not_a_subset(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        load_data(Numbers(SIZES), split_seed=0, **options)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("validation", [[1, 1], [2, 0], [1, 1, 1, 1, 1], [3, 5, 8, 1], [20, 31]])
def test_search_and_pick_are_stratified_halves_and_never_empty(validation: Sequence[int], seed: int) -> None:
    data = load_data(Numbers([5] * len(validation), validation), split_seed=seed, shots=None)
    search = np.bincount(data.validation.labels[data.search], minlength=len(validation))
    pick = np.bincount(data.validation.labels[~data.search], minlength=len(validation))
    assert (search + pick).tolist() == list(validation)
    assert np.abs(search - pick).max() <= 1
    assert abs(search.sum() - pick.sum()) <= 1
    assert min(search.sum(), pick.sum()) > 0


def test_each_sample_may_fall_into_either_half() -> None:
    halves = [load_data(Numbers([5] * 3, [1, 2, 3]), split_seed=seed, shots=None).search for seed in range(40)]
    assert np.mean(halves, axis=0) == pytest.approx(0.5, abs=0.3)


def test_excluded_samples_are_in_no_part() -> None:
    dataset = Numbers([20, 20], has_test=False)
    whole = load_data(dataset, split_seed=0, shots=None)
    test = held_out_test(dataset, split_seed=0)
    excluded = frozenset({whole.train.ids[0], whole.validation.ids[0], test.ids[0]})
    data = load_data(dataset, split_seed=0, shots=None, excluded=excluded)
    ids = {*data.train.ids, *data.validation.ids, *held_out_test(dataset, split_seed=0, excluded=excluded).ids}
    assert ids == set(dataset.load(0).train.ids) - excluded
    given = load_data(Numbers([4, 4], [2, 2]), split_seed=0, shots=None, excluded=frozenset({"validation/0/0"}))
    assert given.validation.ids == ("validation/0/1", "validation/1/0", "validation/1/1")


@pytest.mark.parametrize(
    ("sizes", "validation", "has_test", "message"),
    [
        ([9, 1], None, True, "'numbers': class 'class 1' has 1 word; at least 2 needed \\(training, validation\\)"),
        ([9, 2], None, False, "class 'class 1' has 2 words; at least 3 needed \\(training, validation, test\\)"),
        ([9, 0, 1], [1, 1, 1], False, "class 'class 1' has 0 words and 1 more classes have too few; at least 2"),
        ([9, 0], [1, 1], True, "class 'class 1' has 0 words; at least 1 needed \\(training\\)"),
        ([9], None, True, "'numbers': 1 class; at least 2"),
        ([9, 9], [1, 0], True, "1 validation samples; at least 2"),
        ([9, 9], [2, 2, 2], True, "classes of train and validation disagree: class 2"),
    ],
)
def test_data_that_cannot_be_split_is_refused(
    sizes: Sequence[int], validation: Sequence[int] | None, has_test: bool, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(Numbers(sizes, validation, has_test), split_seed=0, shots=None)


@pytest.mark.parametrize(("sizes", "has_test"), [([2, 2], True), ([3, 3], False)])
def test_the_smallest_classes_that_can_be_split_are(sizes: Sequence[int], has_test: bool) -> None:
    data = load_data(Numbers(sizes, has_test=has_test), split_seed=0, shots=None)
    assert [counts(part) for part in parts_of(data)] == [[1, 1], [1, 1]]


def test_excluding_a_classes_last_sample_is_refused() -> None:
    with pytest.raises(DataError, match="'class 0' has 1 word;"):
        load_data(Numbers([2, 9]), split_seed=0, shots=None, excluded=frozenset({"train/0/0"}))


def test_validation_samples_among_the_training_samples_are_refused() -> None:
    class Leaky(Numbers):
        def load(self, seed: int) -> Splits:
            train = split("train", [4, 4])
            return Splits(train, Split(train.ids[:3], train.labels[:3], train.class_names, train.ids))

    with pytest.raises(DataError, match="3 samples are in train and in validation, 'train/"):
        load_data(Leaky([]), split_seed=0, shots=None)


def test_a_test_split_is_checked_against_the_data() -> None:
    data = load_data(Numbers([9, 9]), split_seed=0, shots=None)
    check_test(data, as_part(split("test", [0, 4]), "test"))
    with pytest.raises(DataError, match="no samples"):
        check_test(data, as_part(split("test", [1, 0]), "test", frozenset({"test/0/0"})))
    with pytest.raises(DataError, match="classes of train and test disagree: class 2"):
        check_test(data, as_part(split("test", [1, 1, 1]), "test"))
    ids, labels, names = ["a", "b"], [0, 1], ["class 1", "class 0"]
    with pytest.raises(DataError, match="disagree: their order"):
        check_test(data, as_part(Split(ids, labels, names, ids), "test"))
    with pytest.raises(DataError, match="are in train and in test"):
        check_test(data, as_part(split("train", [9, 9]), "test"))
    with pytest.raises(DataError, match="in validation and in test"):
        check_test(data, as_part(split("train", [9, 9]), "test", frozenset(data.train.ids)))
    partial = Data(train=data.train.take("train", np.arange(3)), validation=data.validation, search=data.search)
    with pytest.raises(DataError, match="'class 1' occurs in the test split but not in training"):
        check_test(partial, as_part(split("test", [1, 1]), "test"))


class Encode(Preprocess):
    """Bytes of the id as an array; counts what it prepares."""

    def __init__(self) -> None:
        self.prepared: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    def prepare(self, sample: Any) -> np.ndarray:
        with self.lock:
            self.prepared[sample] += 1
        return np.frombuffer(sample.encode(), np.uint8)

    def batch(self, arrays: Any, params: Any, training: bool, generator: Any, device: Any) -> Any:
        raise NotImplementedError

    def example(self) -> np.ndarray:
        return np.zeros(1, np.uint8)


def text(arrays: Sequence[np.ndarray]) -> list[str]:
    return [array.tobytes().decode() for array in arrays]


@pytest.mark.parametrize("limit", [None, 0, 100])
def test_every_sample_is_answered_once_whatever_fits_in_memory(limit: int | None) -> None:
    part = as_part(split("x", [50, 51]), "test")
    prepared = Prepared(part, Encode(), memory_limit_bytes=limit)
    for _ in range(2):
        seen = [
            name for start in range(0, 101, 8) for name in text(prepared.arrays(np.arange(start, min(start + 8, 101))))
        ]
        assert seen == list(part.ids)
        assert len(set(seen)) == 101


def test_arrays_are_kept_while_memory_allows() -> None:
    part = as_part(split("x", [5, 5]), "train")  # ids of five bytes each
    for limit, decoded in ((None, 10), (25, 15), (24, 16), (0, 20)):
        preprocess = Encode()
        prepared = Prepared(part, preprocess, memory_limit_bytes=limit)
        first, second = prepared.arrays(range(10)), prepared.arrays(range(10))
        assert text(first) == text(second) == list(part.ids)
        assert preprocess.prepared.total() == decoded


def test_a_sample_asked_for_twice_is_decoded_once() -> None:
    preprocess = Encode()
    prepared = Prepared(as_part(split("x", [2, 2]), "train"), preprocess, memory_limit_bytes=0)
    assert text(prepared.arrays([3, 1, 3, 3])) == ["x/1/1", "x/0/1", "x/1/1", "x/1/1"]
    assert preprocess.prepared == {"x/1/1": 1, "x/0/1": 1}
    assert prepared.arrays([]) == []


def test_trials_in_several_threads_share_prepared_arrays() -> None:
    part = as_part(split("x", [100, 100]), "train")
    prepared = Prepared(part, Encode(), memory_limit_bytes=500)
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(text(prepared.arrays(range(200))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(part.ids)] * 4
    assert sum(array.nbytes for array in prepared._kept.values()) <= 500


@pytest.mark.parametrize("copies", [0, 1, 7])
def test_injected_duplicates_are_found_and_nothing_else(copies: int) -> None:
    def part(name: str, samples: list[str]) -> Prepared:
        ids = [f"{name}/{number}" for number in range(len(samples))]
        return Prepared(as_part(Split(ids, [0] * len(ids), ["a"], samples), name), Encode())

    train = part("train", [f"sample {number}" for number in range(300)])
    test = part("test", [f"sample {number}" for number in range(copies)] + [f"fresh {number}" for number in range(20)])
    assert duplicates(train, test) == copies
    assert duplicates(train, train) == 300


def test_arrays_of_equal_bytes_and_other_shape_are_no_duplicates() -> None:
    class Raw(Encode):
        def prepare(self, sample: Any) -> np.ndarray:
            array: np.ndarray = sample
            return array

    def one(array: np.ndarray) -> Prepared:
        return Prepared(as_part(Split(["a"], [0], ["a"], [array]), "train"), Raw())

    flat = np.zeros(12, np.uint8)
    assert duplicates(one(flat), one(flat.copy())) == 1
    assert duplicates(one(flat), one(flat.reshape(2, 6))) == 0
    assert duplicates(one(flat), one(flat.view(np.int8))) == 0
