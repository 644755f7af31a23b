"""Names: ``architecture.tag``, the tag naming the weights, as timm resolves them."""

from __future__ import annotations

from timm.models import get_arch_pretrained_cfgs, get_deprecated_models, get_pretrained_cfg, is_model

from tlbench.errors import UnknownNameError


def full_name(name: str) -> str | None:
    """Resolve `name` to ``architecture.tag``, or None where timm has no such architecture.

    A bare architecture gets the tag timm takes by default, so that a result says which weights were used: `resnet50`
    alone could be any of thirty. A name that timm deprecated becomes the one that replaced it. Raises
    `UnknownNameError` for a tag that the architecture does not have.
    """
    architecture, tag = _current(name)
    if not is_model(architecture):
        return None
    names = sorted(get_arch_pretrained_cfgs(architecture))
    if not tag:
        default = get_pretrained_cfg(architecture)
        tag = (default.tag or "") if default is not None else ""
    full = f"{architecture}.{tag}" if tag else architecture
    if names and full not in names:
        tags = ", ".join(known.partition(".")[2] for known in names)
        raise UnknownNameError(f"no weights '{tag}' for timm's '{architecture}': its tags are {tags}")
    return full


def _current(name: str) -> tuple[str, str]:
    architecture, _, tag = name.partition(".")
    replacement = get_deprecated_models().get(architecture)
    if replacement:
        architecture, _, default = replacement.partition(".")
        tag = tag or default
    return architecture, tag
