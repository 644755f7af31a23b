"""Subsets: a few of the backbone's own parameters train, by what they are and not by where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.errors import BenchmarkError
from tlbench.spaces import Context, Params, Suggest, training_space
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.groups import check_rates, fresh_part
from tlbench_basic.recipes import common, rate_scale_space

if TYPE_CHECKING:
    from torch import nn


class Subset(TrainedStrategy):
    """Few parameters train at one rate, which is ten times that of full fine-tuning or more."""

    def defaults(self, context: Context) -> Params:
        """The same rate for the head as for what trains of the backbone."""
        return {"learning_rate": 1e-3, "head_learning_rate_scale": 1.0, **common(context)}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The ranges of full fine-tuning with higher rates."""
        return {**rate_scale_space(trial), **training_space(trial, context, (1e-4, 1e-2))}

    def check(self, params: Params, context: Context) -> None:
        """Refuse rates that cannot be used."""
        check_rates(params)


@final
class BiasOnly(Subset):
    """The biases of the backbone train, and the head: BitFit (Ben Zaken et al. 2022).

    A bias is a parameter whose own name is `bias` or ends in ``_bias``, those of normalisation layers included.
    """

    name = "bias-only"
    summary = "fine-tune the biases and the head"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """The biases and the fresh part. Raises `BenchmarkError` where the backbone has no biases."""
        named = model.backbone.named_parameters()
        biases = [parameter for name, parameter in named if name.endswith("_bias") or _own_name(name) == "bias"]
        if not biases:
            raise BenchmarkError("bias-only: the backbone has no biases to train; 'norm-only' or 'lora' may suit it")
        return [ParameterGroup(biases), fresh_part(model, params)]


@final
class NormOnly(Subset):
    """The weights and biases of the backbone's normalisation layers train, and the head (Frankle et al. 2021).

    A normalisation layer is torch's own or a module whose class, or a class it is derived from, has ``Norm`` in its
    name. Batch-norm statistics are another matter: they stay frozen unless the recipe's `batch_norm` says otherwise.
    """

    name = "norm-only"
    summary = "fine-tune the normalisation layers and the head"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Normalisation layers and the fresh part. Raises `BenchmarkError` where no such layer has parameters."""
        # A layer that occurs twice gives its parameters once.
        affine = {id(parameter): parameter for parameter in _affine(model.backbone)}
        if not affine:
            raise BenchmarkError(
                "norm-only: the backbone has no normalisation layer with parameters; 'bias-only' or 'lora' may suit it"
            )
        return [ParameterGroup(list(affine.values())), fresh_part(model, params)]


def _affine(backbone: nn.Module) -> Iterable[nn.Parameter]:
    """Weights and biases of normalisation layers.

    A name proves little: timm's ``NormFreeBlock`` has a gain, its ``ConvNormAct`` contains a convolution, and a linear
    layer with normalised weights is none. What counts are a module's own parameters called `weight` and `bias`, of one
    axis each unless the class is torch's, whose `LayerNorm` may have more.
    """
    from torch.nn import GroupNorm, LayerNorm, RMSNorm

    for module in backbone.modules():
        own = dict(module.named_parameters(recurse=False))
        named = any("Norm" in each.__name__ for each in type(module).__mro__)
        flat = all(parameter.ndim <= 1 for parameter in own.values())
        if isinstance(module, GroupNorm | LayerNorm | RMSNorm) or (named and flat):
            yield from (parameter for name, parameter in own.items() if name in ("weight", "bias"))


def _own_name(name: str) -> str:
    return name.rpartition(".")[2]
