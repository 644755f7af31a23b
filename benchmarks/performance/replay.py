"""Replay searches on the recorded table: time until what each would ship is good, over many seeds, in seconds.

    python benchmarks/performance/replay.py                    # 50 seeds of 300 s each
    python benchmarks/performance/replay.py --seconds 120

prints tables as search_live.py does, from curves.csv and curves.json beside this script (curve_table.py records them).
The clock moves by the measured seconds of every epoch, feature pass and start. tlbench is its own code: a contest asks,
and the recorded training with the nearest learning rate answers, give or take what another seed would have changed.
What the table has not is not replayed: weight decay and augmentation make no difference, and Ray's start-up is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna

from searches import replayed
from searches.contested import staged
from searches.report import Run, compared, targets
from searches.simulation import Simulation
from searches.table import Table, read_table

METHODS: Mapping[str, Callable[[Simulation], object]] = {
    "optuna": replayed.optuna_median,
    "random": replayed.at_random,
    "asha": replayed.asha,
    "one-epoch": replayed.one_epoch,
    "defaults": replayed.defaults,
    "tlbench": staged,
}
SECONDS = 300.0


def replay(table: Table, seeds: Sequence[int], seconds: float = SECONDS, methods: Sequence[str] = ()) -> list[Run]:
    """Every method with every seed."""
    runs = []
    for method in methods or METHODS:
        for seed in seeds:
            simulation = Simulation(table=table, seconds=seconds, seed=seed)
            METHODS[method](simulation)
            runs.append(simulation.run(method))
    return runs


def aims(table: Table, runs: Sequence[Run]) -> dict[str, float]:
    """The targets, the best known test accuracy being that of the recorded training with the best validation score."""
    return targets(runs, probe=_chosen(table, ["probe"]), best=_chosen(table, ["probe", "wsd", "cosine"]))


def best_backbone(table: Table) -> str:
    """That of the training with the best validation score of all that were recorded."""
    found = {where: scores for kind in ("probe", "wsd", "cosine") for where, scores in table.all(kind).items()}
    return max(found, key=lambda where: found[where].validation)[0]


def _chosen(table: Table, kinds: Sequence[str]) -> float:
    found = [scores for kind in kinds for scores in table.all(kind).values()]
    top = max(scores.validation for scores in found)
    return float(np.mean([scores.test for scores in found if scores.validation == top]))


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--table", type=Path, default=Path(__file__).parent, help="folder of curves.csv and curves.json"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = read_table(given.table)
    runs = replay(table, range(given.seeds), given.seconds, given.methods)
    print("\n".join(compared(runs, aims(table, runs))))


if __name__ == "__main__":
    main()
