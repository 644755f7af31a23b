"""Derived files: what a run's folder holds for readers and can be made again at any time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlbench.leaderboard.course import courses
from tlbench.leaderboard.export import escaped, export, write_whole
from tlbench.leaderboard.table import read_leaderboard

if TYPE_CHECKING:
    import pandas as pd


def write_derived(folder: Path) -> pd.DataFrame:
    """Write `leaderboard.csv`, `.json` and `.md` into a run's folder, each whole or not at all; the leaderboard."""
    frame = read_leaderboard(folder)
    write_whole(folder / "leaderboard.csv", export(frame, "csv").encode())
    write_whole(folder / "leaderboard.json", export(frame, "json").encode())
    write_whole(folder / "leaderboard.md", (export(frame, "markdown") + _searches(folder)).encode())
    return frame


def _searches(folder: Path) -> str:
    """The course of staged searches, as a section of Markdown."""
    return "".join(
        f"\n## Search on {escaped(course.dataset)}\n\n" + "".join(f"- {escaped(line)}\n" for line in course.lines())
        for course in courses(folder)
    )
