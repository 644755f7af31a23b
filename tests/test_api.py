"""The Python interface: what it returns, and that the winner is chosen without the test score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tiny
import tlbench
from runs import Run
from tlbench import api
from tlbench.benchmark import load_benchmark
from tlbench.errors import BenchmarkError, StoreError
from tlbench.executors.events import Doing, EpochFinished, JobFinished, JobStarted, RunStarted
from tlbench.leaderboard.answer import answers

TOML = """
name = "mine"
backbones = ["tiny/net"]
strategies = {strategies}
datasets = ["tiny/blobs"]
seeds = [0, 1]
[search]
trials = {trials}
epochs = 1
metric = "{metric}"
[device]
kind = "cpu"
threads = 1
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tiny_plugin: object, tmp_path: Path) -> Write:
    def benchmark(*strategies: str, trials: int = 1, metric: str = "accuracy") -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(TOML.format(strategies=list(strategies), trials=trials, metric=metric))
        return path

    return benchmark


def test_everything_public_is_there() -> None:
    for name in ("run_benchmark", "find_best", "read_leaderboard", "load_model"):
        assert callable(getattr(tlbench, name))
        assert name in tlbench.__all__
        assert getattr(tlbench, name) is getattr(api, name)
    with pytest.raises(AttributeError):
        tlbench.no_such_name  # noqa: B018


def test_a_run_returns_its_leaderboard_and_tells_what_happens(write: Write, tmp_path: Path) -> None:
    events: list[Any] = []
    frame = tlbench.run_benchmark(write("tiny/full", "tiny/means"), tmp_path / "out", on_event=events.append)
    assert frame["state"].tolist() == ["final", "final"]
    assert set(frame["strategy"]) == {"tiny/full", "tiny/means"}
    pd.testing.assert_frame_equal(frame, tlbench.read_leaderboard(tmp_path / "out"))
    pd.testing.assert_frame_equal(frame, tlbench.read_leaderboard(str(tmp_path / "out" / "mine")))
    assert isinstance(events[0], RunStarted)
    assert [type(event) for event in events].count(JobFinished) == 2 * 3
    assert {type(event) for event in events} == {RunStarted, JobStarted, EpochFinished, JobFinished, Doing}
    assert {path.name for path in (tmp_path / "out" / "mine").iterdir()} >= {"leaderboard.csv", "benchmark.toml"}


def test_a_benchmark_may_be_a_path_a_text_or_a_value_and_nothing_is_done_twice(write: Write, tmp_path: Path) -> None:
    path = write("tiny/means")
    frames = [tlbench.run_benchmark(path, tmp_path / "out")]
    for given in (str(path), load_benchmark(path)):
        events: list[Any] = []
        frames.append(tlbench.run_benchmark(given, str(tmp_path / "out"), on_event=events.append))
        assert not [event for event in events if isinstance(event, JobStarted)]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_failed_trials_are_run_again_on_request(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("tiny/full")
    with monkeypatch.context() as patched:
        patched.setattr(tiny.Full, "adapt", lambda *_: 1 / 0)
        assert tlbench.run_benchmark(path, tmp_path)["state"].tolist() == ["failed"]
    assert tlbench.run_benchmark(path, tmp_path)["state"].tolist() == ["failed"]
    assert tlbench.run_benchmark(path, tmp_path, retry_failed=True)["state"].tolist() == ["final"]


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_the_best_is_chosen_on_validation_and_its_model_loads(write: Write, tmp_path: Path, metric: str) -> None:
    path = write("tiny/full", "tiny/means", "basic/linear-probe", trials=5, metric=metric)
    (best,) = tlbench.find_best(path, tmp_path / "out")
    frame = tlbench.read_leaderboard(tmp_path / "out")
    scores = frame[frame["state"] == "final"].set_index("key")["validation"]
    assert len(scores) > 1
    winner = scores.min() if metric == "nll" else scores.max()
    row = frame.set_index("key").loc[str(scores.index[scores == winner][0])]
    assert (best.dataset, best.backbone, best.strategy) == ("tiny/blobs", "tiny/net", row["strategy"])
    assert best.test == row["test"]
    assert (best.low is None) is (best.high is None) is (metric != "accuracy")
    model = tlbench.load_model(best.model)
    assert model.recipe["trial"]["params"] == best.params
    assert model([tiny.Blobs().load_test(0)[0]]).shape == (1, 3)


def test_a_better_test_score_does_not_make_a_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 1: the winner is the finalist that is best on validation, whatever the test says."""
    run = Run(tmp_path / "small")
    run.cell("s1", "zoo/lucky", [0.9], validations=[0.7])
    (chosen,) = run.cell("s2", "zoo/chosen", [0.6], validations=[0.8])
    monkeypatch.setattr(api, "run_benchmark", lambda *_, **__: None)
    (best,) = api.find_best(run.folder / "benchmark.toml", tmp_path)
    assert (best.backbone, best.test, best.params) == ("zoo/chosen", 0.6, dict(chosen.trial.params))
    assert best.model == run.store.model_path(chosen.key)


def test_a_control_may_be_the_best_and_has_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of the command is the best with a backbone, held against it."""
    run = Run(tmp_path / "small")
    run.cell("s1", "none", [0.6], validations=[0.9], strategy="controls/majority", weights="none")
    run.cell("s2", "zoo/a", [0.7], validations=[0.8])
    monkeypatch.setattr(api, "run_benchmark", lambda *_, **__: None)
    (best,) = api.find_best(run.folder / "benchmark.toml", tmp_path)
    assert (best.backbone, best.strategy, best.model) == ("none", "controls/majority", None)
    (answer,) = answers(run.folder)
    assert answer.best.name == "zoo/a with basic/full"
    assert any(line.startswith("without any backbone: ") for line in answer.lines())


def test_nothing_final_is_no_best(write: Write, tmp_path: Path) -> None:
    assert tlbench.find_best(write("tiny/fails"), tmp_path) == []


def test_what_the_user_can_mend_is_a_tlbench_error(write: Write, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        tlbench.read_leaderboard(tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match=r"absent\.toml"):
        tlbench.run_benchmark(tmp_path / "absent.toml", tmp_path)
    with pytest.raises(StoreError, match="no saved model"):
        tlbench.load_model(tmp_path / "absent.safetensors")
