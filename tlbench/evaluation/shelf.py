"""A shelf: where on the disk lies what is computed of some samples, and by what it is found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, final

from tlbench.catalog import Entry as Component
from tlbench.evaluation.disk import Disk, Entry
from tlbench.evaluation.machine import version
from tlbench.trial import Trial

LIBRARIES = ("tlbench", "numpy", "pillow", "torch", "torchvision", "datasets", "transformers", "tokenizers",
             "sentencepiece", "tiktoken")  # fmt: skip
"""What samples are decoded and prepared by: another version may make other arrays."""

Content = Literal["samples", "features"]


@final
@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Entries of one data set, prepared in one way."""

    disk: Disk
    facts: Mapping[str, Any]
    """All that decides what a prepared array holds, but for the sample: whatever is left out here would be mixed up
    (pitfall 17)."""

    section: str | None = None
    """The section of the cache that everything is in; None: each in the section of its name."""

    def open(self, content: Content, facts: Mapping[str, Any] | None = None) -> Entry | None:
        """The entry for what is computed of the samples with these `facts`; None where nothing can be kept."""
        return self.disk.open(self.section or content, {"content": content, "samples": self.facts, "facts": facts})


def shelf_facts(trial: Trial, components: Mapping[str, Component]) -> Mapping[str, Any]:
    """What a trial's prepared samples depend on. `components`: by role, as in a measurement's provenance.

    Neither seed nor shots nor split: a sample is known by its id, so that all parts of a data set are kept together.
    """
    eyes = "backbone" if "backbone" in components else "strategy"
    component = components[eyes].component
    return {
        "dataset": asdict(trial.dataset),
        "fingerprint": trial.fingerprint,
        "control": asdict(trial.strategy) if eyes == "strategy" else None,
        "preprocess": trial.preprocess,
        "prepared_by": _class(component.preprocess if eyes == "backbone" else component),
        "plugins": {role: _distribution(components[role]) for role in ("dataset", eyes)},
        "libraries": dict(_libraries()),
    }


@cache
def _libraries() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, version(name)) for name in LIBRARIES)


def _class(found: object) -> str:
    """Two plugins may give their preprocessings the same identity."""
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _distribution(component: Component) -> list[str]:
    return [component.plugin, component.distribution, component.distribution_version]
