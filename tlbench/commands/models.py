"""Models: which of the stored ones a path stands for."""

from __future__ import annotations

from pathlib import Path

import click

from tlbench.errors import StoreError


def find_model(path: Path) -> Path:
    """The model at `path`; of a run's folder, the final with the best validation score, which is told on stderr."""
    if not (path / "journal.jsonl").is_file():
        return path
    from tlbench.benchmark import higher_is_better
    from tlbench.leaderboard.table import read_leaderboard
    from tlbench.store import Store

    store, frame = Store(path), read_leaderboard(path)
    kept = frame[(frame["state"] == "final") & frame["key"].isin(store.model_keys())]
    if kept.empty:
        raise StoreError(f"the run in {path} has no final with a model yet")
    datasets = list(dict.fromkeys(kept["dataset"]))
    if len(datasets) > 1:
        raise StoreError(
            f"the run in {path} has finals on {', '.join(datasets)}: give the model of one, {path}/models/<key>"
            f".safetensors ('tlbench leaderboard {path} --format csv' shows keys)"
        )
    order = kept.sort_values("validation", ascending=not higher_is_better(kept["metric"].iloc[0]), kind="stable")
    best = order.iloc[0]
    found = store.model_path(best["key"])
    click.echo(f"tlbench: {found}: {best['backbone']} with {best['strategy']}, best by validation", err=True)
    return found
