"""The leaderboard: what it ranks, what it refuses to hide, and how it is written down."""

from __future__ import annotations

import io
import json
import re
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from runs import Run, final, measurement, trial
from speeds import HERE, record
from tlbench.cli import main
from tlbench.errors import SpeedError, StoreError
from tlbench.leaderboard.derived import write_derived
from tlbench.leaderboard.export import (
    count,
    duration,
    export,
    export_parquet,
    rate,
    score_text,
    write_whole,
)
from tlbench.leaderboard.table import COLUMNS, ordered, read_leaderboard
from tlbench.measurement import Measurement
from tlbench.statistics import wilson


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "small")


def by_backbone(frame: pd.DataFrame) -> dict[str, Any]:
    return {row["backbone"]: row for row in frame.to_dict("records")}


def test_finals_are_averaged_and_ranked_by_the_test_set(run: Run) -> None:
    run.cell("s1", "zoo/a", [0.70, 0.72, 0.74])
    run.cell("s2", "zoo/b", [0.80, 0.81, 0.85])
    rows = by_backbone(read_leaderboard(run.folder))
    assert {name: row["rank"] for name, row in rows.items()} == {"zoo/b": 1, "zoo/a": 2}
    best = rows["zoo/b"]
    assert best["test"] == pytest.approx(statistics.fmean([0.80, 0.81, 0.85]))
    assert best["seeds_std"] == pytest.approx(statistics.stdev([0.80, 0.81, 0.85]))
    assert (best["test_low"], best["test_high"]) == pytest.approx(wilson(best["test"] * 200, 200))
    assert (best["state"], best["seeds"], best["seeds_planned"]) == ("final", 3, 3)
    assert best["validation"] == pytest.approx(0.75)
    assert (best["parameters_trainable"], best["parameters_total"], best["train_s"]) == (650, 11_177_162, 12.0)
    assert (best["trials"], best["complete"], best["pruned"], best["failed"]) == (1, 1, 0, 0)
    assert pd.isna(best["reason"])


def test_columns_and_types_hold_for_an_empty_run_too(run: Run) -> None:
    run.journal.append({"event": "ended", "study": "unknown", "reason": "nothing"})
    frame = read_leaderboard(run.folder)
    assert frame.empty
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS


def test_the_model_shown_is_the_best_on_validation_and_never_on_test(run: Run) -> None:
    finals = run.cell("s1", "zoo/a", [0.9, 0.1, 0.8], validations=[0.5, 0.9, 0.6])
    assert read_leaderboard(run.folder)["key"].item() == finals[1].key


def test_equal_scores_share_a_rank_even_when_their_means_differ_by_rounding(run: Run) -> None:
    assert statistics.fmean([0.7, 0.8, 0.9]) != 0.8
    run.cell("s1", "zoo/a", [0.7, 0.8, 0.9])
    run.cell("s2", "zoo/b", [0.8, 0.8, 0.8])
    run.cell("s3", "zoo/c", [0.6, 0.6, 0.6])
    assert {name: row["rank"] for name, row in by_backbone(read_leaderboard(run.folder)).items()} == {
        "zoo/a": 1,
        "zoo/b": 1,
        "zoo/c": 3,
    }


def test_every_data_set_has_its_own_ranking(run: Run) -> None:
    run.cell("s1", "zoo/a", [0.9])
    run.cell("s2", "zoo/b", [0.8])
    run.cell("s3", "zoo/b", [0.3], dataset="data/other")
    frame = read_leaderboard(run.folder)
    assert frame[["dataset", "backbone", "rank"]].to_numpy().tolist() == [
        ["data/digits", "zoo/a", 1],
        ["data/digits", "zoo/b", 2],
        ["data/other", "zoo/b", 1],
    ]


def test_runs_are_pooled_where_the_data_agree_and_only_there(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("one", "two", "three")]
    runs[0].cell("s1", "zoo/a", [0.7])
    runs[1].cell("s1", "zoo/b", [0.8])
    runs[2].cell("s1", "zoo/c", [0.6], fingerprint="other data")
    assert {name: row["rank"] for name, row in by_backbone(read_leaderboard(tmp_path)).items()} == {
        "zoo/b": 1,
        "zoo/a": 2,
        "zoo/c": 1,
    }


def test_a_lower_score_ranks_first_where_lower_is_better(tmp_path: Path) -> None:
    run = Run(tmp_path / "loss", metric="nll")
    run.cell("s1", "zoo/a", [2.5], validations=[2.0])
    finals = run.cell("s2", "zoo/b", [0.5, 0.7], validations=[0.9, 0.4])
    rows = by_backbone(read_leaderboard(run.folder))
    assert (rows["zoo/b"]["rank"], rows["zoo/a"]["rank"]) == (1, 2)
    assert rows["zoo/b"]["key"] == finals[1].key
    assert pd.isna(rows["zoo/b"]["test_low"])


def test_a_cell_without_finals_is_listed_and_not_ranked(run: Run) -> None:
    run.opened("s1")
    for number, (search, validation) in enumerate([(0.5, 0.9), (0.8, 0.6), (0.7, 0.7)]):
        run.told("s1", number, measurement(trial(number), search=search, validation=validation))
    run.told("s1", 3, measurement(trial(3), "pruned", search=0.99, validation=0.99))
    row = read_leaderboard(run.folder).iloc[0]
    assert (row["state"], row["validation"], row["key"]) == ("not final", 0.6, trial(1).key)
    assert json.loads(row["recipe"]) == trial(1).params
    assert pd.isna(row["rank"])
    assert pd.isna(row["test"])
    assert (row["trials"], row["complete"], row["pruned"], row["seeds"], row["seeds_planned"]) == (4, 3, 1, 0, 3)


def test_a_cell_that_only_failed_says_why(run: Run) -> None:
    run.opened("s1")
    run.told("s1", 0, measurement(trial(0), "failed", "first"))
    run.told("s1", 1, measurement(trial(1), "failed", "needs\n40 GiB"))
    row = read_leaderboard(run.folder).iloc[0]
    assert (row["state"], row["reason"], row["failed"]) == ("failed", "oom: needs 40 GiB", 2)


def test_the_last_failure_is_the_one_told_last(run: Run) -> None:
    run.opened("s1")
    for number, reason in ((0, "first"), (1, "second"), (0, "third")):
        run.told("s1", number, measurement(trial(number), "failed", reason))
    assert read_leaderboard(run.folder)["reason"].item() == "oom: third"


def test_a_trial_told_again_counts_once(run: Run) -> None:
    run.opened("s1")
    run.told("s1", 0, measurement(trial(0), "failed", "first"))
    run.told("s1", 0, measurement(trial(0), search=0.4, validation=0.5))
    row = read_leaderboard(run.folder).iloc[0]
    assert (row["state"], row["trials"], row["complete"], row["failed"]) == ("not final", 1, 1, 0)


def test_a_cell_with_nothing_told_is_unfinished_and_visible(run: Run) -> None:
    run.opened("s1")
    run.journal.append({"event": "ended", "study": "s1", "reason": "time ran out"})
    row = read_leaderboard(run.folder).iloc[0]
    assert (row["state"], row["backbone"], row["reason"], row["trials"]) == ("unfinished", "zoo/a", "time ran out", 0)


def test_opening_a_study_again_forgets_that_it_ended(run: Run) -> None:
    run.opened("s1")
    run.journal.append({"event": "ended", "study": "s1", "reason": "time ran out"})
    run.opened("s1")
    assert pd.isna(read_leaderboard(run.folder)["reason"].item())


def test_only_the_study_opened_last_is_shown(run: Run) -> None:
    run.cell("old", "zoo/a", [0.9])
    run.cell("new", "zoo/a", [0.4], params={"learning_rate": 0.5})
    assert read_leaderboard(run.folder)["test"].tolist() == [0.4]
    run.opened("old")
    assert read_leaderboard(run.folder)["test"].tolist() == [0.9]


def test_finals_that_failed_are_told_and_the_rest_counts(run: Run) -> None:
    run.cell("s1", "zoo/a", [0.6, "no memory", 0.8])
    run.cell("s2", "zoo/b", ["x", "y", "z"])
    rows = by_backbone(read_leaderboard(run.folder))
    assert (rows["zoo/a"]["state"], rows["zoo/a"]["seeds"], rows["zoo/a"]["rank"]) == ("final", 2, 1)
    assert rows["zoo/a"]["test"] == pytest.approx(0.7)
    assert rows["zoo/a"]["reason"] == "1 of 3 finals failed: oom: no memory"
    assert (rows["zoo/b"]["state"], rows["zoo/b"]["validation"]) == ("not final", 0.6)
    assert rows["zoo/b"]["reason"] == "3 of 3 finals failed: oom: z"


def test_finals_still_to_do_are_counted(run: Run) -> None:
    run.opened("s1")
    searched = measurement(trial(), search=0.5, validation=0.6)
    run.told("s1", 0, searched)
    finals = [final(0.5, seed, 0.7, {}) for seed in range(3)]
    run.finals("s1", [finals], [searched])
    assert read_leaderboard(run.folder)["reason"].item() == "3 of 3 finals still to do"
    run.finished("s1", finals[0])
    row = read_leaderboard(run.folder).iloc[0]
    assert (row["state"], row["seeds"], row["reason"]) == ("final", 1, "2 of 3 finals still to do")
    assert pd.isna(row["seeds_std"])


def test_every_finalist_of_a_searched_axis_is_a_competitor(run: Run) -> None:
    run.opened("s1", backbone=None)
    searched = [measurement(trial(backbone=name), search=0.5, validation=0.6) for name in ("zoo/a", "zoo/b")]
    for number, one in enumerate(searched):
        run.told("s1", number, one)
    finals = [[final(test, 0, 0.7, {"backbone": name})] for name, test in (("zoo/a", 0.3), ("zoo/b", 0.4))]
    run.finals("s1", finals, searched)
    for finalist in finals:
        run.finished("s1", finalist[0])
    frame = read_leaderboard(run.folder)
    assert frame[["backbone", "rank", "trials"]].to_numpy().tolist() == [["zoo/b", 1, 2], ["zoo/a", 2, 2]]


def test_a_measurement_that_is_lost_is_said_to_be(run: Run) -> None:
    run.opened("s1")
    run.journal.append({"event": "told", "study": "s1", "number": 0, "key": "0" * 16, "status": "complete"})
    row = read_leaderboard(run.folder).iloc[0]
    assert row["state"] == "failed"
    assert "not in this folder" in row["reason"]


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(StoreError, match="nothing"):
        read_leaderboard(folder)
    assert folder.exists() == made


@pytest.fixture
def frame(run: Run) -> pd.DataFrame:
    run.cell("s1", "zoo/a", [0.803, 0.803])
    run.cell("s2", "zoo/b", ["no [red]memory[/red] | at all"])
    run.opened("s3", "zoo/c")
    run.told("s3", 0, measurement(trial(backbone="zoo/c"), "failed", "broken"))
    run.opened("s4", "zoo/d")
    return read_leaderboard(run.folder)


@pytest.mark.parametrize(
    ("value", "metric", "total", "text"),
    [
        (0.8026, "accuracy", 200, "80.3"),
        (0.8026, "accuracy", 9_999, "80.3"),
        (0.80264, "accuracy", 10_000, "80.26"),
        (0.8026, "macro_f1", None, "80.3"),
        (1.0, "accuracy", 200, "100.0"),
        (0.8026, "nll", 10_000, "0.803"),
        (None, "accuracy", 200, ""),
    ],
)
def test_scores_are_printed_no_finer_than_the_test_set(value: Any, metric: str, total: Any, text: str) -> None:
    assert score_text(value, metric, total) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1.0 min"),
        (150, "2.5 min"),
        (3599, "1.0 h"),
        (5400, "1.5 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (650, "650"), (999_999, "1 M"), (11_177_162, "11.2 M"), (2_400, "2.4 k")]
)
def test_parameter_counts(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("per_s", "text"), [(1241.4, "1,241/s"), (100, "100/s"), (99.96, "100/s"), (40.44, "40.4/s")])
def test_rates(per_s: float, text: str) -> None:
    assert rate(per_s) == text


@pytest.mark.parametrize("format_", ["table", "markdown"])
def test_every_state_is_visible_and_nothing_is_interpreted(frame: pd.DataFrame, format_: Any) -> None:
    text = export(frame, format_)
    low, high = wilson(0.803 * 200, 200)
    assert f"80.3 [{100 * low:.1f}, {100 * high:.1f}]" in text
    for word in ("zoo/a", "zoo/b", "zoo/c", "zoo/d", "not final", "failed", "unfinished", "broken"):
        assert word in text
    assert "[red]memory[/red]" in text.replace("\\", "")
    assert "nan" not in text.lower().replace("final", "")
    assert "<NA>" not in text


def test_markdown_tables_are_rectangular(frame: pd.DataFrame) -> None:
    lines = [line for line in export(frame, "markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(frame)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_narrow_terminal_keeps_the_columns_that_matter(frame: pd.DataFrame, monkeypatch: Any) -> None:
    def narrow(**options: Any) -> Console:
        return Console(**options, force_terminal=True, width=60, color_system=None)

    monkeypatch.setattr("tlbench.leaderboard.export.Console", narrow)
    text = export(frame, "table")
    assert "80.3 [" in text
    assert "trials" not in text
    tables = [line for line in text.splitlines() if "zoo/" in line and ":" not in line]
    assert max(map(len, tables)) <= 60


def test_csv_keeps_fractions_and_reads_back_as_it_was(frame: pd.DataFrame) -> None:
    again = pd.read_csv(io.StringIO(export(frame, "csv")), dtype=COLUMNS)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)


def test_json_is_valid_and_unknown_is_null(frame: pd.DataFrame) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    records = json.loads(export(frame, "json"), parse_constant=refuse)
    assert [list(record) for record in records] == [list(COLUMNS)] * len(frame)
    assert records[0]["test"] == 0.803
    assert records[0]["recipe"] == trial().params
    assert records[0]["reason"] is None
    assert records[-1]["test"] is None
    assert records[-1]["rank"] is None


def test_parquet_reads_back_as_it_was(frame: pd.DataFrame) -> None:
    again = pd.read_parquet(io.BytesIO(export_parquet(frame))).astype(COLUMNS)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)


def test_derived_files_hold_the_same_table(run: Run, frame: pd.DataFrame) -> None:
    (run.folder / "leaderboard.csv").write_text("stale")
    before = set(run.folder.iterdir())
    pd.testing.assert_frame_equal(write_derived(run.folder), frame)
    assert (run.folder / "leaderboard.csv").read_text() == export(frame, "csv")
    assert (run.folder / "leaderboard.json").read_text() == export(frame, "json")
    assert (run.folder / "leaderboard.md").read_text() == export(frame, "markdown")
    names = {path.name for path in set(run.folder.iterdir()) - before}
    assert names == {"leaderboard.json", "leaderboard.md"}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    written = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        written(self, content[:1])
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


# Controls


def with_control(run: Run, control: float, other: float) -> pd.DataFrame:
    run.cell("s1", "none", [control] * 3)
    run.cell("s2", "zoo/a", [other] * 3)
    return read_leaderboard(run.folder)


@pytest.mark.parametrize(
    ("control", "other", "said"),
    [
        (0.8, 0.7, "A control wins: basic/full needs no backbone and is at least as good as zoo/a with basic/full."),
        (0.8, 0.8, "A control wins: basic/full needs no backbone and is at least as good as zoo/a with basic/full."),
        (0.8, 0.81, "The control basic/full lies within the interval of the best, zoo/a with basic/full."),
        (0.5, 0.8, None),
    ],
)
def test_the_board_says_where_a_control_is_not_beaten(run: Run, control: float, other: float, said: str | None) -> None:
    frame = with_control(run, control, other)
    table, markdown = export(frame, "table"), export(frame, "markdown")
    if said is None:
        assert "control" not in (table + markdown).lower()
    else:
        assert said in table
        assert f"**{said}**" in markdown.replace("\\_", "_")


def test_with_a_loss_the_lower_control_wins(tmp_path: Path) -> None:
    frame = with_control(Run(tmp_path / "small", metric="nll"), 0.3, 0.4)
    assert "A control wins" in export(frame, "table")
    frame = with_control(Run(tmp_path / "other", metric="nll"), 0.5, 0.4)
    assert "control" not in export(frame, "table").lower()


def test_a_board_of_controls_alone_says_nothing(run: Run) -> None:
    run.cell("s1", "none", [0.8] * 3)
    assert "wins" not in export(read_leaderboard(run.folder), "table")


# Speed


def keep(run: Run, kept: Measurement) -> None:
    """A model as a run keeps it: what the board reads of it is its recipe."""
    recipe = {"trial": asdict(kept.trial), "head": record().subject.head}
    run.store.save_model(kept.key, lambda path: path.write_bytes(b""), recipe)


def fast_and_slow(run: Run, **changes: Any) -> None:
    for study, (backbone, score) in enumerate({"zoo/a": 0.8, "zoo/b": 0.9, "zoo/c": 0.7}.items()):
        for kept in run.cell(str(study), backbone, [score], params={"pool": "native"}):
            keep(run, kept)
    run.store.put_speed(record("zoo/a", 5.0))
    run.store.put_speed(record("zoo/b", 10.0, **changes))


def test_speeds_are_joined_by_what_a_model_computes(run: Run) -> None:
    fast_and_slow(run)
    board = read_leaderboard(run.folder).set_index("backbone")
    assert list(board["latency_ms"].fillna(-1)) == [10.0, 5.0, -1]
    assert board.loc["zoo/a", "throughput_per_s"] == 400
    assert board.loc["zoo/a", "latency_p90_ms"] == 6
    assert board.loc["zoo/a", "weights_mib"] == 1.5
    assert board.loc["zoo/a", "speed_ok"]
    assert board.loc["zoo/a", "speed_setting"] == HERE.in_words
    assert board.loc["zoo/a", "adapter_mib"] == pytest.approx(650 * 4 / 2**20)


def test_one_setting_fills_the_column_that_with_most_models(run: Run) -> None:
    """Pitfall 13: a faster setting of one model must not look like a faster model."""
    fast_and_slow(run)
    run.store.put_speed(record("zoo/b", 0.1, replace(HERE, dtype="bfloat16")))
    run.store.put_speed(record("zoo/b", 0.1, replace(HERE, threads=16)))
    board = read_leaderboard(run.folder).set_index("backbone")
    assert board.loc["zoo/b", "latency_ms"] == 10


def test_show_tells_every_speed_of_a_model(run: Run) -> None:
    fast_and_slow(run, settled=False)
    run.store.put_speed(record("zoo/b", 0.5, replace(HERE, dtype="bfloat16")))
    key = read_leaderboard(run.folder).set_index("backbone").loc["zoo/b", "key"]
    told = CliRunner().invoke(main, ["show", key, "--results", str(run.folder)]).stdout
    assert "speed on abacus, 2 threads, float32, torch 2\n" in told
    assert "speed on abacus, 2 threads, bfloat16, torch 2\n" in told
    assert '["latency had not settled when the warm-up ended"]' in told
    assert re.search(r"latency\.p50_ms +10\.0\n", told)
    assert re.search(r"throughput_per_s_at_batch\.8 +200\.0\n", told)


def test_another_head_is_another_model(run: Run) -> None:
    fast_and_slow(run)
    for head in ({"kind": "linear", "width": 4, "classes": 3}, {"kind": "mlp", "width": 4, "hidden": 8, "classes": 2}):
        run.store.put_speed(replace(record("zoo/c", 1.0), subject=replace(record("zoo/c").subject, head=head)))
    board = read_leaderboard(run.folder).set_index("backbone")
    assert pd.isna(board.loc["zoo/c", "latency_ms"])


def test_figures_that_something_speaks_against_are_marked(run: Run) -> None:
    fast_and_slow(run, settled=False)
    board = read_leaderboard(run.folder)
    for format_ in ("table", "markdown"):
        text = export(board, format_)
        assert "~10 ms" in text
        assert "~200/s" in text
        assert "~5 ms" not in text
        assert "speaks against the figure" in text
        assert "abacus, 2 threads, float32, torch 2" in text


def test_a_board_may_be_ordered_by_speed(run: Run) -> None:
    fast_and_slow(run)
    board = read_leaderboard(run.folder)
    assert list(ordered(board, "latency")["backbone"]) == ["zoo/a", "zoo/b", "zoo/c"]
    assert list(ordered(board, "throughput")["backbone"]) == ["zoo/a", "zoo/b", "zoo/c"]
    assert list(ordered(board, "test")["backbone"]) == ["zoo/b", "zoo/a", "zoo/c"]


def test_speeds_of_several_settings_have_no_order(tmp_path: Path) -> None:
    """Pitfall 13."""
    for name, setting in {"here": HERE, "there": replace(HERE, threads=16)}.items():
        run = Run(tmp_path / name)
        for kept in run.cell("s", "zoo/a", [0.8], params={"pool": "native"}):
            keep(run, kept)
        run.store.put_speed(record("zoo/a", 5.0, setting))
    board = read_leaderboard(tmp_path)
    with pytest.raises(SpeedError, match="speeds of 2 settings cannot be put in one order: abacus, 16 threads"):
        ordered(board, "latency")
    with pytest.raises(SpeedError):
        ordered(board, "throughput")
    assert len(ordered(board, "parameters")) == 2
    result = CliRunner().invoke(main, ["leaderboard", str(tmp_path), "--sort", "latency"])
    assert result.exit_code == 2


def test_what_breaks_a_limit_is_listed_last(run: Run) -> None:
    run.cell("a", "zoo/a", [0.8])
    run.cell("b", "zoo/b", [0.9])
    run.journal.append({"event": "limits", "declined": {"zoo/b": "max_params = 3: 4 parameters"}})
    board = read_leaderboard(run.folder)
    assert list(board["state"]) == ["final", "excluded"]
    assert board["reason"][1] == "max_params = 3: 4 parameters"
    assert "zoo/b any: excluded: max_params = 3: 4 parameters" in export(board, "table")
    run.journal.append({"event": "limits", "declined": {}})
    assert list(read_leaderboard(run.folder)["state"]) == ["final", "final"]


def test_screens_are_no_trials_and_no_results(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.cell("s1", "zoo/a", [0.7, 0.8, 0.9])
    before = read_leaderboard(tmp_path / "run")
    screen = measurement(trial(strategy="screen", stage="screen"), train=0.99)
    run.store.put(screen)
    told = {"event": "told", "study": "s1", "number": 7, "key": screen.key, "stage": "screen", "status": "complete"}
    run.journal.append(told)
    pd.testing.assert_frame_equal(read_leaderboard(tmp_path / "run"), before)
