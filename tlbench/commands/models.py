"""Models: which of the stored ones a path stands for."""

from __future__ import annotations

from pathlib import Path

import click

from tlbench.errors import StoreError


def find_model(path: Path) -> Path:
    """The model at `path`; of a run's folder, that of its answer, which is told on stderr."""
    if not (path / "journal.jsonl").is_file():
        return path
    from tlbench.benchmark import better
    from tlbench.leaderboard.finalists import Finalists
    from tlbench.store import Store

    store, finalists = Store(path), Finalists(path)
    models = set(store.model_keys())
    kept = {name: [one for one in finalists.on(name) if one.row["key"] in models] for name in finalists.datasets}
    datasets = [name for name, found in kept.items() if found]
    if not datasets:
        raise StoreError(f"the run in {path} has no final with a model yet")
    if len(datasets) > 1:
        raise StoreError(
            f"the run in {path} has finals on {', '.join(datasets)}: give the model of one, {path}/models/<key>"
            f".safetensors ('tlbench leaderboard {path} --format csv' shows keys)"
        )
    best, *others = kept[datasets[0]]
    found = store.model_path(best.row["key"])
    passed_over = best.is_default and any(better(one.validation, best.validation, best.row["metric"]) for one in others)
    why = "the defaults, within a standard error of the best by validation" if passed_over else "best by validation"
    click.echo(f"tlbench: {found}: {best.name}, {why}", err=True)
    return found
