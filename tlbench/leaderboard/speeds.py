"""Speeds: what a leaderboard says of inference, joined from the speed records of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, final

from tlbench.speed import BATCH, Setting, SpeedRecord
from tlbench.store import Store
from tlbench.trial import canonical_json


@final
class Speeds:
    """The speed records of one results folder, by the model they are of."""

    def __init__(self, store: Store, keys: Iterable[str] | None = None) -> None:
        """`keys` of the models that stand on one board; all that are kept unless given."""
        self._store = store
        self._keys = store.model_keys() if keys is None else keys
        self._records = store.speeds()
        self._identities: dict[str, str | None] = {}

    def row(self, key: str | None) -> dict[str, Any]:
        """The columns of the model kept under `key`; empty where its speed is not known."""
        record = None if key is None else self.record(key)
        if record is None:
            return {}
        return {
            "latency_ms": record.latency.p50_ms,
            "latency_p90_ms": record.latency.p90_ms,
            "throughput_per_s": record.throughput_at(BATCH),
            "weights_mib": record.memory.get("weights"),
            "speed_ok": record.speed_ok,
            "speed_setting": record.setting.in_words,
        }

    def record(self, key: str) -> SpeedRecord | None:
        """The newest record of the model kept under `key` in the setting of the board."""
        return next((one for one in reversed(self.records(key)) if one.setting == self._setting), None)

    def records(self, key: str) -> list[SpeedRecord]:
        """Every record of the model kept under `key`, in whatever setting, the newest last."""
        identity = self._identity(key)
        return [] if identity is None else [one for one in self._records if _identity(one) == identity]

    @cached_property
    def _setting(self) -> Setting | None:
        """The setting that the most models of the board are known in, of several the one measured in last.

        Speeds of several settings cannot stand in one column (pitfall 13).
        """
        known = {self._identity(key) for key in self._keys}
        of_board = [record for record in self._records if _identity(record) in known]
        models = Counter(key for key, _ in {(one.setting.key, _identity(one)) for one in of_board})
        ordered = sorted(enumerate(of_board), key=lambda pair: (models[pair[1].setting.key], pair[0]))
        return ordered[-1][1].setting if ordered else None

    def _identity(self, key: str) -> str | None:
        """What the kept model computes; None where none is kept or its head is its plugin's own."""
        if key not in self._identities:
            self._identities[key] = self._read(key)
        return self._identities[key]

    def _read(self, key: str) -> str | None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            recipe = json.loads(self._store.recipe_path(key).read_text())
            trial = recipe["trial"]
            if recipe["head"] is not None:
                return _told(trial["backbone"], trial["declared"], trial["preprocess"], trial["params"], recipe["head"])
        return None


def _identity(record: SpeedRecord) -> str:
    subject = record.subject
    backbone = {"name": subject.backbone.name, "version": subject.backbone.version}
    return _told(backbone, list(subject.declared), subject.preprocess, {"pool": subject.pool}, subject.head)


def _told(backbone: Any, declared: Any, preprocess: Any, params: Mapping[str, Any], head: Any) -> str:
    return canonical_json([backbone, declared, preprocess, params["pool"], head])
