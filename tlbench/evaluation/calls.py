"""Calls: which modules a forward pass calls, in which order, and the shapes of what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from tlbench.evaluation.pool import attention_mask


@final
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a call's arguments its first tensor stands."""

    argument: int | str
    """Position, or the name of a keyword."""

    shape: torch.Size
    floating: bool
    trained: bool
    """Whether something that trains flowed into it."""

    def put(self, tensor: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with another tensor there."""
        if isinstance(self.argument, str):
            return list(args), {**kwargs, self.argument: tensor}
        return [*args[: self.argument], tensor, *args[self.argument + 1 :]], kwargs

    def tensor(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The tensor that stands there."""
        found: Tensor = kwargs[self.argument] if isinstance(self.argument, str) else args[self.argument]
        return found


@final
@dataclass(kw_only=True, eq=False)
class Call:
    """One call of a module."""

    name: str
    """The module's name in the model."""

    module: nn.Module
    within: Call | None
    """The call that made it; None where that is the model itself or a method of a part."""

    place: Place | None
    """None where no argument is a tensor."""

    leaves: Sequence[Any] = ()
    """What it returned, without its structure; tensors are kept without their values."""

    structure: TreeSpec | None = None
    """None while it has not returned."""

    @property
    def around(self) -> list[Call]:
        """The calls that it is part of, innermost first."""
        return [] if self.within is None else [self.within, *self.within.around]

    @property
    def trains(self) -> bool:
        """Whether the module has a parameter that trains."""
        return any(parameter.requires_grad for parameter in self.module.parameters())


def calls(model: nn.Module, inputs: Any) -> list[Call]:
    """The calls of one forward pass, as they begin; that of the model itself is left out."""
    names = {module: name for name, module in model.named_modules() if name}
    found: list[Call] = []
    open_calls: list[Call] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        within = open_calls[-1] if open_calls else None
        call = Call(name=names[module], module=module, within=within, place=_first_tensor(args, kwargs))
        found.append(call)
        open_calls.append(call)

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        call = open_calls.pop()
        leaves, call.structure = tree_flatten(output)
        call.leaves = [leaf.to("meta") if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    hooks = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _first_tensor(args: Sequence[Any], kwargs: dict[str, Any]) -> Place | None:
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for argument, value in places:
        if isinstance(value, Tensor):
            return Place(
                argument=argument,
                shape=value.shape,
                floating=value.is_floating_point(),
                trained=value.requires_grad,
            )
    return None


def extent(inputs: Any) -> tuple[int, int]:
    """Samples, and positions with their padding: 0 where samples do not differ in length."""
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    mask = attention_mask(inputs)
    return len(first), 0 if mask is None else int(mask.shape[1])


def shortened(inputs: Any) -> Any:
    """Inputs that differ in length without their last position."""
    _, length = extent(inputs)
    return {name: tensor[:, :-1] if tensor.shape[1:2] == (length,) else tensor for name, tensor in inputs.items()}


@final
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A tensor's shape, each axis as an affine function of a batch's samples and positions."""

    base: tuple[int, ...]
    samples: tuple[int, ...]
    positions: tuple[int, ...]

    def at(self, extent: tuple[int, int]) -> list[int]:
        """The shape for so many samples and positions."""
        axes = zip(self.base, self.samples, self.positions, strict=True)
        return [base + of_samples * extent[0] + of_positions * extent[1] for base, of_samples, of_positions in axes]

    @property
    def per_sample(self) -> bool:
        """Whether the first axis is that of samples and no other depends on how many there are."""
        return self.base[:1] == (0,) and self.samples[:1] == (1,) and not any(self.samples[1:])

    @property
    def even(self) -> bool:
        """Whether the length does not matter."""
        return not any(self.positions)

    @property
    def per_position(self) -> bool:
        """Whether the second axis is that of positions and no other depends on how many there are."""
        return self.base[1:2] == (0,) and self.positions[:2] == (0, 1) and not any(self.positions[2:])


def shape(shapes: Sequence[Sequence[int]], extent: tuple[int, int]) -> Shape:
    """From three shapes: at an `extent`, with a sample less, with a position less. Raises `ValueError` otherwise."""
    full, fewer, shorter = shapes
    axes = list(zip(full, fewer, shorter, strict=True))
    samples = tuple(whole - less for whole, less, _ in axes)
    positions = tuple(whole - less for whole, _, less in axes)
    steps = zip(full, samples, positions, strict=True)
    base = tuple(size - of_samples * extent[0] - of_positions * extent[1] for size, of_samples, of_positions in steps)
    return Shape(base=base, samples=samples, positions=positions)


@final
@dataclass(frozen=True, kw_only=True)
class Blank:
    """What a call returned, to be returned again without computing it: the structure, filled with one number."""

    leaves: Sequence[Any]
    """`(Shape, dtype)` of tensors, anything else as it is."""

    structure: TreeSpec

    def filled(self, number: float, extent: tuple[int, int], device: torch.device) -> Any:
        """The structure for a batch of so many samples and positions.

        Its tensors take no memory: no element may be written to.
        """
        leaves = [
            torch.full((), number, dtype=leaf[1], device=device).expand(leaf[0].at(extent))
            if isinstance(leaf, tuple)
            else leaf
            for leaf in self.leaves
        ]
        return tree_unflatten(leaves, self.structure)


def blank(seen: Sequence[Call], extent: tuple[int, int]) -> Blank | None:
    """From one call in three forward passes, as `shape` takes them; None of what cannot be filled.

    That is whatever holds other things than floating-point tensors: an index or a mask of blanks would mislead.
    """
    leaves: list[Any] = []
    for alike in zip(*(call.leaves for call in seen), strict=True):
        if all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in alike):
            leaves.append((shape([leaf.shape for leaf in alike], extent), alike[0].dtype))
        elif all(leaf is None for leaf in alike):
            leaves.append(None)
        else:
            return None
    structure = seen[0].structure
    return None if structure is None else Blank(leaves=leaves, structure=structure)
