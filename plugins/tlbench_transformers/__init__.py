"""transformers as a plugin: text models, and the vision models that timm lacks, by hub id or checkpoint folder.

A curated list with published facts is registered; any other repository of the hub, and any folder here that has a
config.json, is found by name. Nothing heavy is imported until more is asked of a backbone than its facts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tlbench.components import Backbone
from tlbench.hookspecs import hookimpl
from tlbench_transformers.backbone import TransformersBackbone
from tlbench_transformers.curated import curated, listed_name
from tlbench_transformers.template import CheckpointTemplate


@hookimpl
def register_backbones() -> Iterable[Backbone]:
    """List the curated backbones and the template of declared ones."""
    return [*(TransformersBackbone(name) for name in curated()), CheckpointTemplate()]


@hookimpl
def find_backbone(name: str) -> Backbone | None:
    """Find a listed backbone by its hub id, a checkpoint folder relative to where the program runs, any hub id."""
    listed = listed_name(name)
    if listed is not None:
        return TransformersBackbone(listed)
    if Path(name, "config.json").is_file():
        return TransformersBackbone(name, folder=Path(name).absolute())
    return TransformersBackbone(name) if _on_the_hub(name) else None


def _on_the_hub(name: str) -> bool:
    """Whether the cache or the hub has a repository of this name."""
    from huggingface_hub.errors import HFValidationError

    from tlbench.evaluation import hub

    reason = hub.offline()
    try:
        if hub.cached_file(name, ["config.json"]) is not None:
            return True
        if not reason:
            return hub.is_repository(name)
    except HFValidationError:  # not even the form of a name
        return False
    except Exception as error:  # no answer from the hub, whatever its client raises
        reason = hub.one_line(error)
    there = "listed, nor is there such a folder with a config.json here"
    raise hub.out_of_reach(f"'{name}' is not {there}; files of a repository of that name", reason, name)
