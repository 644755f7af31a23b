"""Features of a frozen backbone: several views of several parts in one pass, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from tlbench.components import Preprocess
from tlbench.evaluation.complexity import Complexity
from tlbench.evaluation.data import Prepared
from tlbench.evaluation.device import Compute
from tlbench.evaluation.freezing import FrozenState
from tlbench.evaluation.model import Classifier, elements
from tlbench.evaluation.predict import features

PARTS = ("train", "validation")
"""What features are computed of."""


@final
@dataclass(frozen=True, kw_only=True)
class Features:
    """Pooled features of a frozen backbone: train and validation by view, and what they cost."""

    train: Mapping[str, Tensor]
    validation: Mapping[str, Tensor]
    """Nothing where training data alone was looked at."""

    seconds: float
    samples: float
    """How many of the usual shape would take as much: of texts, counted in tokens with their padding."""

    cached: bool = False
    """Whether nothing had to be computed now: what is found still carries its cost, so that it does not look free."""

    complexity: Mapping[str, Complexity | None]
    """Of one sample, by view."""

    parameters: int
    """Of the backbone."""

    frozen: Mapping[str, Any]

    @property
    def cost(self) -> dict[str, Any]:
        """As it stands in a measurement."""
        known = [each.macs for each in self.complexity.values() if each is not None]
        flops = round(2 * max(known) * self.samples) if known else None
        return {"features_s": self.seconds, "features_flops": flops, "features_cached": self.cached}


def extract(
    model: Classifier,
    views: Sequence[str],
    prepared: Mapping[str, Prepared],
    preprocess: Preprocess,
    compute: Compute,
    count: Callable[[Classifier, str], Complexity | None],
) -> Features:
    """Those of a network on the CPU, of the prepared parts by name; `count` tells the complexity of a view."""
    start, passed = time.monotonic(), list[int]()
    model = model.requires_grad_(False).to(compute.device)
    state = FrozenState(model.backbone, "frozen")
    found = {
        part: features(model, views, samples, preprocess, compute, lambda inputs: passed.append(elements(inputs)))
        for part, samples in prepared.items()
    }
    seconds = time.monotonic() - start
    model.head = nn.Identity()
    return Features(
        train=found["train"],
        validation=found.get("validation", {}),
        seconds=seconds,
        samples=sum(passed) / elements(model.example),
        complexity={view: count(model, view) for view in views},
        parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        frozen=state.changes(),
    )


def joined(views: Mapping[str, Features], cached: bool) -> Features:
    """One of each view, from the passes that had it: what several took together."""
    passes = list({id(each): each for each in views.values()}.values())
    return Features(
        train={view: each.train[view] for view, each in views.items()},
        validation={view: each.validation[view] for view, each in views.items() if each.validation},
        seconds=sum(each.seconds for each in passes),
        samples=sum(each.samples for each in passes),
        cached=cached,
        complexity={view: each.complexity[view] for view, each in views.items()},
        parameters=passes[0].parameters,
        frozen=passes[0].frozen,
    )
