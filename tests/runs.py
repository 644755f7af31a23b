"""Hand-made runs: what a search would leave in a results folder, written through the real store and journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlbench.journal import Journal
from tlbench.measurement import Epoch, Failure, Measurement
from tlbench.store import Store
from tlbench.trial import NO_BACKBONE, Reference, Trial

TOML = """
name = "{name}"
backbones = ["zoo/a", "zoo/b", "zoo/c", "zoo/d"]
strategies = ["basic/full"]
datasets = ["data/digits", "data/other"]
seeds = [0, 1, 2]

[search]
metric = "{metric}"
"""


def trial(number: int = 0, **changes: Any) -> Trial:
    fields = {
        "backbone": "zoo/a",
        "strategy": "basic/full",
        "dataset": "data/digits",
        "weights": "sha256:0",
        "preprocess": {"size": 8},
        "fingerprint": "f0",
        "split_seed": 0,
        "shots": None,
        "params": {"learning_rate": 0.001 * (number + 1), "head": "linear"},
        "seed": 0,
        "metric": "accuracy",
        "epochs": 2,
        "stage": "search",
        "evaluator": 1,
        **changes,
    }
    references = {name: Reference(name=fields[name], version=1) for name in ("backbone", "strategy", "dataset")}
    if fields["backbone"] == NO_BACKBONE.name:
        references["backbone"] = NO_BACKBONE
    return Trial(**{**fields, **references})


def measurement(of: Trial, status: str = "complete", reason: str = "", **scores: float) -> Measurement:
    """`scores` by part, in the trial's metric; a part's `n` is 200."""
    complete = status == "complete"
    return Measurement(
        trial=of,
        status=status,  # type: ignore[arg-type]
        failure=Failure(kind="oom", stage="train", type="MemoryError", message=reason) if reason else None,
        scores={part: {of.metric: value, "n": 200, "confusion": [[1, 0], [0, 1]]} for part, value in scores.items()},
        curve=[Epoch(epoch=1, train_loss=0.5, search_score=0.25, elapsed_s=1.5)] if complete else [],
        cost={"total_s": 12.0},
        counts={"parameters_trainable": 650, "parameters_total": 11_177_162} if complete else {},
        frozen={"parameters_changed": False, "buffers_changed": False},
        provenance={"machine": {"cpu": "abacus"}},
    )


class Run:
    """One run's folder, cell by cell."""

    def __init__(self, folder: Path, metric: str = "accuracy", toml: str = TOML) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.metric = folder, metric
        self.store, self.journal = Store(folder), Journal(folder / "journal.jsonl")
        self.store.write_benchmark(toml.format(name=folder.name, metric=metric))

    def opened(
        self,
        study: str,
        backbone: str | None = "zoo/a",
        dataset: str = "data/digits",
        strategy: str = "basic/full",
    ) -> None:
        cell = {"backbone": backbone, "strategy": strategy, "dataset": dataset}
        self.journal.append({"event": "opened", "study": study, "cell": cell})

    def told(self, study: str, number: int, told: Measurement) -> None:
        self.store.put(told, None)
        self.journal.append({"event": "asked", "study": study, "number": number, "key": told.key, "stage": "search"})
        self.journal.append(
            {
                "event": "told",
                "study": study,
                "number": number,
                "key": told.key,
                "status": told.status,
                "spent_s": 1.0,
            }
        )

    def finals(
        self,
        study: str,
        finals: Sequence[Sequence[Measurement]],
        selected: Sequence[Measurement],
        defaults: Sequence[Measurement] = (),
    ) -> None:
        keys = [[final.key for final in finalist] for finalist in finals]
        chosen, default = ([measurement.key for measurement in some] for some in (selected, defaults))
        self.journal.append({"event": "finals", "study": study, "keys": keys, "selected": chosen, "defaults": default})

    def finished(self, study: str, final: Measurement) -> None:
        self.store.put(final, None)
        told = {
            "event": "told",
            "study": study,
            "key": final.key,
            "stage": "final",
            "status": final.status,
            "spent_s": 2.0,
        }
        self.journal.append(told)

    def cell(
        self,
        study: str,
        backbone: str,
        tests: Sequence[float | str],
        validations: Sequence[float] = (0.7, 0.8, 0.75),
        **changes: Any,
    ) -> list[Measurement]:
        """A whole cell: one search trial, then a final per entry of `tests`: its score, or why it failed."""
        named = {name: changes[name] for name in ("dataset", "strategy") if name in changes}
        self.opened(study, backbone, **named)
        changes = {"backbone": backbone, "metric": self.metric, **changes}
        searched = measurement(trial(**changes), search=0.5, validation=0.6)
        self.told(study, 0, searched)
        finals = [final(test, seed, validations[seed], changes) for seed, test in enumerate(tests)]
        self.finals(study, [finals], [searched])
        for one in finals:
            self.finished(study, one)
        return finals


def final(test: float | str, seed: int, validation: float, changes: Mapping[str, Any]) -> Measurement:
    of = trial(**{**changes, "seed": seed, "stage": "final"})
    if isinstance(test, str):
        return measurement(of, "failed", test)
    return measurement(of, search=0.5, validation=validation, test=test)
