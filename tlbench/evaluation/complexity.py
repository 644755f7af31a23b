"""Complexity: how much arithmetic a model takes, counted from the shapes of what it computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.backends import mha
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tlbench.components import Backbone
from tlbench.evaluation.memory import Memory
from tlbench.evaluation.model import META, blueprint, elements, move, outline
from tlbench.spaces import Params

PROVENANCE: Mapping[str, str] = {
    "tool": "torch.utils.flop_counter",
    "tool_version": str(torch.__version__),
    "convention": "1 MAC is 2 FLOPs; convolutions, matrix products and attention, fused or not; element-wise is free",
}
"""How all figures of this module come about."""

_MOST = 1024
"""Complexities that are kept: a few numbers each."""

_PRODUCTS = re.compile(
    r"(?:^|_)(?:add)?(?:mm|mv|bmm|dot|vdot|cdist|matmul|linear|bilinear|trilinear|conv(?!ert)\w*|rnn|fft|einsum"
    r"|attention|(?:encoder|decoder)_layer)(?:_|$)"
)
"""Names of torch's own operations that multiply and add: without a formula they would count as nothing."""

_aten = torch.ops.aten
_FORMULAS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
"""By operation. Torch has none for fused attention on the CPU: its counter takes that for nothing (pitfall 16)."""


@final
@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What one forward pass of one sample takes, whatever the machine."""

    macs: int
    """Multiplications with an addition each: half the FLOPs."""

    activations: int
    """Elements that convolutions, matrix products and both products of attention put out."""

    parameters: int
    unsupported: tuple[str, ...] = ()
    """Operations that were met and not counted: products without a formula, and all that are not torch's own."""

    def __add__(self, other: Complexity) -> Complexity:
        """Of two models, one after the other."""
        return Complexity(
            macs=self.macs + other.macs,
            activations=self.activations + other.activations,
            parameters=self.parameters + other.parameters,
            unsupported=tuple(sorted({*self.unsupported, *other.unsupported})),
        )


def complexity(model: nn.Module, inputs: Any) -> Complexity:
    """Of one forward pass with these inputs, on the device where both lie. Leaves the model in eval mode.

    Raises `RuntimeError` where an operation failed that the model can do without: what it tells instead is no count.
    """
    with torch.no_grad(), _without_fast_path(), _Count() as count:
        model.eval()(inputs)
    if not count.whole:
        raise RuntimeError("an operation failed on the way, and not all of the forward pass was counted")
    return Complexity(
        macs=count.flops // 2,
        activations=count.activations,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        unsupported=tuple(sorted(count.unsupported)),
    )


def in_full(found: Complexity) -> Complexity:
    """A count that is one of everything. Raises `ValueError` of others: a fused LSTM has no formula, its parts have."""
    if found.unsupported:
        raise ValueError(f"not counted: {', '.join(found.unsupported)}")
    return found


def of_backbone(backbone: Backbone, params: Params, classes: int) -> Complexity:
    """Of the classifier that a recipe asks for, as it is deployed, for a sample of the usual shape."""
    return _outlined(blueprint(backbone, params, classes))


def of_features(backbone: Backbone, pool: str) -> Complexity:
    """Of the way to pooled features alone, for a sample of the usual shape."""
    return _outlined(outline(backbone, pool))


@final
class Complexities:
    """What one process has found, by everything that decides it: up to a second for a large network."""

    def __init__(self) -> None:
        self._memory = Memory(_MOST)

    def find(self, key: Hashable, *ways: Callable[[], Complexity]) -> Complexity | None:
        """The complexity for `key`, by the first of several ways that leads to it.

        None where none does: a figure is not worth a trial. A network that looks at values cannot be counted on the
        meta device, as GPT-2, Qwen and DeBERTa cannot.
        """
        for way in ways:
            with suppress(Exception):
                return self._memory.get(key, way)
        return None


def _outlined(model: Any) -> Complexity:
    with META:
        return complexity(model, move(model.example, META))


@final
class Flops:
    """FLOPs of many batches: one is counted, the others are told by their input elements.

    Exact where samples are of one size; of texts, attention's share grows with the square of the length.
    """

    def __init__(self) -> None:
        self._per_element: float | None = None
        self._sum = 0.0

    @property
    def total(self) -> int | None:
        """All FLOPs so far; None where none could be counted."""
        return round(self._sum) or None

    @property
    def so_far(self) -> tuple[float | None, float]:
        """What `go_on` takes: FLOPs by element, as far as counted, and all of them."""
        return self._per_element, self._sum

    def go_on(self, per_element: float | None, total: float) -> None:
        """Count on from where another run of the same computation was."""
        self._per_element, self._sum = per_element, total

    def restart(self) -> None:
        """Count the next batch: from now on another computation is done."""
        self._per_element = None

    @contextmanager
    def over(self, inputs: Any) -> Iterator[None]:
        """Add what is done inside with these inputs, backward pass included."""
        if self._per_element is None:
            with _Count() as count:
                yield
            self._per_element = count.flops / elements(inputs)
        else:
            yield
        self._sum += self._per_element * elements(inputs)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts with torch's formulas, as its `FlopCounterMode` does.

    That also keeps account by module: it added 26 to 83 ms to a training step of four small networks, this 8 to 23.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.activations = 0
        self.unsupported: set[str] = set()
        self.whole = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except Exception:
            self.whole = False
            raise
        formula, name = _formula(func)
        if formula is not None:
            try:
                self._add(name, args, out, formula(*args, **kwargs, out_val=out))
            except Exception:  # a figure is not worth the pass that it is counted in
                self.unsupported.add(name)
        elif name:
            self.unsupported.add(name)
        return out

    def _add(self, name: str, args: Any, out: Any, flops: int) -> None:
        """Of attention also the scores are activations, which a fused kernel never holds all at once."""
        scores = 0
        if "attention" in name:
            query, _, value = args[:3]
            scores = flops // (2 * (query.shape[-1] + value.shape[-1]))
        self.flops += flops
        self.activations += scores + (out if isinstance(out, Tensor) else out[0]).numel()


@cache
def _formula(function: Any) -> tuple[Callable[..., int] | None, str]:
    """The formula of an operation, and its name; without a name where none is needed."""
    if not isinstance(function, OpOverload):  # it takes functions, as flexible attention does
        return None, str(function)
    operation = function._overloadpacket
    formula = _FORMULAS.get(operation)
    missed = function.namespace not in ("aten", "prim") or bool(_PRODUCTS.search(operation.__name__))
    return formula, str(operation) if formula or missed else ""


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Keep torch's attention layers from kernels of their own, which have no formula."""
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)
