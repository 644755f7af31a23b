"""The scripts of benchmarks/performance: that they run, and that they count what they say."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "performance"
STARTING = ("--help", "plugins", "list backbones", "list backbones --all")


def output(name: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the table that a script prints, its heading left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return cells(capsys.readouterr().out)


def cells(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]


def test_startup(capsys: pytest.CaptureFixture[str]) -> None:
    (bare, *commands) = output("startup.py", "--rounds", "2", capsys=capsys)
    assert bare[2:] == ["1.0", "1.0 [1.0, 1.0]"]
    assert {row[0] for row in commands} == {f"`{command}`" for command in STARTING}
    assert all(float(row[2]) > 1.0 for row in commands)


def test_strategy_costs(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--backbones", "timm/test_vit3.r160_in1k", "--batch", "2", "--rounds", "2")
    rows = output("strategy_costs.py", *options, capsys=capsys)
    found = {strategy: (trained, ratio, float(share or 0)) for _, strategy, trained, ratio, _, share in rows}
    assert found["full"][1:] == ("1.00 [1.00, 1.00]", 1.0)
    assert found["features"][::2] == ("", 0.0)
    assert found["lp-ft"][::2] == found["full"][::2]
    assert found["l2-sp"][2] > 1.0
    for cheaper in ("partial", "norm-only", "bias-only", "lora"):
        assert found[cheaper][2] < 1.0
        assert int(found[cheaper][0].replace(",", "")) < int(found["full"][0].replace(",", ""))


def test_probe_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLBENCH_REAL_DATA", raising=False)
    options = {"samples": 200, "width": 8, "classes": 3, "penalties": 8, "rounds": 1, "threads": 1}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    rows = [row for row in output("probe_kernels.py", *arguments, capsys=capsys) if len(row) == 4]
    ratios = {row[0]: row[2:] for row in rows}
    for kernel in ("kernel: heads and leave-one-out accuracies", "kernel", "eigendecomposition"):
        assert ratios[kernel] == ["1.0 [1.0, 1.0]"] * 2
    assert {"ridge loop", "ridge path", "ridge fits", "logistic", "logistic, float32"} <= ratios.keys()
    excesses = {row[0]: float(row[2]) for row in rows if row[0].endswith(("e-06", "e+01"))}
    assert len(excesses) == 2
    assert all(-1e-6 < excess < 1e-3 for excess in excesses.values())


def test_small_data(coral: Path, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = output("small_data.py", "--draws", "2", "--sizes", "50", "--pixels", "32", capsys=capsys)
    assert row[:2] == ["50", "10"]
    *chosen, best = map(float, row[2:6])
    assert all(10.0 < each <= best for each in chosen)
    gains = [float(cell.partition(" ")[0]) for cell in row[6:]]
    assert gains == pytest.approx([each - chosen[0] for each in chosen[1:]], abs=0.11)


def test_cached_boundary(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"samples": 12, "batch": 4, "rounds": 2, "threads": 1}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    rows = output("cached_boundary.py", "--backbones", "timm/test_vit.r160_in1k:1", *arguments, capsys=capsys)
    (times,) = (row for row in rows if len(row) == 8)
    assert times[:2] == ["timm/test_vit.r160_in1k", "backbone.blocks.5"]
    full, partial, cached, filling = (float(times[index]) for index in (2, 3, 4, 7))
    assert full > cached > 0
    assert partial > cached
    assert filling > 0
    losses = [row for row in rows if row[0].startswith("timm") and len(row) == 5]
    assert [row[1] for row in losses] == ["1", "2"]
    assert all(float(row[4]) < 1e-4 for row in losses)


def test_probe_jobs() -> None:
    """In a process of its own: without real weights the script gives a plugin random ones."""
    options = ("--configurations", "8", "--images", "4", "--rounds", "1", "--threads", "1")
    environment = {name: value for name, value in os.environ.items() if name != "TLBENCH_REAL_DATA"}
    command = [sys.executable, SCRIPTS / "probe_jobs.py", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [row for row in cells(done.stdout) if len(row) == 4]
    shares = {row[0]: float(row[3].split()[0]) for row in rows if row[3].endswith("]")}
    parts = {"fits of `linear-probe`", "fits of `ridge-probe`", "fits of `knn`", "scores", "writing of the rows"}
    assert parts | {"feature pass", "job", "validation logits"} == shares.keys()
    assert shares["feature pass"] == 100.0
    assert sum(shares[part] for part in parts) < shares["job"]


def test_feature_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TLBENCH_REAL_DATA", raising=False)
    options = ("--backbone", "timm/test_vit.r160_in1k", "--size", "160", "--samples", "30", "--rounds", "2")
    rows = {row[0]: row[1:] for row in output("feature_pass.py", *options, capsys=capsys)}
    assert rows["bare loop"][1:] == ["1.000 [1.000, 1.000]"] * 2
    ratios = {name: float(row[2].partition(" ")[0]) for name, row in rows.items()}
    assert ratios.keys() == {"bare loop", "cold", "warm", "memory", "found"}
    assert ratios["found"] < ratios["warm"]
    assert all(int(row[0]) > 0 for row in rows.values())
