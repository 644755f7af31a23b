"""A variant: which model is to be run, and how. Plain values that a fresh process can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

Dtype = Literal["float32", "tf32", "bfloat16", "float16"]
Layout = Literal["contiguous", "channels_last"]
Runtime = Literal["torch", "onnxruntime"]


@final
@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a deployed model comes from: a saved model, or a backbone with a fresh linear head."""

    saved: str | None = None
    """Path of a saved model; else a backbone."""

    backbone: str = ""
    """Its full name."""

    declared: tuple[Mapping[str, Any], ...] = ()
    """JSON of the `tlbench.benchmark.BackboneDeclaration`s that lead to it."""

    classes: int = 2
    pretrained: bool = False
    """Whether to take pretrained weights, where they are on this machine."""


@final
@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run a model."""

    dtype: Dtype = "float32"
    """Of the backbone and its inputs; a head on pooled features computes in float32, as it does in training."""

    layout: Layout = "contiguous"
    compile: str = "none"
    """`none`, or a mode of `torch.compile`: `default`, `reduce-overhead`, `max-autotune`."""

    runtime: Runtime = "torch"

    @property
    def in_words(self) -> str:
        """What differs from the plain way."""
        compiled = "" if self.compile == "none" else f"compiled ({self.compile})"
        parts = {"float32": self.dtype, "contiguous": self.layout.replace("_", " "), "torch": self.runtime}
        return ", ".join([*(told for plain, told in parts.items() if told != plain), *([compiled] if compiled else [])])


def serving(dtype: str) -> Variant:
    """How the models of a run are served that computes in this number format."""
    return Variant(dtype=dtype)  # type: ignore[arg-type]


def others(variant: Variant, device: str) -> list[Variant]:
    """The other ways of running worth knowing on a `device` (`cpu` or `cuda`), each one step away from `variant`.

    On a GPU bfloat16 comes with each: nobody serves convolutional models there in another format.
    """
    if device == "cpu":
        steps: list[dict[str, Any]] = [
            {"dtype": "bfloat16"},
            {"layout": "channels_last"},
            {"compile": "default"},
            {"runtime": "onnxruntime"},
        ]
    else:
        half: dict[str, Any] = {"dtype": "bfloat16"}
        steps = [{"dtype": "tf32"}, half, {"dtype": "float16"}]
        steps += [{**half, "layout": "channels_last"}, {**half, "compile": "default"}]
    return [other for step in steps if (other := replace(variant, **step)) != variant]
