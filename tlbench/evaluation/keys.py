"""Keys: everything that what is kept from one trial for others depends on; what is left out would be mixed up.

Pitfall 17: features were found again after weights, data or preprocessing had changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

from tlbench.evaluation.device import Compute
from tlbench.evaluation.provenance import arithmetic
from tlbench.trial import Trial, canonical_json


def network_key(trial: Trial) -> tuple[Hashable, ...]:
    """What decides a backbone and the shape of its inputs."""
    return trial.backbone, canonical_json(trial.declared), trial.weights, canonical_json(trial.preprocess)


def activations_key(trial: Trial, compute: Compute, pretrained: bool) -> tuple[Hashable, ...]:
    """What decides the activations that a backbone makes of the data, but for what an adaption changes in it."""
    return (
        *network_key(trial),
        None if pretrained else trial.seed,
        *_data(trial),
        trial.evaluator,
        compute,
    )


def features_facts(trial: Trial, compute: Compute, pretrained: bool) -> dict[str, Any]:
    """What decides the features of a sample, beside sample, preprocessing and view.

    Threads and processor are part of it: they decide the last bits.
    """
    return {
        "backbone": asdict(trial.backbone),
        "declared": trial.declared,
        "weights": trial.weights,
        "seed": None if pretrained else trial.seed,
        "evaluator": trial.evaluator,
        **arithmetic(compute),
    }


def features_key(trial: Trial, compute: Compute, pretrained: bool, view: str, parts: Sequence[str]) -> Hashable:
    """What decides a view of whole parts of the data."""
    facts = canonical_json([features_facts(trial, compute, pretrained), trial.preprocess])
    return "features", *_data(trial), facts, view, tuple(parts)


def _data(trial: Trial) -> tuple[Hashable, ...]:
    """What decides the samples of training and validation."""
    return trial.dataset, trial.fingerprint, trial.split_seed, trial.shots, trial.fraction, trial.fold
