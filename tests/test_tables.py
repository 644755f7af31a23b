"""Tables of texts: every format, which columns count, what is refused, and names for rows that have none."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tlbench.components import Dataset, Problem
from tlbench.errors import BenchmarkError, DataError
from tlbench.evaluation.data import held_out_test, load_data
from tlbench_data import find_dataset, register_datasets
from tlbench_data.images import ImageFolder
from tlbench_data.tables import TextTables

Rows = Sequence[tuple[str, ...]]
AWKWARD: tuple[str, ...] = (
    *("plain", "with, comma", 'she said "no"', '"quoted"', "two\nlines", "CR\r\nLF", "tab\there", "", " spaces "),
    *(
        "NA",
        "null",
        "None",
        "nan",
        "1",
        "1.0",
        "007",
        "true",
        "ünïcödé 🙂",
        "a;b|c",
        "\u2028separator",
        "#comment",
        "'",
    ),
)
GOOD: Rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]


def tables(path: Path, **options: str) -> TextTables:
    return TextTables().derive(name="mine/reviews", path=path, options=options)


def write_csv(path: Path, rows: Rows, header: Sequence[str] = ("text", "label"), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows([header, *rows])
    return path


def write_text(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def content(dataset: Dataset) -> list[tuple[str, str]]:
    """Texts and class names in the order of the rows."""
    train = dataset.load(0).train
    return [(train[i], train.class_names[train.labels[i]]) for i in range(len(train))]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        tables(path, **options).load(0)
    message = str(caught.value)
    assert message.startswith("data set 'mine/reviews': ")
    assert message.isprintable()
    return message


# Formats

WRITERS: Mapping[str, Callable[[Path, pd.DataFrame], object]] = {
    "a.csv": lambda path, frame: frame.to_csv(path, index=False),
    "b.CSV": lambda path, frame: frame.to_csv(path, index=True, lineterminator="\r\n"),
    "c.csv": lambda path, frame: frame.to_csv(path, index=False, encoding="utf-8-sig", quoting=csv.QUOTE_ALL),
    "d.csv": lambda path, frame: frame.to_csv(path, index=False, sep=";"),
    "e.csv.gz": lambda path, frame: frame.to_csv(path, index=False),
    "f.tsv": lambda path, frame: frame.to_csv(path, index=False, sep="\t"),
    "g.parquet": lambda path, frame: frame.to_parquet(path),
    "h.jsonl": lambda path, frame: frame.to_json(path, orient="records", lines=True),
    "i.ndjson": lambda path, frame: frame.to_json(path, orient="records", lines=True, force_ascii=False),
    "j.json": lambda path, frame: frame.to_json(path, orient="records", indent=1),
    "k.json": lambda path, frame: frame.to_json(path, orient="records", lines=True),
    "l.jsonl.gz": lambda path, frame: frame.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_pandas_writes_is_read_character_by_character(tmp_path: Path, name: str) -> None:
    """Nothing is guessed: "NA" is a text and a label, "007" keeps its zeros."""
    generator = random.Random(name)
    labels = ["NA", "null", "None", "007", "1.0", "true", "a b"]
    rows = [(generator.choice(AWKWARD) + generator.choice(AWKWARD), generator.choice(labels)) for _ in range(300)]
    WRITERS[name](tmp_path / name, pd.DataFrame(rows, columns=["text", "label"], dtype=str))
    dataset = tables(tmp_path / name)
    assert content(dataset) == rows
    assert [f"{problem.place}: {problem.reason}" for problem in dataset.problems()] == [
        f"row {number} of {name}: its text is empty" for number, (text, _) in enumerate(rows, 1) if not text.strip()
    ]


def test_all_formats_are_one_data_set(tmp_path: Path) -> None:
    frame = pd.DataFrame(GOOD, columns=["text", "label"])
    for name, write in WRITERS.items():
        write(tmp_path / name, frame)
    assert len({tables(tmp_path / name).fingerprint for name in WRITERS}) == 1


def test_numbers_keep_their_spelling_and_sort_by_value(tmp_path: Path) -> None:
    lines = [{"text": f"t{i}", "label": [10, 9, -1, 2][i % 4]} for i in range(12)]
    write_text(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    pd.DataFrame(lines).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame(lines).to_csv(tmp_path / "a.csv")
    gap = [*lines, {"text": "no label", "label": None}]
    pd.DataFrame(gap).to_parquet(tmp_path / "gap.parquet")  # pandas makes the column float64
    assert pd.read_parquet(tmp_path / "gap.parquet")["label"].dtype == np.float64
    for name in ("a.jsonl", "a.parquet", "a.csv", "gap.parquet"):
        train = tables(tmp_path / name).load(0).train
        assert train.class_names == ("-1", "2", "9", "10")
        assert list(train.labels) == [3, 2, 0, 1] * 3
    floats = write_text(tmp_path / "b.jsonl", "".join(f'{{"text": "t{i}", "label": {i % 2}.50}}\n' for i in range(6)))
    assert tables(floats).load(0).train.class_names == ("0.50", "1.50")


@pytest.mark.parametrize("words", [("nan", "inf", "1"), ("10", "9", "x"), ("B", "a", "A")])
def test_words_sort_by_their_letters(tmp_path: Path, words: Sequence[str]) -> None:
    path = write_csv(tmp_path / "a.csv", [(f"t{i}", words[i % 3]) for i in range(9)])
    assert tables(path).load(0).train.class_names == tuple(sorted(words))


def test_truth_values_are_classes(tmp_path: Path) -> None:
    lines = [{"text": f"t{i}", "label": i % 2 == 0} for i in range(6)]
    pd.DataFrame(lines).to_parquet(tmp_path / "a.parquet")
    write_text(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    for name in ("a.parquet", "a.jsonl"):
        assert tables(tmp_path / name).load(0).train.class_names == ("false", "true")


def test_a_text_longer_than_the_csv_module_takes_by_default(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write_csv(tmp_path / "a.csv", [*GOOD, ("x" * (limit + 1), "a")])
    assert len(content(tables(path))[-1][0]) == limit + 1
    assert csv.field_size_limit() == limit


def test_half_a_surrogate_pair_becomes_text_that_can_be_encoded(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{i} \ud800", "label": i % 2}) for i in range(4)]
    dataset = tables(write_text(tmp_path / "a.jsonl", "\n".join(lines)))
    assert content(dataset)[0][0] == "t0 \\ud800"
    assert dataset.fingerprint.startswith("sha256:")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "text,label\na,x\nb,y\n"),
        ("a.json", '[{"text": "a", "label": "x"}, {"label": "y"}]'),
    ):
        path = write_text(tmp_path / name, b"\xef\xbb\xbf" + text.encode())
        assert content(tables(path, text="text"))[0] == ("a", "x")


def test_lines_without_any_value_are_no_rows(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "text,label\na,x\n\nb,y\n,\nc,x\n\n")
    assert content(tables(path)) == [("a", "x"), ("b", "y"), ("c", "x")]
    assert tables(path).problems() == ()


QUOTES: Rows = [
    ('"brilliant" it is', "a"),
    ('"so begins a quote', "b"),
    ("that no line", "a"),
    ('of the text ends"', "b"),
    ('5" of snow', "a"),
    ('"', "b"),
    ("' single", "a"),
]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
@pytest.mark.parametrize("rows", [QUOTES, QUOTES[1:], QUOTES[1:4], QUOTES[:1]], ids=["all", "some", "closed", "one"])
def test_a_line_of_a_file_with_tabs_is_a_row_whatever_its_quotes(tmp_path: Path, name: str, rows: Rows) -> None:
    """A quote that a later line closes would take in the rows between them."""
    lines = ["text\tlabel", *("\t".join(row) for row in [*rows, *GOOD])]
    assert content(tables(write_text(tmp_path / name, "\n".join(lines)))) == [*rows, *GOOD]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("text", ["plain", 'she said "no"', '"quoted"', "tab\there", "two\nlines", "tab\tand\nlines"])
def test_quotes_around_a_value_of_a_file_with_tabs_are_none_of_its_own(tmp_path: Path, text: str, quoting: int) -> None:
    rows = [(text, "a"), *GOOD]
    path = write_csv(tmp_path / "a.tsv", [*rows, ("two\nlines", "a")], delimiter="\t", quoting=quoting)
    assert content(tables(path)) == [*rows, ("two\nlines", "a")]
    if "lines" not in text:
        path = write_csv(tmp_path / "b.tsv", rows, delimiter="\t", quoting=quoting)
        assert content(tables(path)) == rows


# Columns


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("text,label", ("text", "label")),
        ("Label,TEXT", ("TEXT", "Label")),
        (" review , stars ", ("review", "stars")),
        ("sentence,label,label_text", ("sentence", "label")),
        ("title,text,class", ("text", "class")),
        ("id,content,category", ("content", "category")),
        ("label,class,review", ("review", "label")),
    ],
)
def test_usual_names_settle_it(tmp_path: Path, header: str, chosen: tuple[str, str]) -> None:
    names = [name.strip() for name in header.split(",")]
    rows = [[f"{name} {i}" if name != chosen[1] else str(i % 2) for name in names] for i in range(10)]
    path = write_text(tmp_path / "a.csv", "\n".join([header, *map(",".join, rows)]))
    assert content(tables(path)) == [(f"{chosen[0]} {i}", str(i % 2)) for i in range(10)]


def test_without_usual_names_content_decides(tmp_path: Path) -> None:
    rows = [(str(i), f"a long enough phrase number {i}", f"u{i}", "xyz"[i % 3], "same" * 50) for i in range(30)]
    frame = pd.DataFrame(rows, columns=["nr", "phrase", "user", "verdict", "source"])
    for seed in range(5):
        frame.sample(frac=1, axis=1, random_state=seed).to_csv(tmp_path / "a.csv", index=False)
        assert content(tables(tmp_path / "a.csv")) == [(row[1], row[3]) for row in rows]


def test_named_columns_are_taken_whatever_else_there_is(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(f"t{i}", "x", f"other {i}", str(i % 3)) for i in range(9)],
                     ["text", "label", "second", "third"])  # fmt: skip
    assert content(tables(path, text="second", label="third")) == [(f"other {i}", str(i % 3)) for i in range(9)]
    assert content(tables(path, label="third"))[4] == ("t4", "1")
    assert content(tables(path, label="text", text="third"))[4] == ("1", "t4")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("review,title,stars", "r {i},t {i},{b}", r"'review', 'title' could each be.*text = \"review\""),
        ("text,stars,topic", "t {i},{b},{b}", r"'stars', 'topic' could each be the label column.*label = \"stars\""),
        ("a,b,c", "one text {i},two text {i},{b}", "'a', 'b' could each be the text column; its columns are .*'c'"),
        ("a,b,c", "text {i} of ten,a text {i},{b}", "'a', 'b' could each be the text column"),
        ("a,b,c", "one text {i},{b},{b}", "'b', 'c' could each be the label column"),
        ("a,b", "one text {i},value {i}", "no column looks like the label column; its columns are 'a', 'b'"),
        ("a,b", "{i},{b}", "no column looks like the text column"),
        ("great film,1", "film {i},{b}", "its first line holds a sample \\('1' is a value of that column too"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_asked(tmp_path: Path, header: str, row: str, message: str) -> None:
    lines = [header, *(row.format(i=i, b=i % 2) for i in range(12))]
    path = write_text(tmp_path / "a.csv", "\n".join(lines))
    with pytest.raises(DataError, match=message):
        tables(path).load(0)


def test_a_name_that_is_no_column_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", GOOD)
    assert refusal(path, text="review").endswith("a.csv: no column 'review'; its columns are 'text', 'label'")


def test_lists_are_no_labels(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.jsonl", "\n".join(f'{{"text": "t{i}", "labels": [{i % 2}]}}' for i in range(8)))
    assert "('labels': lists or objects, not single values)" in refusal(path)
    assert "column 'labels' holds lists or tables" in refusal(path, label="labels")


# Refusals


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "", "has no line with the names of its columns"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "text\na\n", "the table has one column, 'text'"),
        ("a.csv", "text,label,text\na,b,c\n", "2 columns are called 'text'; rename or remove all but one"),
        ("a.csv", "text,label\na,b\na,b,c\n", "line 3 ends a row of 3 values, but there are 2 columns"),
        ("a.csv", "text,label\na\n", "line 2 ends a row of 1 values, but there are 2 columns"),
        ("a.csv", 'text,label\n"a"b,c\n', "line 2: .*quotes doubled"),
        ("a.csv", 'text,label\nx,y\n"a,b\n', "line 3: unexpected end of data .*quotes doubled"),
        ("a.tsv", 'text\tlabel\n"a" b\tc\nd\n', "line 3 ends a row of 1 values, but there are 2 columns"),
        ("a.tsv", 'text\tlabel\n"a\nb"\tc\nd\n', "line 4 ends a row of 1 values, but there are 2 columns"),
        ("a.csv", "text,label\nb,c\né,d\n".encode("latin-1"), "a.csv: line 3 is not UTF-8"),
        ("a.csv", "text,label\nb,c\n".encode("utf-16"), "line 1 is not UTF-8: save the file with that encoding"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text"\n', "line 3: .*one JSON object on each line"),
        ("a.jsonl", '{"text": "a", "label": 1}\n7\n', "line 2: no JSON object, such as "),
        ("a.json", '{\n"text": "a", "label": 1}\n', "line 1: .*or a list of them, is needed"),
        ("a.json", "[" * 100_000, "or a list of them, is needed"),
        ("a.json", "[1, 2]", "a.json: no JSON object"),
        ("a.json", "[]", "has no rows"),
        ("a.json", '{"text": ["a", "b"], "label": [0, 1]}', "has no single values: JSON is read as a list of objects"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": 1}}', "has no single values: JSON is read as a list"),
        ("a.parquet", b"PAR1 nonsense", "a.parquet: it cannot be read: "),
        ("a.csv.gz", b"no gzip", "it cannot be read: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 99, mtime=0)[:-9], "it cannot be read: Compressed file ended"),
        ("a.csv", "text,label\na,x\nb,x\n", "a.csv has a single class, 'x'; at least 2 classes are needed"),
        ("a.csv", "text,label\na,\nb, \n", "column 'label' is empty"),
        ("a.xlsx", b"", "is no table that can be read: .csv, .tsv, .parquet, .jsonl, .ndjson, .json are"),
    ],
)
def test_a_file_that_is_no_table_of_texts_is_refused_in_one_line(
    tmp_path: Path, name: str, data: str | bytes, message: str
) -> None:
    assert re.search(message, refusal(write_text(tmp_path / name, data)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.csv").endswith(f"no file or folder {tmp_path / 'no.csv'}")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is unreadable to this user")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", GOOD).chmod(0)
    assert "a.csv: it cannot be read: Permission denied" in refusal(tmp_path / "a.csv")


def test_the_template_says_how_to_declare_a_table(tmp_path: Path) -> None:
    (template,) = (dataset for dataset in register_datasets() if dataset.name == "texts")
    asks = (lambda: template.load(0), lambda: template.fingerprint, lambda: template.has_test, template.problems)
    for ask in asks:
        with pytest.raises(BenchmarkError, match=r'\[\[dataset\]\].*base = "data/texts", path = "reviews.csv"'):
            ask()
    bad: list[tuple[dict[str, Any], str]] = [
        ({"separator": ";"}, "unknown option 'separator'; 'text' and 'label'"),
        ({"text": 3}, "option text = 3: a column's name is needed"),
        ({"label": ""}, "option label = ''"),
        ({"text": "a", "label": "a"}, "text and labels are both to be column 'a'"),
    ]
    for options, message in bad:
        with pytest.raises(BenchmarkError, match=f"'mine/x': {message}"):
            template.derive(name="mine/x", path=tmp_path, options=options)
    with pytest.raises(BenchmarkError, match="'mine/x': a table needs a path"):
        template.derive(name="mine/x", path=None, options={})


# Folders


@pytest.mark.parametrize("train", ["train.csv", "Training.jsonl", "TRAIN.tsv"])
@pytest.mark.parametrize("validation", ["validation", "val", "Valid", "dev"])
def test_a_folder_has_a_table_for_each_split(tmp_path: Path, train: str, validation: str) -> None:
    writers = {".csv": "a.csv", ".jsonl": "h.jsonl", ".tsv": "f.tsv"}
    frame = pd.DataFrame(GOOD, columns=["text", "label"])
    WRITERS[writers[Path(train).suffix]](tmp_path / train, frame)
    write_csv(tmp_path / f"{validation}.csv", [("b", "v"), ("a", "w")], ["label", "text"])
    frame.head(3).to_parquet(tmp_path / "test.parquet")
    write_csv(tmp_path / "other.csv", [("x", "y")])
    write_text(tmp_path / "README.md", "# nothing")
    dataset = tables(tmp_path)
    splits, test = dataset.load(0), dataset.load_test(0)
    assert dataset.has_test
    assert splits.validation is not None
    assert [splits.validation[0], splits.validation[1]] == ["v", "w"]
    assert (list(splits.validation.labels), list(test.labels)) == ([1, 0], [0, 1, 0])
    assert splits.train.class_names == splits.validation.class_names == test.class_names == ("a", "b")
    ids = [*splits.train.ids, *splits.validation.ids, *test.ids]
    assert [name.split("/")[0] for name in ids] == ["train"] * 20 + ["validation"] * 2 + ["test"] * 3
    assert len(set(ids)) == 25


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"reviews.csv": GOOD}, r"no table to train on, such as train.csv \(reviews.csv\); a path may name"),
        ({}, r"no table to train on, such as train.csv \(no tables\)"),
        ({"test.csv": GOOD}, "no table to train on"),
        ({"train.csv": GOOD, "training.csv": GOOD}, "two tables for its train split, train.csv and training.csv"),
        ({"train.csv": GOOD, "val.csv": GOOD, "dev.tsv": GOOD}, "two tables for its validation split, dev.tsv"),
        ({"train.csv": GOOD, "test.csv": [("t", "c")]}, "class 'c' in test.csv has no rows in train.csv to train on"),
        ({"train.csv": GOOD, "test.csv": [("t", "")]}, "test.csv: column 'label' is empty"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path, files: Mapping[str, Rows], message: str) -> None:
    for name, rows in files.items():
        write_csv(tmp_path / name, rows, delimiter="\t" if name.endswith("tsv") else ",")
    with pytest.raises(DataError, match=message):
        tables(tmp_path).load(0)


def test_a_split_without_the_columns_of_train_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", GOOD)
    write_csv(tmp_path / "test.csv", [("1", "x")], ["id", "text"])
    assert "test.csv has no column 'label', as the training table has; it has id, text" in refusal(tmp_path)


# Problems, ids and fingerprints


def test_rows_without_a_label_or_a_text_are_problems_and_no_others(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [*GOOD, ("unlabelled", ""), (" \n", "a"), ("\u00a0", "b"), ("", "a")])
    dataset = tables(path)
    problems = dataset.problems()
    assert all(isinstance(problem, Problem) for problem in problems)
    assert [f"{problem.place}: {problem.reason}" for problem in problems] == [
        "row 21 of a.csv: it has no label",
        "row 22 of a.csv: its text is empty",
        "row 23 of a.csv: its text is empty",
        "row 24 of a.csv: its text is empty",
    ]
    train = dataset.load(0).train
    assert len(train) == 23
    assert problems[0].sample_id not in train.ids
    assert {problem.sample_id for problem in problems[1:]} < set(train.ids)
    excluded = frozenset(problem.sample_id for problem in problems)
    parts = (load_data(dataset, split_seed=0, shots=None, excluded=excluded).train,
             load_data(dataset, split_seed=0, shots=None, excluded=excluded).validation,
             held_out_test(dataset, split_seed=0, excluded=excluded))  # fmt: skip
    assert {part.sample(i) for part in parts for i in range(len(part))} == {text for text, _ in GOOD}


def test_ids_are_the_documented_hash(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("x", "a"), ("y", "b"), ("x", "a"), ("x", "b"), ("x", "a")])

    def name(text: str, label: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return "train/" + hashlib.sha256(f"{label}\x1f{digest}".encode()).hexdigest()[:16]

    first = name("x", "a")
    assert tables(path).load(0).train.ids == [first, name("y", "b"), f"{first}-2", name("x", "b"), f"{first}-3"]


@pytest.mark.parametrize("seed", range(3))
def test_sorting_a_file_anew_or_adding_a_row_moves_no_other_row(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    rows = [(f"text {generator.randrange(40)}", generator.choice("abc")) for _ in range(100)]

    def splits(name: str, rows: Rows) -> tuple[dict[str, tuple[str, str]], str]:
        dataset = tables(write_csv(tmp_path / name, rows))
        data = load_data(dataset, split_seed=seed, shots=None)
        test = held_out_test(dataset, split_seed=seed)
        parts = (data.train, data.validation, test)
        return {
            part.ids[i]: (part.name, part.sample(i)) for part in parts for i in range(len(part))
        }, dataset.fingerprint

    original, shuffled = splits("a.csv", rows), splits("b.csv", generator.sample(rows, len(rows)))
    assert original == shuffled
    more, fingerprint = splits("c.csv", [("new", "a"), *rows])
    assert fingerprint != original[1]
    assert set(more) - set(original[0]) == set(more) - set(shuffled[0])
    assert len(set(more) - set(original[0])) == 1
    moved = sum(more[name] != where for name, where in original[0].items())
    assert moved <= 2  # a fifth of one more row may take one more sample for test and for validation


def test_the_fingerprint_changes_with_the_data_and_with_nothing_else(tmp_path: Path) -> None:
    def fingerprint(name: str, rows: Rows, header: Sequence[str] = ("text", "label"), test: Rows = GOOD) -> str:
        write_csv(tmp_path / name / "train.csv", rows, header)
        write_csv(tmp_path / name / "test.csv", test, header)
        return tables(tmp_path / name).fingerprint

    original = fingerprint("original", GOOD)
    assert fingerprint("columns", GOOD, ("review", "class")) == original
    assert fingerprint("order", GOOD[::-1]) == original
    changed = [
        fingerprint("text", [("Text 0", "a"), *GOOD[1:]]),
        fingerprint("label", [("text 0", "b"), *GOOD[1:]]),
        fingerprint("fewer", GOOD[1:]),
        fingerprint("twice", [*GOOD, GOOD[0]]),
        fingerprint("names", [(text, label.upper()) for text, label in GOOD], test=[("t", "A")]),
        fingerprint("test", GOOD, test=GOOD[1:]),
    ]
    assert len({original, *changed}) == 7


# Found by path


def test_a_path_stands_for_its_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "reviews.csv", GOOD)
    write_csv(tmp_path / "sets" / "sst2" / "train.csv", GOOD)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / label / "1.png")
    for name in ("reviews.csv", "sets/sst2"):
        found = find_dataset(name)
        assert isinstance(found, TextTables)
        assert found.name == name
        assert content(found) == list(GOOD)
    photos = find_dataset("photos/")
    assert isinstance(photos, ImageFolder)
    assert photos.name == "photos"
    monkeypatch.chdir("/")
    assert len(photos.load(0).train) == 2  # the folder is that of the time it was found


@pytest.mark.parametrize("folder", ["photos/train", "photos", "photos/images", "photos/.hidden"])
def test_a_table_beside_images_is_no_data_set_of_texts_unless_nothing_else_can_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        (tmp_path / folder / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / label / "1.png")
    write_csv(tmp_path / "photos" / "train.csv", [("cat/1.png", "cat"), ("dog/1.png", "dog")])
    if folder in ("photos", "photos/images"):
        with pytest.raises(DataError, match=r"'photos' has both tables \(train.csv\) and folders of images: declare"):
            find_dataset("photos")
    else:
        assert isinstance(find_dataset("photos"), ImageFolder if folder == "photos/train" else TextTables)


def test_a_path_without_a_data_set_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "notes.txt", "notes")
    write_csv(tmp_path / "some" / "reviews.csv", GOOD)
    write_csv(tmp_path / "my reviews.csv", GOOD)
    for name, message in [
        ("notes.txt", "'notes.txt' is a file but no table"),
        ("some", r"'some' is a folder without a data set \(1 files: 1 .csv\)"),
        ("nowhere.csv", "no file nowhere.csv in "),
        ("some/nowhere.parquet", "no file some/nowhere.parquet in "),
    ]:
        with pytest.raises(DataError, match=message):
            find_dataset(name)
    for name in ("my reviews.csv", "./some", "some/../some", str(tmp_path)):
        with pytest.raises(BenchmarkError, match="cannot be part of a data set's name: declare it in the file"):
            find_dataset(name)


# Real data


def test_real_reviews(real_data: Path) -> None:
    dataset = tables(real_data / "sst2")
    splits, test = dataset.load(0), dataset.load_test(0)
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(test)) == (6920, 872, 1821)
    assert splits.train.class_names == ("negative", "positive")
    assert dataset.problems() == ()
    for split, name in ((splits.train, "train"), (splits.validation, "validation"), (test, "test")):
        frame = pd.read_csv(real_data / "sst2" / f"{name}.csv", keep_default_na=False)
        assert [split[i] for i in range(len(split))] == frame["text"].tolist()
        assert [split.class_names[label] for label in split.labels] == frame["label"].tolist()
