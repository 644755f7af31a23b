"""Hub data sets: folders and saved data sets, images and texts, splits and columns, and a hub out of reach."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from tlbench.components import Dataset
from tlbench.errors import BenchmarkError, DataError
from tlbench.evaluation.data import load_data
from tlbench_data import find_dataset, register_datasets
from tlbench_data.hub import HubDataset
from tlbench_data.opening import choose_splits
from tlbench_data.tables import TextTables

Columns = Mapping[str, Sequence[Any]]
SENTIMENT = datasets.ClassLabel(names=["negative", "positive"])
TEXTS: Columns = {"text": [f"text {i}" for i in range(12)], "label": [i % 2 for i in range(12)]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Caches of this test alone, and a hub out of reach."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    datasets.disable_progress_bars()
    yield folder
    datasets.enable_progress_bars()


def made(columns: Columns, **features: Any) -> datasets.Dataset:
    """A data set with these columns, whose types are as given or else follow from the values."""
    plain = datasets.Dataset.from_dict(dict(columns))
    return plain.cast(datasets.Features({**plain.features, **features})) if features else plain


def saved(path: Path, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return path


def hub(path: Path, **options: str) -> HubDataset:
    return HubDataset().derive(name="mine/set", path=path, options=options)


def content(dataset: Dataset) -> list[tuple[Any, str]]:
    train = dataset.load(0).train
    return [(train[i], train.class_names[train.labels[i]]) for i in range(len(train))]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        hub(path, **options).load(0)
    message = str(caught.value)
    assert message.startswith("data set 'mine/set': ")
    assert message.count("data set 'mine/set'") == 1
    assert message.isprintable()
    return message


def png(shade: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (5, 4), shade).save(file, "PNG")
    return file.getvalue()


# Texts


def test_a_saved_data_set_and_a_folder_of_files_are_the_same(tmp_path: Path) -> None:
    train, test = made(TEXTS, label=SENTIMENT), made({"text": ["t"], "label": [1]}, label=SENTIMENT)
    saved(tmp_path / "saved", train=train, test=test)
    (tmp_path / "files").mkdir()
    train.to_parquet(str(tmp_path / "files" / "train-00000-of-00001.parquet"))
    test.to_parquet(str(tmp_path / "files" / "test-00000-of-00001.parquet"))
    sets = [hub(tmp_path / "saved"), hub(tmp_path / "files")]
    assert sets[0].fingerprint == sets[1].fingerprint
    for dataset in sets:
        assert dataset.modality == "text"
        assert dataset.has_test
        assert dataset.problems() == ()
        assert content(dataset) == [(f"text {i}", ["negative", "positive"][i % 2]) for i in range(12)]
        assert dataset.load(0).validation is None
        held = dataset.load_test(0)
        assert ([held[0]], list(held.labels), held.class_names) == (["t"], [1], ("negative", "positive"))


def test_it_agrees_with_the_same_texts_in_a_table(tmp_path: Path) -> None:
    data = made({**TEXTS, "label": [["one", "two", "ten"][i % 3] for i in range(12)]})
    data.to_csv(str(tmp_path / "a.csv"))
    table = TextTables().derive(name="mine/table", path=tmp_path / "a.csv", options={})
    dataset = hub(saved(tmp_path / "saved", train=data))
    assert dataset.load(0).train.ids == table.load(0).train.ids
    assert dataset.fingerprint == table.fingerprint
    assert content(dataset) == content(table)


def test_one_saved_split_is_training_data(tmp_path: Path) -> None:
    made(TEXTS).with_format("pandas").save_to_disk(str(tmp_path / "one"))
    dataset = hub(tmp_path / "one")
    assert not dataset.has_test
    assert content(dataset) == [(f"text {i}", str(i % 2)) for i in range(12)]
    with pytest.raises(DataError, match="'mine/set' has no test split"):
        dataset.load_test(0)
    data = load_data(dataset, split_seed=0, shots=None)
    assert len(data.train) + len(data.validation) == 10


def test_classes_keep_the_order_of_their_declaration(tmp_path: Path) -> None:
    declared = datasets.ClassLabel(names=["World", "Sports", "Unused", "Art"])
    data = made({"text": list("abcdef"), "label": [0, 1, 3, 0, 1, 3]}, label=declared)
    assert hub(saved(tmp_path / "a", train=data)).load(0).train.class_names == ("World", "Sports", "Art")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 2, -1] * 3, ("-1", "2", "9", "10")),
        (["10", "9", "b", "a"] * 3, ("10", "9", "a", "b")),
        ([True, False] * 6, ("false", "true")),
    ],
)
def test_plain_labels_are_sorted(tmp_path: Path, labels: list[Any], names: tuple[str, ...]) -> None:
    dataset = hub(saved(tmp_path / "a", train=made({**TEXTS, "label": labels})))
    assert dataset.load(0).train.class_names == names
    assert dataset.problems() == ()


@pytest.mark.parametrize("kind", [SENTIMENT, datasets.Value("int64")])
def test_a_split_whose_labels_are_secret_is_no_split(tmp_path: Path, kind: Any) -> None:
    train, secret = made(TEXTS, label=kind), made({"text": ["x", "y"], "label": [-1, -1]}, label=kind)
    dataset = hub(saved(tmp_path / "a", train=train, validation=train, test=secret))
    assert not dataset.has_test
    assert dataset.load(0).validation is not None
    assert dataset.problems() == ()
    assert not hub(saved(tmp_path / "b", train=train, validation=secret)).load(0).validation


@pytest.mark.parametrize("kind", [SENTIMENT, datasets.Value("int64")])
def test_single_rows_without_label_or_text_are_problems(tmp_path: Path, kind: Any) -> None:
    train = made({"text": ["a", "b", "", None, "c", "d"], "label": [0, 1, 0, 1, None, 0]}, label=kind)
    test = made({"text": ["x", "y"], "label": [-1, 1]}, label=kind)
    dataset = hub(saved(tmp_path / "a", train=train, test=test))
    assert [f"{problem.place}: {problem.reason}" for problem in dataset.problems()] == [
        "row 3 of the train split: its text is empty",
        "row 4 of the train split: its text is empty",
        "row 5 of the train split: it has no label",
        "row 1 of the test split: it has no label",
    ]
    assert [dataset.load_test(0)[0]] == ["y"]
    assert len(dataset.load(0).train) == 5


# Splits and columns


def test_splits_are_found_by_their_usual_names_or_named() -> None:
    found: dict[str, Any] = {name: name for name in ("Train", "dev", "val_mm", "unsupervised")}
    none = {"train": None, "validation": None, "test": None}
    assert choose_splits(found, none) == {"train": "Train", "validation": "dev"}
    assert choose_splits(found, {**none, "test": "val_mm"}) == {"train": "Train", "validation": "dev", "test": "val_mm"}
    assert choose_splits(found, {**none, "test": "dev"}) == {"train": "Train", "test": "dev"}
    with pytest.raises(DataError, match="no split 'tset'; its splits are Train, dev, val_mm, unsupervised"):
        choose_splits(found, {**none, "test": "tset"})
    with pytest.raises(DataError, match=r'its splits are a, b, none called train: .* options = \{ train = "a" \}'):
        choose_splits({"a": found["dev"], "b": found["dev"]}, none)
    with pytest.raises(DataError, match=r'its splits are train, val, dev: .* options = \{ validation = "val" \}'):
        choose_splits({"train": found["dev"], "val": found["dev"], "dev": found["dev"]}, none)


def test_named_columns_and_splits_are_taken(tmp_path: Path) -> None:
    columns = {**TEXTS, "other": [f"other {i}" for i in range(12)], "grade": ["x", "y", "z"] * 4}
    path = saved(tmp_path / "a", everything=made(columns, label=SENTIMENT), rest=made(columns, label=SENTIMENT))
    dataset = hub(path, text="other", label="grade", train="everything", test="rest")
    assert content(dataset) == [(f"other {i}", "xyz"[i % 3]) for i in range(12)]
    assert dataset.has_test


@pytest.mark.parametrize(
    ("columns", "features", "chosen"),
    [
        ({"idx": range(6), "phrase": list("aaabbb"), "grade": [0, 1] * 3}, {"grade": SENTIMENT}, ("a", "negative")),
        ({"sentence": list("abcdef"), "user": list("uvwxyz"), "stars": [5, 1] * 3}, {}, ("a", "5")),
        ({"label": [0, 1] * 3, "fine": [0, 1] * 3, "q": list("abcdef")}, {"label": SENTIMENT, "fine": SENTIMENT},
         ("a", "negative")),
        ({"one": [f"a longer text {i}" for i in range(6)], "two": ["p", "q"] * 3}, {}, ("a longer text 0", "p")),
    ],
)  # fmt: skip
def test_columns_are_found(tmp_path: Path, columns: Columns, features: dict[str, Any], chosen: tuple[str, str]) -> None:
    assert content(hub(saved(tmp_path / "a", train=made(columns, **features))))[0] == chosen


@pytest.mark.parametrize(
    ("columns", "features", "options", "message"),
    [
        ({"text": list("abcd"), "fine": [0, 1] * 2, "coarse": [0, 1] * 2}, {"fine": SENTIMENT, "coarse": SENTIMENT}, {},
         "'fine', 'coarse' could each be the label column"),
        ({"text": list("abcd"), "tags": [[0]] * 4}, {}, {}, r"\('tags': neither images nor single values\)"),
        ({"text": list("abcd"), "tags": [[0]] * 4}, {}, {"label": "tags"}, "'tags' cannot be the label column: it"),
        ({"text": list("abcd"), "label": [0, 1] * 2}, {}, {"text": "txt"}, "no column 'txt'; its columns are text"),
        ({"text": list("abcd"), "label": [0, 1] * 2}, {}, {"image": "text"}, "'text' cannot be the image column"),
        ({"text": list("abcd"), "label": [0] * 4}, {}, {}, "the train split has a single class, '0'"),
        ({"text": list("abcd"), "label": [0] * 4}, {}, {"config": "x"}, "has no config to choose: take it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, columns: Columns, features: dict[str, Any], options: dict[str, str], message: str
) -> None:
    assert re.search(message, refusal(saved(tmp_path / "a", train=made(columns, **features)), **options))


def test_other_splits_need_the_columns_and_classes_of_train(tmp_path: Path) -> None:
    train = made({"text": list("abcd"), "label": ["x", "y"] * 2})
    path = saved(tmp_path / "a", train=train, test=made({"text": ["t"], "label": ["z"]}))
    assert "class 'z' in the test split has no rows in the train split to train on" in refusal(path)
    path = saved(tmp_path / "b", train=train, test=made({"text": ["t"]}))
    assert "the test split has no column 'label'; it has text" in refusal(path)


# Images


def pictures(cells: Sequence[bytes | str | None], labels: Sequence[int]) -> datasets.Dataset:
    column = [cell if cell is None or isinstance(cell, str) else {"bytes": cell, "path": None} for cell in cells]
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    return datasets.Dataset.from_dict({"img": column, "label": labels}, features=features)


def test_images_become_pixels(tmp_path: Path) -> None:
    cells = [png(40), png(7, "L"), png(3), png(4)]
    dataset = hub(saved(tmp_path / "a", train=pictures(cells, [0, 1, 0, 1]), test=pictures([png(9)], [1])))
    assert dataset.modality == "image"
    train = dataset.load(0).train
    assert train.class_names == ("cat", "dog")
    assert (train[0].dtype, train[0].shape) == (np.uint8, (4, 5, 3))
    assert [train[i][0, 0].tolist() for i in range(3)] == [[40, 0, 0], [7, 7, 7], [3, 0, 0]]
    assert dataset.problems() == ()
    other = hub(
        saved(tmp_path / "b", train=pictures([png(41), *cells[1:]], [0, 1, 0, 1]), test=pictures([png(9)], [1]))
    )
    assert other.fingerprint != dataset.fingerprint


def test_damaged_images_are_problems_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(png(1))
    (tmp_path / "gone.png").write_bytes(png(2))
    cells = [
        png(1),
        b"no image",
        b"",
        None,
        png(2),
        png(3)[:50],
        str(tmp_path / "here.png"),
        str(tmp_path / "gone.png"),
    ]
    pictures(cells, [0, 1] * 4).save_to_disk(str(tmp_path / "a"), storage_options=None)
    dataset = hub(tmp_path / "a")
    reasons = [f"{problem.place}: {problem.reason}" for problem in dataset.problems()]
    rows = [f"row {row} of the train split: " for row in (2, 3, 4, 6)]
    assert [reason.startswith(row) for reason, row in zip(reasons, rows, strict=True)] == [True] * 4
    assert [reason.removeprefix(row) for reason, row in zip(reasons, rows, strict=True)][:3] == [
        "not an image that Pillow can read",
        "empty file",
        "empty file",
    ]
    train = dataset.load(0).train
    assert {problem.sample_id for problem in dataset.problems()} <= set(train.ids)
    with pytest.raises(DataError, match="image 2 of column 'img' does not decode: not an image that Pillow can read"):
        train[1]


def test_image_files_that_went_away_are_problems(tmp_path: Path) -> None:
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"{name}.png").write_bytes(png(len(name)))
    assert hub(tmp_path / "photos").problems() == ()
    dataset = hub(tmp_path / "photos")
    assert dataset.modality == "image"
    assert dataset.load(0).train.class_names == ("cat", "dog")
    (tmp_path / "photos" / "dog" / "2.png").unlink()
    assert [f"{problem.place}: {problem.reason}" for problem in dataset.problems()] == [
        "row 4 of the train split: cannot be read: No such file or directory"
    ]


def test_several_image_columns_are_asked_about(tmp_path: Path) -> None:
    two = pictures([png(1)] * 4, [0, 1] * 2)
    two = two.add_column("mask", list(two.cast_column("img", datasets.Image(decode=False))["img"]))
    two = two.cast_column("mask", datasets.Image())
    path = saved(tmp_path / "a", train=two)
    assert 'img, mask all hold images: say which column to take, such as options = { image = "img" }' in refusal(path)
    assert hub(path, image="mask").load(0).train[0].shape == (4, 5, 3)


# Out of reach


def test_a_hub_out_of_reach_says_what_to_do(cache: Path) -> None:
    dataset = HubDataset().derive(name="mine/sst2", path=None, options={"id": "stanfordnlp/sst2"})
    message = f"'mine/sst2': hub data set 'stanfordnlp/sst2' does not load: .*; fetch it once .* {cache / 'datasets'}"
    asks = (lambda: dataset.modality, lambda: dataset.load(0), lambda: dataset.fingerprint, dataset.problems)
    for ask in asks:
        with pytest.raises(DataError, match=message):
            ask()


def test_what_does_not_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('run')")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 nonsense")
    (tmp_path / "broken.txt").write_text("x")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "dataset_dict.json").write_text("{")
    for name in ("empty", "script", "broken", "torn"):
        assert f"folder {tmp_path / name} does not load: " in refusal(tmp_path / name)
    assert "scripts are no longer supported" in refusal(tmp_path / "script")
    assert refusal(tmp_path / "nowhere").endswith(f"no folder {tmp_path / 'nowhere'}")
    assert refusal(tmp_path / "broken.txt").endswith("is a file; a folder is needed")


def test_a_config_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "a" / name).mkdir(parents=True)
        made({**TEXTS, "label": [f"{name} {i % 2}" for i in range(12)]}).to_csv(
            str(tmp_path / "a" / name / "train.csv")
        )
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("one", "two"))
    (tmp_path / "a" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert re.search(r"'one', 'two'.*; say which, such as options = \{ config", refusal(tmp_path / "a"))
    assert re.search(r"'one', 'two'", refusal(tmp_path / "a", config="three"))
    assert hub(tmp_path / "a", config="two").load(0).train.class_names == ("two 0", "two 1")


# Declarations and names


def test_the_template_says_how_to_declare_one(tmp_path: Path) -> None:
    (template,) = (dataset for dataset in register_datasets() if dataset.name == "hub")
    assert template.modality == "image-or-text"
    asks = (lambda: template.load(0), lambda: template.fingerprint, lambda: template.has_test, template.problems)
    for ask in asks:
        with pytest.raises(BenchmarkError, match=r'\[\[dataset\]\].*base = "data/hub", options = \{ id = "stanfordnlp'):
            ask()
    bad: list[tuple[Path | None, dict[str, Any], str]] = [
        (None, {}, "either options = .* or a path to a folder is needed, not none"),
        (tmp_path, {"id": "a/b"}, "either .* is needed, not both"),
        (tmp_path, {"revision": "main"}, "unknown option 'revision'; there are id, config, text, image, label, train"),
        (tmp_path, {"text": 3}, "option text = 3: text is needed"),
        (tmp_path, {"text": "a", "image": "b"}, "options text and image exclude each other"),
        (tmp_path, {"validation": "dev", "test": "dev"}, "split 'dev' is named 2 times"),
    ]
    for path, options, message in bad:
        with pytest.raises(BenchmarkError, match=f"'mine/x': {message}"):
            template.derive(name="mine/x", path=path, options=options)


def test_named_columns_tell_the_modality_without_loading() -> None:
    for kind in ("image", "text"):
        options = {"id": "nobody/nothing", kind: "column"}
        assert HubDataset().derive(name="mine/x", path=None, options=options).modality == kind


def test_only_ids_with_an_owner_and_cached_names_are_looked_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    found = find_dataset("stanfordnlp/sst2")
    assert isinstance(found, HubDataset)
    assert found.name == "stanfordnlp/sst2"
    assert [find_dataset(name) for name in ("digitz", "imdb", "a/b/c", "a/")] == [None] * 4
    (cache / "hub" / "datasets--imdb").mkdir(parents=True)
    assert isinstance(find_dataset("imdb"), HubDataset)


def test_a_saved_data_set_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "sets" / "mine", train=made(TEXTS))
    monkeypatch.chdir(tmp_path)
    found = find_dataset("sets/mine")
    assert isinstance(found, HubDataset)
    assert (found.name, found.modality) == ("sets/mine", "text")


def test_finding_imports_nothing_heavy() -> None:
    code = (
        "import sys, tlbench_data; tlbench_data.find_dataset('nobody/nothing'); tlbench_data.find_dataset('nothing');"
        "print(sorted({'numpy', 'PIL', 'torch', 'pandas', 'pyarrow', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
