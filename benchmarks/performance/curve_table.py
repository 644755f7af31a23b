"""Record a table of real trainings, on which searches can be replayed in seconds.

    python benchmarks/performance/curve_table.py --work table.work             # record; half an hour on two quiet cores
    python benchmarks/performance/curve_table.py --work table.work --seconds   # measure what things take, and write

Five MobileNets on a small part of CIFAR-10 (the setting of search_live.py): what a screen says of each; penalties of
the linear probe; and for each learning rate what fine-tuning of everything, from the probe, and of the last blocks,
brings after 1, 3 and 9 epochs of `wsd` (tlbench's own rungs), and after each epoch of a cosine (the trainings of the
other searches). Scores are those on both halves of validation and on test; what diverges counts as chance. Recording
goes on where it stopped.

Seconds are measured apart, round by round in turn, for they need a quiet machine, which scores do not. The second
command writes curves.csv and curves.json beside this script.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from search_live import SHOTS, machine
from searches.feeds import ArrayFeed, FeatureFeed, FileFeed
from searches.prices import arms_of, of_engine, of_scripts, screen_of
from searches.rungs import rungs_up_to
from searches.setting import UNCHANGING, Setting, read_split, read_test, write_split
from searches.table import COLUMNS, CSV, JSON
from searches.training import Feed, Recipe, Strategy, Training, accuracy, build
from tlbench.catalog import Catalog
from tlbench.evaluation.device import open_compute
from tlbench.evaluation.evaluate import EVALUATOR_VERSION, Evaluator
from tlbench.plugins import discover
from tlbench.search.arm import Arm
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.trial import Job, Trial

RATES = dict.fromkeys(("basic/full", "basic/partial", "basic/lp-ft"), (3e-4, 1e-3, 1e-4, 3e-3))
"""The default first: what is cut short lacks the same learning rate everywhere."""

COSINE_RATES: dict[Strategy, tuple[float, ...]] = dict.fromkeys(("full", "head"), (3e-4, 1e-3, 1e-4, 3e-3, 1e-5))
"""From the least that the other searches draw to where fine-tuning of everything diverges: 1e-2 is answered by that."""

PENALTIES = tuple(10.0**exponent for exponent in range(-4, 2))
SEEDS = 3
"""Trainings of the smallest backbone with its defaults, which show what luck is worth."""

Row = dict[str, Any]


def main() -> None:
    """Record, or measure seconds and write."""
    given = _arguments()
    setting = Setting(data="cifar10", size=given.size, shots=given.shots, epochs=given.epochs, threads=given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TLBENCH_CACHE", str(given.work / "cache"))
    write_split(given.work, setting)
    recording = Recording(setting, given.work)
    if given.seconds:
        write(recording, given.into, given.rounds)
        return
    for name, unit in recording.units():
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        recording.keep(name, unit)


class Recording:
    """A table in the making."""

    def __init__(self, setting: Setting, work: Path) -> None:
        self.setting, self.work = setting, work
        self.benchmark = setting.benchmark("table", strategies=["basic/linear-probe", *RATES])
        catalog = Catalog(discover(), self.benchmark)
        self.survey = Survey(self.benchmark, catalog, skip_bad=False)
        self.arms = list(arms_of(self.survey))
        self.folder, self.store = work / "rows", Store(work / "table")
        self.folder.mkdir(exist_ok=True)
        self.compute = open_compute(self.benchmark.device, 1)
        self.evaluator = Evaluator(catalog, self.store, self.compute, {})
        self.parts, self.names = read_split(work)

    def units(self) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
        """Names and what to do, in an order that leaves a table of fewer rates where it is cut short."""
        for trial in [*self.screens(), *self.probes()]:
            yield _name(trial), partial(self._evaluate, trial)
        for place in range(max(map(len, [*RATES.values(), *COSINE_RATES.values()]))):
            for trial in self.rungs(place):
                yield _name(trial), partial(self._evaluate, trial)
            for recipe, seed in self.cosines(place):
                named = (recipe.backbone, recipe.strategy, f"{recipe.learning_rate:g}", "cosine", str(seed))
                yield "-".join(named), partial(self._cosine, recipe, seed)

    def keep(self, name: str, unit: Callable[[], list[Row]]) -> None:
        """Do a unit, unless its rows are there."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            rows = unit()
            file.write_text(json.dumps(rows))

    def rows(self) -> list[Row]:
        """All that is recorded."""
        found = [row for file in self.folder.glob("*.json") for row in json.loads(file.read_text())]
        return sorted(found, key=_place)

    def screens(self) -> Iterator[Trial]:
        """A look at every backbone."""
        for arm in self._arms("basic/linear-probe"):
            yield screen_of(arm, seed=0)

    def probes(self) -> Iterator[Trial]:
        """Every penalty on every backbone."""
        for arm in self._arms("basic/linear-probe"):
            for penalty in PENALTIES:
                yield self._trial(arm, {"l2": penalty}, 0)

    def rungs(self, place: int) -> Iterator[Trial]:
        """Trainings in rungs at the learning rate in this place of each strategy's list."""
        for strategy, rates in RATES.items():
            for arm in self._arms(strategy) if place < len(rates) else ():
                more = UNCHANGING if strategy == "basic/partial" else {}
                for epochs in rungs_up_to(self.setting.epochs):
                    yield self._trial(arm, {"learning_rate": rates[place], "schedule": "wsd", **more}, epochs)

    def cosines(self, place: int) -> Iterator[tuple[Recipe, int]]:
        """Trainings on a cosine, likewise."""
        for strategy, rates in COSINE_RATES.items():
            for backbone in self.setting.backbones if place < len(rates) else ():
                repeated = strategy == "full" and place == 0 and backbone == self.setting.backbones[0]
                for seed in range(SEEDS if repeated else 1):
                    yield Recipe(backbone=backbone, strategy=strategy, learning_rate=rates[place]), seed

    def _arms(self, strategy: str) -> list[Arm]:
        return [arm for arm in self.arms if arm.strategy.name == strategy]

    def _trial(self, arm: Arm, params: Mapping[str, Any], epochs: int) -> Trial:
        """A final: they alone are scored on test."""
        recipe = {**arm.defaults(), **params}
        return arm.trial(recipe, stage="final", seed=0, epochs=epochs, metric="accuracy", evaluator=EVALUATOR_VERSION)

    def _evaluate(self, trial: Trial) -> list[Row]:
        self.evaluator.evaluate(Job(trial=trial), _never)
        found = self.store.get(trial.key)
        assert found is not None
        if found.failure is not None and found.failure.kind == "diverged":
            chance = {"accuracy": 1 / len(self.names)}
            return [_row(trial, dict.fromkeys(("search", "pick", "validation", "test"), chance))]
        if found.status != "complete":
            raise SystemExit(f"{_name(trial)}: {found.failure}")
        self.store.drop_model(trial.key)
        return [_row(trial, found.scores)]

    def _cosine(self, recipe: Recipe, seed: int) -> list[Row]:
        """Epoch by epoch, each scored on test, which no search does."""
        train: Feed = ArrayFeed(self.setting, self.parts)
        test: Feed = FileFeed(self.setting, {"test": read_test(self.work)})
        if recipe.strategy == "head":
            network = build(self.setting, recipe.backbone, len(self.names), seed)
            train = test = FeatureFeed(network, {"train": train, "validation": train, "test": test})
        training = Training(self.setting, recipe, train, len(self.names), seed)
        return [_after_epoch(training, test, seed) for _ in range(self.setting.epochs)]


def write(recording: Recording, into: Path, rounds: int) -> None:
    """The files of the table, what things take measured anew."""
    rows = recording.rows()
    with (into / CSV).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(row.get(name)) for name in COLUMNS} for row in rows)
    setting, test = recording.setting, read_test(recording.work)
    of_others = of_scripts(setting, recording.parts, len(recording.names), rounds)
    facts = {
        "command": f"python benchmarks/performance/curve_table.py --size {setting.size} --shots {setting.shots}",
        "machine": machine(),
        "date_utc": time.strftime("%Y-%m-%d", time.gmtime()),
        "setting": vars(setting),
        "samples": {name: len(part.labels) for name, part in [*recording.parts.items(), ("test", test)]},
        "luck": _luck(rows),
        "backbones": {backbone: _facts(recording, backbone) for backbone in setting.backbones},
        "seconds": {**of_others, **of_engine(recording.benchmark, rounds)},
    }
    (into / JSON).write_text(json.dumps(facts, indent=1) + "\n")


def _after_epoch(training: Training, test: Feed, seed: int) -> Row:
    recipe, validation = training.recipe, training.run_epoch()
    return {
        "kind": "cosine",
        "backbone": recipe.backbone,
        "strategy": recipe.strategy,
        "value": recipe.learning_rate,
        "seed": seed,
        "epochs": training.epoch,
        "validation": validation,
        "search": validation,
        "test": accuracy(training.network, test, "test"),
    }


def _facts(recording: Recording, backbone: str) -> dict[str, Any]:
    """What a search knows of a backbone without its weights."""
    name = f"real/{backbone}"
    entry = next(one.entry for one in recording.survey.backbones if one.entry.full_name == name)
    arms = [arm for arm in recording.arms if arm.backbone.name == name and not arm.component.frozen]
    known, context = entry.component.facts, arms[0].context
    return {
        "accuracy": known.accuracy,
        "pretraining": known.pretraining,
        "layer_groups": context.layer_groups,
        "pools": list(context.pools),
        "reach": {arm.strategy.name: round(recording.survey.reach(arm), 3) for arm in arms},
    }


def _luck(rows: Sequence[Row]) -> float:
    """Standard deviation of validation accuracy over the seeds of one recipe, the mean over its last epochs."""
    by_epoch: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if row["kind"] == "cosine" and row["epochs"] > 6:
            key = row["backbone"], row["strategy"], row["value"], row["epochs"]
            by_epoch.setdefault(key, []).append(row["validation"])
    spreads = [statistics.stdev(values) for values in by_epoch.values() if len(values) > 1]
    return round(statistics.fmean(spreads), 4)


def _never(*_: object) -> bool:
    """Stop no training."""
    return False


def _name(trial: Trial) -> str:
    """Of a unit, and of the file of its rows."""
    row = _row(trial, {})
    named = (row["backbone"], row["strategy"].rpartition("/")[2], f"{row['value'] or 0:g}", row["kind"], row["epochs"])
    return "-".join(map(str, named))


def _place(row: Row) -> tuple[Any, ...]:
    return row["kind"], row["backbone"], row["strategy"], row["value"] or 0.0, row["seed"], row["epochs"]


def _row(trial: Trial, scores: Mapping[str, Mapping[str, Any]]) -> Row:
    kind = {"screen": "screen", "basic/linear-probe": "probe"}.get(trial.strategy.name, "wsd")
    told = {part: values["accuracy"] for part, values in scores.items()}
    value = {"screen": None, "probe": trial.params.get("l2"), "wsd": trial.params.get("learning_rate")}[kind]
    return {
        "kind": kind,
        "backbone": trial.backbone.name.removeprefix("real/"),
        "strategy": trial.strategy.name,
        "value": value,
        "seed": trial.seed,
        "epochs": trial.epochs,
        **({"search": told.get("train")} if kind == "screen" else told),
    }


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) and value > 1e-3 else "" if value is None else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of what is recorded so far")
    parser.add_argument("--seconds", action="store_true", help="measure seconds and write the table")
    parser.add_argument("--rounds", type=int, default=3, help="of measuring seconds; the least of each is taken")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder of the table")
    parser.add_argument("--size", type=int, default=64, help="pixels along each edge")
    parser.add_argument("--shots", type=int, default=SHOTS["cifar10"], help="training samples a class")
    parser.add_argument("--epochs", type=int, default=9, help="of the longest training")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
