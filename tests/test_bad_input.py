"""Bad input: one clear line and exit status 2, before anything is trained; never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import tiny
from tlbench.cli import main
from tlbench.store import Store

GOOD: dict[str, str] = {
    "backbones": '["tiny/net"]',
    "strategies": '["tiny/means"]',
    "datasets": '["tiny/blobs"]',
    "seeds": "[0]",
}
REST = """
[search]
trials = 1
epochs = 1
[device]
kind = "cpu"
threads = 1
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tiny_plugin: object, tmp_path: Path) -> Write:
    """A benchmark file over the tiny plugin, with changed keys and more text at its end."""

    def benchmark(more: str = "", rest: str = REST, **changes: str) -> Path:
        lines = [f"{name} = {value}" for name, value in {**GOOD, **changes}.items()]
        (tmp_path / "bad.toml").write_text("\n".join(lines) + rest + more)
        return tmp_path / "bad.toml"

    return benchmark


def tlbench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def message(result: Result) -> str:
    """The one line that a refused command leaves behind."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "Traceback" not in line
    prefix = "tlbench: error: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def refusal(file: Path, *options: object) -> str:
    """Why running the file is refused; nothing was trained."""
    out = file.parent / "out"
    said = message(tlbench("run", file, "--out", out, *options))
    assert not list(out.glob("*/measurements/*"))
    return said


# Names, keys and values


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbones": '["tiny/nett"]'}, "no backbone 'tiny/nett': did you mean 'tiny/net'? 'tlbench list backbones'"),
        (
            {"strategies": '["basic/linear-prob"]'},
            "no strategy 'basic/linear-prob': did you mean 'basic/linear-probe'?",
        ),
        ({"datasets": '["tiny/blob"]'}, "no dataset 'tiny/blob': did you mean 'tiny/blobs'? 'tlbench list datasets'"),
        ({"backbones": '["tyni/net"]'}, "no backbone 'tyni/net': no plugin 'tyni': did you mean 'tiny'?"),
        ({"backbones": '["net"]'}, "no backbone 'net'"),
        ({"backbones": '["tiny/x*"]'}, "tiny/x*"),
        ({"backbones": '["timm/resnet81"]', "strategies": '["basic/scratch"]'}, "no backbone 'timm/resnet81'"),
        ({"datasets": '["data/images"]'}, "data set 'data/images' needs a path: declare one in the benchmark file"),
    ],
)
def test_unknown_names_are_answered_with_the_closest(write: Write, changes: dict[str, str], expected: str) -> None:
    assert expected in refusal(write(**changes))


OVERRIDE = '[[strategy]]\nname = "tiny/means"\n'


@pytest.mark.parametrize(
    ("more", "line", "expected"),
    [
        ("epoch = 3\n", 11, "'device.epoch'"),
        ("[serch]\n", 11, "unknown key 'serch': did you mean 'search'?"),
        ("[limits]\nmax_params = 0\n", 12, "a number above 0"),
        (OVERRIDE + "fixt = {}\n", 13, "did you mean 'strategy.fixed'?"),
        (OVERRIDE + 'fixed = { optimiser = "adamm" }\n', 13, "parameter optimiser = 'adamm': one of adamw, sgd"),
        ("threads = 2\n", 11, "Cannot overwrite a value"),
    ],
)
def test_misspelt_keys_and_values_are_told_with_their_line(write: Write, more: str, line: int, expected: str) -> None:
    said = refusal(write(more))
    assert re.search(rf"bad\.toml.*line {line}\b", said)
    assert expected in said


@pytest.mark.parametrize(
    ("strategy", "given", "expected"),
    [
        ("partial", "fixed = { frozen_blocks = 999 }", "parameter frozen_blocks = 999: a whole number from 0 to 2"),
        ("partial", "ranges = { frozen_blocks = { low = 0, high = 5 } }", "parameter frozen_blocks = 5: a whole"),
        ("partial", "fixed = { head_learning_rate_scale = -1 }", "parameter head_learning_rate_scale = -1"),
        ("full", "fixed = { layer_decay = 2.0 }", "parameter layer_decay = 2.0: a number from 0 to 1"),
        ("lp-ft", "ranges = { layer_decay = { choices = [0.5, 3] } }", "parameter layer_decay = 3"),
        ("gradual-unfreeze", "fixed = { unfreeze_fraction = 1.5 }", "parameter unfreeze_fraction = 1.5"),
        ("l2-sp", "fixed = { alpha = -1.0 }", "parameter alpha = -1.0"),
        ("bias-only", 'fixed = { head_learning_rate_scale = "x" }', "parameter head_learning_rate_scale = 'x'"),
        ("norm-only", "fixed = { head_learning_rate_scale = true }", "parameter head_learning_rate_scale = True"),
        ("lora", "fixed = { rank = 0 }", "parameter rank = 0: a whole number from 1"),
        ("lora", "fixed = { rank = 8.5 }", "parameter rank = 8.5"),
        ("lora", 'fixed = { targets = "attn" }', "parameter targets = 'attn': one of attention, all"),
        ("linear-probe", "fixed = { l2 = -1.0 }", "parameter l2 = -1.0: a number above 0"),
        ("ridge-probe", "ranges = { l2 = { low = 0.0, high = 1.0 } }", "parameter l2 = 0.0: a number above 0"),
        ("knn", "fixed = { neighbours = 0 }", "parameter neighbours = 0"),
        ("mlp-probe", "fixed = { l2 = 0 }", "parameter l2 = 0"),
        ("lp-ft", 'fixed = { head = "mlp" }', "head_start = 'probe' needs head = 'linear', not 'mlp'"),
        ("lp-ft", 'ranges = { head = { choices = ["linear", "conv"] } }', "head_start = 'probe' needs head = 'linear'"),
        (
            "full",
            'ranges = { head = { choices = ["linear", "mlp"] }, head_start = { choices = ["random", "probe"] } }',
            "head_start = 'probe' needs head = 'linear', not 'mlp'",
        ),
        (
            "full",
            'fixed = { schedule = "wsd" }\nranges = { average = { low = 1, high = 2 } }',
            "schedule = 'wsd' validates once, at the end",
        ),
        (
            "full",
            'ranges = { schedule = { choices = ["cosine", "wsd"] }, patience = { low = 1, high = 3 } }',
            "schedule = 'wsd' validates once, at the end",
        ),
        ("full", "fixed = { drop_path = 0.1 }", "the backbone has no stochastic depth: drop_path = 0 is needed"),
        ("full", "ranges = { drop_path = { choices = [0.0, 0.1] } }", "the backbone has no stochastic depth"),
        ("full", "ranges = { drop_path = { low = 0.0, high = 0.2 } }", "the backbone has no stochastic depth"),
    ],
)
def test_values_that_a_strategy_cannot_use_are_refused(write: Write, strategy: str, given: str, expected: str) -> None:
    named = f'["basic/{strategy}"]'
    said = refusal(write(f'[[strategy]]\nname = "basic/{strategy}"\n{given}\n', strategies=named))
    assert said.startswith(f"strategy 'basic/{strategy}' with backbone 'tiny/net': {expected}")


def test_what_cannot_be_fixed_together_is_refused(write: Write) -> None:
    given = '[[strategy]]\nname = "basic/full"\nfixed = { schedule = "wsd", patience = 2 }\n'
    assert refusal(write(given, strategies='["basic/full"]')).startswith("schedule = 'wsd' validates once, at the end")


def test_a_head_that_is_no_probe_may_start_at_random(write: Write, tmp_path: Path) -> None:
    given = '[[strategy]]\nname = "basic/lp-ft"\nfixed = { head = "mlp", head_start = "random", drop_path = 0 }\n'
    result = tlbench("run", write(given, strategies='["basic/lp-ft"]'), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (OVERRIDE + "fixed = { temprature = 2.0 }", "'tiny/means' called 'temprature': did you mean 'temperature'?"),
        (OVERRIDE + "ranges = { l2 = { low = 0.1, high = 0.2 } }", "no parameter of strategy 'tiny/means' called 'l2'"),
        (OVERRIDE.replace("means", "mean"), "no strategy 'tiny/mean': did you mean 'tiny/means'?"),
        (OVERRIDE + 'fixed = { pool = "clss" }', "'tiny/net' has no pool 'clss': native, avg, max, avg+max"),
        (OVERRIDE + 'ranges = { pool = { choices = ["avg", "cls"] } }', "'tiny/net' has no pool 'cls': native"),
    ],
)
def test_a_parameter_that_does_not_exist_is_not_ignored(write: Write, more: str, expected: str) -> None:
    assert expected in refusal(write(more))


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ('sampler = { name = "TPESample" }', "search.sampler.name = 'TPESample': Optuna has"),
        ('sampler = { name = "TPESampler", options = { startup = 3 } }', "search.sampler = TPESampler: "),
        ('pruner = { name = "MedianPruner", options = { n_startup_trials = -1 } }', "search.pruner = MedianPruner: "),
    ],
)
def test_samplers_and_pruners_are_made_before_anything_runs(write: Write, rest: str, expected: str) -> None:
    assert expected in refusal(write(rest=f"\n[search]\n{rest}\n"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is needed")
def test_a_gpu_that_is_not_there_is_told(write: Write, tmp_path: Path) -> None:
    result = tlbench("run", write(rest='\n[device]\nkind = "cuda"\n'), "--out", tmp_path / "out")
    assert result.exit_code == 2
    error = "tlbench: error: device.kind = 'cuda', but torch sees no GPU: use 'cpu' or 'auto'"
    assert result.stderr.splitlines()[-1] == error
    assert not list((tmp_path / "out").glob("*/measurements/*"))


def test_a_variable_in_a_path_that_is_not_set_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLBENCH_REAL_DATA", raising=False)
    declared = '[[dataset]]\nname = "mine/cifar"\nbase = "data/images"\npath = "${TLBENCH_REAL_DATA}/cifar10-small"\n'
    said = refusal(write(declared, datasets='["mine/cifar"]'))
    assert "line 14: dataset.path needs the environment variable TLBENCH_REAL_DATA, which is not set" in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no benchmark file" in message(tlbench("run", tmp_path / "absent.toml"))


# Images


def save(path: Path, label: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny._Blobs([label] * (seed + 1), 0)[seed]).save(path)


def photos(root: Path, train: int = 10, test: int = 4) -> Path:
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("red", "green", "blue")):
            for number in range(count):
                save(root / split / name / f"{number}.png", label, number)
    return root


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of images and a benchmark over it."""
    declared = '[[dataset]]\nname = "mine/photos"\nbase = "data/images"\npath = "photos"\n'
    return photos(tmp_path / "photos"), write(declared, datasets='["mine/photos"]')


def test_a_folder_of_images_runs(folder: tuple[Path, Path], tmp_path: Path) -> None:
    result = tlbench("run", folder[1], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output


def test_a_class_with_one_image_is_named(folder: tuple[Path, Path]) -> None:
    root, file = folder
    save(root / "train" / "violet" / "only.png", 0, 0)
    said = refusal(file)
    assert "class 'violet' has 1 image; at least 2 needed (training, validation)" in said


def test_a_class_that_only_the_test_split_has_is_named(folder: tuple[Path, Path]) -> None:
    root, file = folder
    save(root / "test" / "violet" / "only.png", 0, 0)
    assert "class 'violet' of the test split" in refusal(file)


def test_a_folder_that_is_not_there_or_has_one_class(folder: tuple[Path, Path]) -> None:
    root, file = folder
    for name in ("green", "blue"):
        (root / "train" / name).rename(root / f".{name}")
        (root / "test" / name).rename(root / f".test-{name}")
    assert "has a single class, 'red'" in refusal(file)
    root.rename(root.parent / "elsewhere")
    assert f"no folder {root}" in refusal(file)


def test_broken_images_are_counted_and_listed_and_can_be_left_out(folder: tuple[Path, Path], tmp_path: Path) -> None:
    root, file = folder
    broken = ["train/red/0.png", "train/green/1.png", "test/blue/2.png"]
    (root / broken[0]).write_bytes(b"")
    (root / broken[1]).write_bytes(b"no image at all")
    (root / broken[2]).write_bytes((root / broken[2]).read_bytes()[:60])
    said = refusal(file)
    assert "data set 'mine/photos': 3 samples cannot be used" in said
    assert all(f"{name}: " in said for name in broken)
    assert "--skip-bad goes on without them" in said

    result = tlbench("run", file, "--out", tmp_path / "out", "--skip-bad")
    assert result.exit_code == 0, result.output
    (final,) = [each for each in Store(tmp_path / "out" / "bad").measurements() if each.trial.stage == "final"]
    counts = final.counts
    assert (counts["train"] + counts["validation"], counts["test"], counts["test_evaluated"]) == (28, 11, 11)
    rows = Store(tmp_path / "out" / "bad").predictions(final.key)
    assert rows is not None
    assert not set(broken) & set(rows.sample_id)


def test_of_many_broken_images_some_are_shown(folder: tuple[Path, Path]) -> None:
    root, file = folder
    for number in range(8):
        (root / "train" / "red" / f"{number}.png").write_bytes(b"")
    said = refusal(file)
    assert "8 samples cannot be used" in said
    assert "and 3 more" in said
    assert said.count(".png: ") == 5


def test_leaving_out_too_many_is_told_as_what_it_is(folder: tuple[Path, Path]) -> None:
    root, file = folder
    for number in range(9):
        (root / "train" / "red" / f"{number}.png").write_bytes(b"")
    assert "class 'red' has 1 image; at least 2 needed" in refusal(file, "--skip-bad")


# Results folders


@pytest.fixture
def run(write: Write, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run: its benchmark file and its folder."""
    file = write()
    assert tlbench("run", file, "--out", tmp_path / "done").exit_code == 0
    return file, tmp_path / "done" / "bad"


def test_a_results_folder_that_cannot_be_made(write: Write, tmp_path: Path) -> None:
    file = write()
    (tmp_path / "taken").write_text("a file")
    said = message(tlbench("run", file, "--out", tmp_path / "taken" / "results"))
    assert f"the results folder '{tmp_path / 'taken' / 'results' / 'bad'}' cannot be used: Not a directory" in said


def test_a_results_folder_that_may_not_be_written(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    file = write()
    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert "cannot be used: Permission denied" in message(tlbench("run", file, "--out", tmp_path / "out"))


def test_a_results_folder_in_use_is_left_alone(run: tuple[Path, Path]) -> None:
    file, folder = run
    with Store(folder).lock():
        said = message(tlbench("run", file, "--out", folder.parent))
    assert f"in use by process {os.getpid()}" in said


def test_results_of_a_newer_tlbench_are_not_touched(run: tuple[Path, Path]) -> None:
    file, folder = run
    stored = next(folder.glob("measurements/*/measurement.json"))
    value = {**json.loads(stored.read_text()), "schema": 99, "something": "new"}
    stored.write_text(json.dumps(value))
    for command in (["run", file, "--out", folder.parent], ["leaderboard", folder]):
        said = message(tlbench(*command))
        assert "has schema 99 and this tlbench reads up to 2: use the newer tlbench that wrote it" in said
    assert json.loads(stored.read_text()) == value


def test_a_journal_of_a_newer_tlbench_is_not_touched(run: tuple[Path, Path]) -> None:
    file, folder = run
    journal = folder / "journal.jsonl"
    text = journal.read_text().replace('"schema":1', '"schema":99', 1)
    journal.write_text(text)
    for command in (["run", file, "--out", folder.parent], ["leaderboard", folder]):
        assert "schema 99" in message(tlbench(*command))
    assert journal.read_text() == text


# Weights and plugins


def test_weights_that_cannot_be_had_offline(write: Write, tmp_path: Path) -> None:
    """In a process of its own, with an empty cache: the message names the weights, the cache and what to do."""
    file = write(backbones='["timm/resnet18"]', strategies='["basic/full"]')
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "OMP_NUM_THREADS": "1"}
    program = "from tlbench.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(file), "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert "weights of 'resnet18.a1_in1k'" in line
    assert str(tmp_path / "empty" / "hub") in line
    assert "hf download timm/resnet18.a1_in1k model.safetensors" in line
    assert "'basic/scratch' needs no weights" in line
    assert not list((tmp_path / "out").glob("*/measurements/*"))


@pytest.mark.parametrize(
    ("target", "name", "blamed"),
    [
        (tiny.Tiny, "load", "backbone 'tiny/net'"),
        (tiny.Tiny, "layers", "backbone 'tiny/net'"),
        (tiny.Net, "forward_features", "backbone 'tiny/net'"),
        (tiny.Tiny, "weights", "backbone 'tiny/net'"),
        (tiny.Blobs, "load", "data set 'tiny/blobs'"),
        (tiny.Blobs, "problems", "data set 'tiny/blobs'"),
        (tiny.Means, "defaults", "strategy 'tiny/means'"),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError("out of order\nsecond line"), SystemExit(0)], ids=["raises", "exits"])
def test_a_component_that_fails_when_looked_at_is_blamed_by_name(
    write: Write, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, blamed: str, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    file = write()
    monkeypatch.setattr(target, name, fail)
    said = refusal(file)
    assert blamed in said
    assert f"{type(error).__name__}: {' '.join(str(error).split())}" in said


def test_a_default_that_the_engine_cannot_use_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(strategies='["tiny/full"]')
    monkeypatch.setattr(tiny.Full, "defaults", lambda self, context: {"batch_size": 0})
    assert "parameter batch_size = 0: a whole number from 1" in refusal(file)


def test_data_of_another_modality_leaves_nothing_to_run(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    named, matched = write(), write(backbones='["tiny/*"]').read_text()
    monkeypatch.setattr(tiny.Blobs, "modality", "text")
    named.write_text(matched)
    assert "no backbone has the modality of a data set" in refusal(named)


def test_what_is_named_and_would_not_run_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pattern matches may be for other data."""
    monkeypatch.setattr(tiny.Full, "modalities", frozenset({"text"}))
    expected = "strategy 'tiny/full' is for text, but the data sets are of image: take it out"
    assert expected in refusal(write(strategies='["tiny/means", "tiny/full"]'))
    assert tlbench("run", write(strategies='["tiny/means", "tiny/fu*"]'), "--out", write().parent).exit_code == 0
    monkeypatch.setattr(tiny.Blobs, "modality", "text")
    assert "backbone 'tiny/net' is for image, but the data sets are of text" in refusal(write())


def test_a_broken_contract_of_a_data_set_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write()
    real = tiny.Blobs._split

    def overlapping(self: Any, name: str, per_class: int, seed: int) -> Any:
        return real(self, "same", per_class, seed)

    monkeypatch.setattr(tiny.Blobs, "_split", overlapping)
    assert "60 samples are in train and in validation" in refusal(file)
