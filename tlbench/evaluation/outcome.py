"""Outcomes: what is said of logits, of data and of failures in a measurement."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlbench.errors import FailureKind, TrialFailure
from tlbench.evaluation.complexity import PROVENANCE, Complexity
from tlbench.evaluation.data import Data, Part
from tlbench.evaluation.device import is_out_of_memory
from tlbench.evaluation.scores import score, score_many
from tlbench.measurement import Failure, Predictions

Parts = Mapping[str, tuple[Part, np.ndarray]]
"""By name a part of the data and the logits [n, classes] of its samples."""


def failure(error: BaseException, stage: str) -> Failure:
    """What is kept of an error."""
    return Failure(kind=_kind(error), stage=stage, type=type(error).__name__, message=str(error))


def data_counts(data: Data) -> dict[str, int]:
    """Classes, and samples of each part."""
    return {
        "classes": len(data.class_names),
        "train": len(data.train.ids),
        "validation": len(data.validation.ids),
        "search": int(data.search.sum()),
    }


def complexity_counts(found: Complexity | None) -> dict[str, int]:
    """What is counted of the model to ship."""
    return {} if found is None else {"macs": found.macs, "activations": found.activations}


def complexity_provenance(found: Complexity | None) -> dict[str, Any]:
    """How it was counted."""
    return {} if found is None else {"complexity": {**PROVENANCE, "unsupported": list(found.unsupported)}}


def all_scores(parts: Parts, search: np.ndarray) -> dict[str, Any]:
    """Scores of every part, and of the two halves of validation, of which `search` is one."""
    part, logits = parts["validation"]
    scores = {name: score(values, of.labels) for name, (of, values) in parts.items()}
    scores["search"] = score(logits[search], part.labels[search])
    if not search.all():
        scores["pick"] = score(logits[~search], part.labels[~search])
    return scores


def many_scores(logits: Sequence[np.ndarray], data: Data) -> list[dict[str, Any] | TrialFailure]:
    """`all_scores` of many validation logits, without confusions; of those that are not finite why there are none."""
    if not logits:
        return []
    labels, stacked = data.validation.labels, np.stack(logits)
    places = {"validation": np.ones_like(data.search), "search": data.search, "pick": ~data.search}
    by_part = {name: score_many(stacked[:, at], labels[at]) for name, at in places.items() if at.any()}
    found: list[dict[str, Any] | TrialFailure] = []
    for whole, *halves in zip(*by_part.values(), strict=True):
        scores = dict(zip(by_part, (whole, *halves), strict=True))
        found.append(whole if isinstance(whole, TrialFailure) else scores)
    return found


def predictions(parts: Parts) -> Predictions:
    """What is kept of every sample."""
    largest = np.finfo(np.float16).max
    logits = np.concatenate([values for _, values in parts.values()])
    return Predictions(
        sample_id=[identifier for part, _ in parts.values() for identifier in part.ids],
        split=[name for name, (part, _) in parts.items() for _ in part.ids],
        label=np.concatenate([part.labels for part, _ in parts.values()]),
        predicted=logits.argmax(axis=1),
        logits=logits.clip(-largest, largest).astype(np.float16),
    )


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, TrialFailure):
        return error.kind
    if is_out_of_memory(error):
        return "oom"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return "infrastructure" if full else "error"
