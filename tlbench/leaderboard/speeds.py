"""Speeds: what a leaderboard says of inference, joined from the speed records of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, final

from tlbench.speed import Setting, SpeedRecord
from tlbench.store import Store
from tlbench.trial import canonical_json

BATCH = 8
"""Of the throughput that a leaderboard shows."""


@final
class Speeds:
    """The speed records of one results folder, by the model they are of."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = store.speeds()
        self._identities: dict[str, str | None] = {}

    def row(self, key: str | None, keys: Iterable[str | None]) -> dict[str, Any]:
        """The columns of the model kept under `key`; `keys` are those of the whole board, which is of one setting."""
        record = self._of(key, self._headline(tuple(keys)))
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
        """The record of the model kept under `key`, in the setting that most models are known in."""
        return self._of(key, self._headline(tuple(self._store.model_keys())))

    def _headline(self, keys: tuple[str | None, ...]) -> Setting | None:
        """The setting that the most models of the board are known in, of several the one measured in last.

        Speeds of several settings cannot stand in one column (pitfall 13).
        """
        known = {self._identity(key) for key in keys}
        found = [record.setting for record in self._records if _identity(record) in known]
        counts = Counter(setting.key for setting in found)
        return max(found, key=lambda setting: (counts[setting.key], found.index(setting)), default=None)

    def _of(self, key: str | None, setting: Setting | None) -> SpeedRecord | None:
        identity = self._identity(key)
        if identity is None or setting is None:
            return None
        matching = (record for record in reversed(self._records) if record.setting.key == setting.key)
        return next((record for record in matching if _identity(record) == identity), None)

    def _identity(self, key: str | None) -> str | None:
        """What the kept model computes; None where none is kept or its head is its plugin's own."""
        if key is None:
            return None
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
