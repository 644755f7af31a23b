"""Benchmark files: what is read is what stands there, what does not fit is named with its line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlbench.benchmark import (
    METRICS,
    BackboneDeclaration,
    Benchmark,
    DatasetDeclaration,
    Device,
    Limits,
    NamedOptions,
    Search,
    StrategyOverride,
    better,
    higher_is_better,
    load_benchmark,
    parse_duration,
)
from tlbench.errors import BenchmarkError
from tlbench.toml import dump, find_lines

REQUIRED = 'backbones = ["timm/a"]\nstrategies = ["basic/full"]\ndatasets = ["data/digits"]\n'  # lines 1 to 3

EXAMPLE = """\
name = "vision-small"                 # default: the file's name
backbones = ["timm/resnet18.a1_in1k", "zoo/*", "mine/net"]
strategies = ["basic/linear-probe", "basic/lora"]
datasets = ["data/digits", "mine/photos"]
seeds = [3, 1]

[search]
plan = "plain"
over = ["strategy"]
trials = 21
budget = "30m"
epochs = 8
metric = "nll"
seed = 5
sampler = { name = "RandomSampler", options = {} }
pruner = { name = "NopPruner" }

[limits]
max_latency_ms = 10.5
max_params = 30_000_000

[device]
kind = "cuda:1"
dtype = "bfloat16"
threads = 2
workers = 3

[[backbone]]
name = "mine/net"
base = "timm/mobilenetv2_100"
weights = "net.safetensors"
options = { pad_type = "same" }
preprocess = { size = 128, mean = [0.5, 0.5, 0.5] }

[[dataset]]
name = "mine/photos"
base = "data/images"
path = "../photos"
shots = 10
split_seed = 4
options = { strict = true }

[[strategy]]
name = "basic/lora"
fixed = { rank = 8 }
ranges = { learning_rate = { low = 1e-5, high = 1e-3, log = true }, optimiser = { choices = ["adamw", "sgd"] } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vision.toml"


def load(file: Path, text: str) -> Benchmark:
    file.write_text(text, encoding="utf-8")
    return load_benchmark(file)


def refusal(file: Path, text: str) -> str:
    with pytest.raises(BenchmarkError) as caught:
        load(file, text)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    return message.removeprefix(str(file))


def test_every_key_of_the_schema_is_read(file: Path) -> None:
    assert load(file, EXAMPLE) == Benchmark(
        name="vision-small",
        backbones=("timm/resnet18.a1_in1k", "zoo/*", "mine/net"),
        strategies=("basic/linear-probe", "basic/lora"),
        datasets=("data/digits", "mine/photos"),
        seeds=(3, 1),
        search=Search(
            over=("strategy",),
            trials=21,
            budget_s=1800.0,
            epochs=8,
            metric="nll",
            seed=5,
            sampler=NamedOptions(name="RandomSampler"),
            pruner=NamedOptions(name="NopPruner"),
        ),
        limits=Limits(max_latency_ms=10.5, max_params=30_000_000),
        device=Device(kind="cuda:1", dtype="bfloat16", threads=2, workers=3),
        declared_backbones=(
            BackboneDeclaration(
                name="mine/net",
                base="timm/mobilenetv2_100",
                weights=file.parent / "net.safetensors",
                options={"pad_type": "same"},
                preprocess={"size": 128, "mean": [0.5, 0.5, 0.5]},
            ),
        ),
        declared_datasets=(
            DatasetDeclaration(
                name="mine/photos",
                base="data/images",
                path=file.parent.parent / "photos",
                shots=10,
                split_seed=4,
                options={"strict": True},
            ),
        ),
        overrides=(
            StrategyOverride(
                name="basic/lora",
                fixed={"rank": 8},
                ranges={
                    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
                    "optimiser": {"choices": ["adamw", "sgd"]},
                },
            ),
        ),
    )


def test_three_keys_are_enough(file: Path) -> None:
    benchmark = load(file, REQUIRED)
    assert benchmark == Benchmark(
        name="vision", backbones=("timm/a",), strategies=("basic/full",), datasets=("data/digits",)
    )
    assert asdict(benchmark.search) == {
        "plan": "plain",
        "over": (),
        "trials": 20,
        "budget_s": None,
        "epochs": 9,
        "metric": "accuracy",
        "seed": 0,
        "sampler": {"name": "TPESampler", "options": {"multivariate": True, "group": True}},
        "pruner": {"name": "SuccessiveHalvingPruner", "options": {"min_resource": 1, "reduction_factor": 3}},
    }
    assert benchmark.seeds == (0, 1, 2)
    assert asdict(benchmark.device) == {"kind": "auto", "dtype": "auto", "threads": None, "workers": 1}
    assert set(asdict(benchmark.limits).values()) == {None}


@pytest.mark.parametrize("missing", ["backbones", "strategies", "datasets"])
def test_a_required_key_that_is_missing_is_named(file: Path, missing: str) -> None:
    text = "".join(line + "\n" for line in REQUIRED.splitlines() if not line.startswith(missing))
    assert refusal(file, text) == f": {missing} is missing"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("trails = 3", 4, "unknown key 'trails'"),
        ("\n\n[search]\n# a comment\ntrails = 3", 8, "unknown key 'search.trails': did you mean 'search.trials'?"),
        ("search.trails = 3", 4, "unknown key 'search.trails': did you mean 'search.trials'?"),
        ("search = { seed = 1, trails = 3 }", 4, "unknown key 'search.trails': did you mean 'search.trials'?"),
        ("[serch]", 4, "unknown key 'serch': did you mean 'search'?"),
        ("[device]\nzzz = 1", 5, "unknown key 'device.zzz': known are kind, dtype, threads, workers"),
        (
            '[[backbone]]\nname = "a/b"\nbase = "c/d"\n[[backbone]]\nname = "a/e"\nbase = "c/d"\nwieghts = "x"',
            10,
            "unknown key 'backbone.wieghts': did you mean 'backbone.weights'?",
        ),
        ("[search]\nsampler = { name = 'a', option = {} }", 5, "did you mean 'search.sampler.options'?"),
        ("[search.pruner]\nname = 'a'\noption = {}", 6, "did you mean 'search.pruner.options'?"),
    ],
)
def test_an_unknown_key_names_its_line_and_the_closest_key(file: Path, text: str, line: int, message: str) -> None:
    found = refusal(file, REQUIRED + text)
    assert found.startswith(f", line {line}: ")
    assert message in found


DECLARED = '[[backbone]]\nname = "mine/net"\nbase = "timm/a"\n'
DATA = '[[dataset]]\nname = "mine/data"\nbase = "data/images"\n'
OVERRIDE = '[[strategy]]\nname = "basic/full"\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[search]\ntrials = 0", 5, "search.trials must be a whole number of at least 1, not 0"),
        ("[search]\ntrials = true", 5, "search.trials must be a whole number of at least 1, not true"),
        ("[search]\ntrials = 2.0", 5, "search.trials must be a whole number of at least 1, not 2.0"),
        ('[search]\nepochs = "9"', 5, 'search.epochs must be a whole number of at least 1, not "9"'),
        ("[search]\nseed = -1", 5, "search.seed must be a whole number of at least 0, not -1"),
        ('[search]\nmetric = "acuracy"', 5, "search.metric must be one of accuracy, balanced_accuracy"),
        ('[search]\nover = ["dataset"]', 5, 'search.over must be a list of "backbone" and "strategy", not ["dataset"]'),
        ('[search]\nover = "backbone"', 5, 'search.over must be a list of "backbone" and "strategy"'),
        ('[search]\nover = ["backbone", "backbone"]', 5, 'search.over holds "backbone" twice'),
        ("[search]\nbudget = 30", 5, "search.budget must be a duration"),
        ('[search]\nbudget = "30"', 5, "search.budget cannot be read: '30' is not a duration: write one such as 90s"),
        ('[search]\nplan = "fast"', 5, "search.plan must be one of plain, staged"),
        ("[search]\nsampler = 'TPESampler'", 5, 'search.sampler must be a table, not "TPESampler"'),
        ("[search]\nsampler = {}", 5, "search.sampler.name is missing"),
        ("search = 3", 4, "search must be a table, not 3"),
        ("seeds = []", 4, "seeds is empty"),
        ("seeds = [1, 1]", 4, "seeds holds 1 twice"),
        ("seeds = [true]", 4, "seeds must be a list of whole numbers of at least 0, not [true]"),
        ("seeds = 1", 4, "seeds must be a list"),
        ("[limits]\nmax_params = 0", 5, "limits.max_params must be a number above 0"),
        ("[limits]\nmax_parms = 3", 5, "did you mean 'limits.max_params'?"),
        ('[device]\nkind = "gpu"', 5, "device.kind must be auto, cpu, cuda or cuda:0"),
        ('[device]\nkind = "cuda:x"', 5, "device.kind must be"),
        ('[device]\ndtype = "float64"', 5, "device.dtype must be one of auto, float32"),
        ("[device]\nworkers = 0", 5, "device.workers must be a whole number of at least 1"),
        ("[device]\nthreads = false", 5, "device.threads must be a whole number of at least 1, not false"),
        (DECLARED.replace("mine/net", "net"), 5, "backbone.name must be a full name with exactly one /"),
        (DECLARED.replace("mine/net", "a/b/c"), 5, "backbone.name must be a full name with exactly one /"),
        (DECLARED.replace("mine/net", "mine/*"), 5, "backbone.name must be a full name with exactly one /"),
        (DECLARED + DECLARED, 8, 'backbone.name "mine/net" is there twice'),
        ('[[backbone]]\nname = "a/b"', 4, "backbone.base is missing"),
        ('[backbone]\nname = "a/b"', 4, "backbone must be a list of tables, each under a line [[backbone]]"),
        (DECLARED + "weights = 3", 7, "backbone.weights must be a path, not 3"),
        (DECLARED + 'weights = ""', 7, "backbone.weights must be a path"),
        (DECLARED + "options = { day = 2020-01-01 }", 7, "backbone.options.day must be text, a finite number"),
        (DECLARED + "options = { a = [1, { b = nan }] }", 7, "backbone.options.a.b must be text, a finite number"),
        (DATA + "shots = 0", 7, "dataset.shots must be a whole number of at least 1"),
        (DATA + "split_seed = 1.5", 7, "dataset.split_seed must be a whole number of at least 0"),
        (OVERRIDE + "fixed = { batch_size = 0 }", 6, "parameter batch_size = 0: a whole number from 1"),
        (OVERRIDE + "[strategy.fixed]\nrank = 8\noptimiser = 'adam'", 8, "parameter optimiser = 'adam': one of"),
        (OVERRIDE + "ranges = { rank = 3 }", 6, "strategy.ranges.rank must be { low, high }"),
        (OVERRIDE + "ranges = { rank = { low = 3 } }", 6, "strategy.ranges.rank must be { low, high }"),
        (OVERRIDE + "ranges = { rank = { low = 3, high = 4, choices = [1] } }", 6, "must be { low, high }"),
        (OVERRIDE + "ranges = { rank = { low = 3, high = 3 } }", 6, "low below high"),
        (OVERRIDE + "ranges = { rank = { low = false, high = 3 } }", 6, "must have numbers as low and high"),
        (OVERRIDE + "ranges = { rank = { low = 0, high = 3, log = true } }", 6, "low above 0 where log is true"),
        (OVERRIDE + "ranges = { rank = { low = 1, high = 3, log = 1 } }", 6, "true or false as log"),
        (OVERRIDE + "ranges = { rank = { low = 1, high = 3, log = true, step = 1 } }", 6, "none where log is true"),
        (OVERRIDE + "ranges = { rank = { low = 1, high = 3, step = 0 } }", 6, "a number above 0 as step"),
        (OVERRIDE + "ranges = { rank = { low = 1, high = 3, step = 0.5 } }", 6, "a whole step"),
        (OVERRIDE + "ranges = { rank = { choices = [] } }", 6, "a list of numbers, texts or booleans as choices"),
        (OVERRIDE + "ranges = { rank = { choices = [[1]] } }", 6, "a list of numbers, texts or booleans as choices"),
        (OVERRIDE + "ranges = { dropout = { low = 0.1, high = 2.0 } }", 6, "parameter dropout = 2.0"),
        (OVERRIDE + "fixed = { rank = 8 }\nranges = { rank = { low = 1, high = 3 } }", 7, "the parameter is fixed"),
        (OVERRIDE + OVERRIDE, 7, 'strategy.name "basic/full" is there twice'),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_line_and_full_key(
    file: Path, text: str, line: int, message: str
) -> None:
    found = refusal(file, REQUIRED + text)
    assert found.startswith(f", line {line}: ")
    assert message in found


@pytest.mark.parametrize("key", ["backbones", "strategies", "datasets"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "is empty"),
        ('["a/b", "a/b"]', 'holds "a/b" twice'),
        ("[1]", "must be a list of"),
        ('"a/b"', "must be a list"),
    ],
)
def test_the_lists_hold_distinct_names(file: Path, key: str, value: str, message: str) -> None:
    found = refusal(file, re.sub(rf"{key} = .*", f"{key} = {value}", REQUIRED))
    assert f"{key} {message}" in found


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\\\\b", "/tmp", " a", "a\\n", "a\\u0000"])
def test_a_name_that_is_no_folder_name_is_refused(file: Path, name: str) -> None:
    assert ", line 4: name must be a name for a folder" in refusal(file, REQUIRED + f'name = "{name}"')


def test_text_that_is_no_toml_keeps_the_line(file: Path) -> None:
    assert "is not valid TOML" in (message := refusal(file, REQUIRED + "seeds = [1\nname"))
    assert "line 5" in message
    assert "is not valid TOML" in refusal(file, f"a = {'9' * 5000}")
    assert "is not valid TOML" in refusal(file, f"a = {'[' * 100_000}")
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(BenchmarkError, match=r"is not UTF-8 text: .* at byte 8"):
        load_benchmark(file)
    with pytest.raises(BenchmarkError, match=r"missing\.toml cannot be read: No such file"):
        load_benchmark(file.with_name("missing.toml"))


def test_paths_follow_the_file_and_variables(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)

    def path(text: str) -> Path | None:
        return load(file, f"{REQUIRED}{DATA}path = '{text}'").declared_datasets[0].path

    assert path("photos") == file.parent / "photos"
    assert path("/photos") == Path("/photos")
    assert path("~/photos") == Path("/somebody/photos")
    assert path("${PLACE}/a") == Path("/data/a")
    assert path("a${EMPTY}$PLACE") == file.parent / "a$PLACE"
    monkeypatch.chdir(file.parent.parent)
    file_here = Path(file.parent.name) / file.name
    assert load_benchmark(file_here).declared_datasets[0].path == file.parent / "a$PLACE"
    message = refusal(file, f"{REQUIRED}{DATA}path = '${{UNSET}}/a'")
    assert message == ", line 7: dataset.path needs the environment variable UNSET, which is not set"
    assert "dataset.path cannot be resolved" in refusal(file, f'{REQUIRED}{DATA}path = "a\\u0000"')


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1.5s", 3661.5), ("0.5h", 1800), (" 1s ", 1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert isinstance(parse_duration(text), float)


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-1m", "1m1h", "1d", "0s", "1 h", "1e3s", "nans", "٣s", "9" * 400 + "h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BenchmarkError, match="is not a duration"):
        parse_duration(text)


def test_which_metrics_count_upwards() -> None:
    assert [metric for metric in METRICS if not higher_is_better(metric)] == ["nll", "calibration_error"]
    assert better(0.6, 0.5, "accuracy")
    assert not better(0.6, 0.5, "nll")
    assert better(0.4, 0.5, "nll")
    assert not any(better(0.5, 0.5, metric) for metric in METRICS)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.lists(TEXT.filter(str.strip), min_size=1, max_size=3, unique=True).map(tuple)
LEAF = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
OPTIONS = st.dictionaries(
    TEXT,
    st.recursive(LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=5),
    max_size=3,
)
PATHS = st.text("ab é\"'\\#\n\x7f=[]", min_size=1, max_size=6).filter(str.strip).map(lambda text: Path("/data/" + text))
WHOLE = st.integers(min_value=1)
BENCHMARKS = st.builds(
    Benchmark,
    name=st.sampled_from(["a", "x.y z", "Größe 'q' \"d\"", "日本"]),
    backbones=NAMES,
    strategies=NAMES,
    datasets=NAMES,
    seeds=st.lists(st.integers(min_value=0), min_size=1, max_size=3, unique=True).map(tuple),
    search=st.builds(
        Search,
        over=st.sampled_from([(), ("backbone",), ("strategy", "backbone")]),
        trials=WHOLE,
        budget_s=st.none() | st.floats(min_value=1e-9, max_value=1e18),
        epochs=WHOLE,
        metric=st.sampled_from(METRICS),
        seed=WHOLE,
        sampler=st.builds(NamedOptions, name=st.just("TPESampler"), options=OPTIONS),
    ),
    limits=st.builds(
        Limits,
        max_latency_ms=st.none() | st.floats(1e-3, 1e6),
        max_params=st.none() | st.integers(1, 10**12),
        max_macs=st.none() | st.floats(1.0, 1e15),
    ),
    device=st.builds(
        Device, kind=st.sampled_from(["auto", "cpu", "cuda", "cuda:12"]), threads=st.none() | WHOLE, workers=WHOLE
    ),
    declared_backbones=st.just(())
    | st.tuples(
        st.builds(
            BackboneDeclaration,
            name=st.just("mine/a"),
            base=st.just("b/c"),
            weights=st.none() | PATHS,
            options=OPTIONS,
            preprocess=OPTIONS,
        ),
        st.just(BackboneDeclaration(name="mine/b", base="b/c")),
    ),
    declared_datasets=st.just(())
    | st.tuples(
        st.builds(
            DatasetDeclaration,
            name=st.just("mine/d"),
            base=st.just("b/c"),
            path=st.none() | PATHS,
            shots=st.none() | WHOLE,
            split_seed=WHOLE,
            options=OPTIONS,
        )
    ),
    overrides=st.just(())
    | st.tuples(
        st.builds(
            StrategyOverride,
            name=st.just("a/b"),
            fixed=st.dictionaries(st.sampled_from(["rank", "ünï cödé", 'a"b']), LEAF),
            ranges=st.just({"depth": {"low": 1, "high": 1e300}, "kind": {"choices": [1, True, "x", 0.1]}}),
        )
    ),
)


def exactly(value: Any) -> Any:
    """The value with types beside numbers: 1, 1.0 and True are three values, as are 0.0 and -0.0."""
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [exactly(item) for item in value]
    return type(value), repr(value)


@given(benchmark=BENCHMARKS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_loads_to_an_equal_value(tmp_path: Path, benchmark: Benchmark) -> None:
    again = load(tmp_path / "elsewhere.toml", benchmark.to_toml())
    assert again == benchmark
    assert exactly(asdict(again)) == exactly(asdict(benchmark))
    assert again.to_toml() == benchmark.to_toml()


def test_the_example_written_from_another_folder_is_the_same(file: Path, tmp_path: Path) -> None:
    benchmark = load(file, EXAMPLE)
    other = tmp_path / "other"
    other.mkdir()
    assert load(other / "benchmark.toml", benchmark.to_toml()) == benchmark


def test_what_toml_has_no_form_for_is_refused() -> None:
    with pytest.raises(TypeError, match="no form for None"):
        dump({"options": {"a": {"b": None}}})


LINES = r'''
a = @
"b c" = @ # = 9 [x] """
d.'e'.f = [@, @,
  @, # ] "
  [@,
   @]]
g = { h = @, i.j = @, k = [@, { l = @ }], m = {}, n = [] }


[ m . "n" ]
text = """a = 1
b = 2""" # not the end: """
o = @
quote = """x""\"""y"""""
raw = QQQ
[no]
x = "Q
QQQ
empty = """"""
p = @
"" = { "" = @ }
[[q]]
r = @
[q.s]
t = @
[[q]]
  r = @
[[q.u]]
v = @
[[q.u]]
v.w = @
[x]
day = 1979-05-27 07:32:00
half = -1.5e+3
"\u0079" = @
[m.z]
a = @ '''.replace("Q", "'")
NUMBERED = "\n".join(line.replace("@", str(number)) for number, line in enumerate(LINES.split("\n"), start=1))
"""Every whole number in it is the number of the line it stands on."""


def numbers(value: Any, place: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], int]:
    if isinstance(value, int):
        return {place: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {deep: line for name, item in items for deep, line in numbers(item, (*place, name)).items()}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_of_every_key_is_found(end: str) -> None:
    text = NUMBERED.replace("\n", end)
    expected = numbers(tomllib.loads(text))
    lines = find_lines(text)
    assert len(expected) == LINES.count("@")
    assert {place: lines.get(place) for place in expected} == expected
    first = LINES.split("\n").index("[[q]]") + 1
    tables = {("q",): 0, ("q", 0): 0, ("q", 0, "s"): 2, ("q", 1): 4, ("q", 1, "u"): 6, ("q", 1, "u", 1): 8, ("x",): 10}
    assert {place: lines[place] - first for place in tables} == tables


@given(OPTIONS)
@settings(max_examples=60, deadline=None)
def test_every_value_that_is_written_has_a_line(options: dict[str, Any]) -> None:
    text = dump({"table": options, "array": [options, options]})
    parsed = tomllib.loads(text)
    lines = find_lines(text)

    def places(value: Any, place: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [place] + [deep for name, item in items for deep in places(item, (*place, name))]

    assert set(places(parsed, ())) - {()} == set(lines)


def test_reading_a_benchmark_needs_none_of_the_heavy_packages() -> None:
    program = (
        "import sys, tlbench.benchmark, tlbench.store, tlbench.journal;"
        "print({'numpy', 'torch', 'pandas', 'pyarrow', 'optuna', 'ray', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
