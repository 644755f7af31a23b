"""Output: what several commands print, and the status they leave with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

NOTHING_FINAL = 1
INCOMPLETE = 1
USER_ERROR = 2
INTERRUPTED = 130


def print_leaderboard(frame: pd.DataFrame, folders: Iterable[Path], format_: str = "table") -> None:
    """Print the leaderboard of `folders`, in a format that is text."""
    from tlbench.leaderboard.export import export

    if frame.empty and format_ in ("table", "markdown"):
        click.echo(f"nothing was run yet in {', '.join(str(folder) for folder in folders)}")
    else:
        click.echo(export(frame, format_), nl=False)  # type: ignore[arg-type]


def end(frame: pd.DataFrame) -> None:
    """Leave with the status that says whether anything is final."""
    if not (frame["state"] == "final").any():
        click.get_current_context().exit(NOTHING_FINAL)
