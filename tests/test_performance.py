"""The scripts of benchmarks/performance: that they run, and that they count what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "performance"


def output(name: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the table that a script prints, its heading left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


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
