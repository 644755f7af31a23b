"""LoRA: low-rank additions to the weights of linear layers and convolutions, merged before the model is shipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.errors import BenchmarkError
from tlbench.parameters import choice, number, whole_number
from tlbench.spaces import Context, Params, Suggest, training_space
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.groups import check_rates, fresh_part
from tlbench_basic.recipes import common, rate_for, rate_scale_space

if TYPE_CHECKING:
    from torch import nn

_TARGETS = ("attention", "all")

_ATTENTION = re.compile(
    r"(q|k|v|qk|kv|qkv|query|key|value|query_key_value)(_proj|_lin|_head)?|projection_(query|key|value)"
    r"|W(q|k|v|qkv)|to_(q|k|v|kv|qkv)|[cq]_attn|in_proj"
)
"""What attention layers of timm and transformers call their projections of queries, keys and values."""


@final
class Lora(TrainedStrategy):
    """The backbone is frozen; beside chosen layers two thin matrices train, and the head (Hu et al. 2022).

    A layer ``W x`` becomes ``W x + alpha / rank * B A x`` with `alpha` = `alpha_ratio` * `rank`; B starts at 0, so that
    training starts from the pretrained function. `targets`: "attention" for the projections of queries, keys and values
    where the backbone has them and everything where it has not; "all" for every linear layer and every ungrouped
    convolution. A layer whose weight something reads other than by calling the layer takes none (timm's BEiT does so
    with `qkv`): there an addition would train in vain.
    """

    name = "lora"
    summary = "train low-rank additions to the weights, and the head"
    default = True

    def defaults(self, context: Context) -> Params:
        """Rank 8 and alpha 8, as AutoGluon has it, beside attention projections in a transformer, else everywhere.

        The rate for text: two epochs on 1,000 sentences took MiniLM to 0.774 with 1e-3 and to 0.825 with 3e-3.
        """
        return {
            "learning_rate": rate_for(context, text=2e-3, image=1e-3, other=1e-3),
            "head_learning_rate_scale": 1.0,
            "rank": 8,
            "alpha_ratio": 1,
            "lora_dropout": 0.0,
            "targets": "attention" if context.kind == "transformer" else "all",
            **common(context),
        }

    def space(self, trial: Suggest, context: Context) -> Params:
        """Rank, scale, dropout and targets, and the ranges of full fine-tuning with higher rates."""
        return {
            "rank": trial.suggest_categorical("rank", (4, 8, 16, 32)),
            "alpha_ratio": trial.suggest_categorical("alpha_ratio", (1, 2)),
            "lora_dropout": trial.suggest_categorical("lora_dropout", (0.0, 0.1)),
            "targets": trial.suggest_categorical("targets", _TARGETS),
            **rate_scale_space(trial),
            **training_space(trial, context, (1e-5, 1e-2)),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse targets, ranks, scales, dropout and rates that cannot be used."""
        choice(params, "targets", _TARGETS)
        _shape(params)
        check_rates(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Put additions, drawn from torch's global generator, into the backbone; they and the fresh part train.

        Raises `BenchmarkError` where no layer can take one.
        """
        from peft.tuners.lora import LoraLayer

        _inject(model.backbone, _targets(model, choice(params, "targets", _TARGETS)), params)
        layers = [module for module in model.backbone.modules() if isinstance(module, LoraLayer)]
        matrices = [matrix for layer in layers for matrix in (layer.lora_A, layer.lora_B)]
        additions = [parameter for matrix in matrices for parameter in matrix.parameters()]
        return [ParameterGroup(additions), fresh_part(model, params)]

    def deploy(self, model: Any) -> nn.Module:
        """The plain backbone's structure again, the additions merged into its weights."""
        from peft.tuners.lora import LoraLayer

        for name, module in list(model.backbone.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                model.backbone.set_submodule(name, module.get_base_layer())
        deployed: nn.Module = model
        return deployed


def _shape(params: Params) -> tuple[int, float, float]:
    """Rank, alpha over rank, and dropout of the additions."""
    return (
        whole_number(params, "rank", 1, 65536),
        number(params, "alpha_ratio", 1e-6, 1e6),
        number(params, "lora_dropout", 0.0, 0.99),
    )


def _inject(backbone: nn.Module, names: Sequence[str], params: Params) -> None:
    """Wrap the modules called `names`, in place."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    rank, ratio, dropout = _shape(params)
    for transposed in (False, True):  # Conv1D, the linear layer of GPT-2, keeps its weight the other way round
        chosen = [name for name in names if isinstance(backbone.get_submodule(name), Conv1D) is transposed]
        if not chosen:
            continue
        config = LoraConfig(
            r=rank,
            lora_alpha=ratio * rank,
            lora_dropout=dropout,
            target_modules="|".join(map(re.escape, chosen)),  # a pattern for whole names: a list is one of endings
            fan_in_fan_out=transposed,
        )
        inject_adapter_in_model(config, backbone)
        del backbone.peft_config


def _targets(model: Any, which: str) -> list[str]:
    """Names of the modules to wrap, relative to the backbone."""
    usable = _usable(model)
    if not usable:
        raise BenchmarkError(
            "lora: no linear layer and no ungrouped convolution of the backbone can take an addition: none is called "
            "by a forward pass and is the only reader of its weight; 'bias-only' or 'partial' may suit it"
        )
    projections = [name for name in usable if _ATTENTION.fullmatch(name.rpartition(".")[2])]
    return projections if which == "attention" and projections else usable


def _usable(model: Any) -> list[str]:
    """Names of modules that can take an addition and be merged with it, and of which a forward pass makes use."""
    from torch import nn

    shared = Counter(id(each) for _, each in model.backbone.named_parameters(remove_duplicate=False))
    # torch's encoder layer passes its layers by in eval mode, taking their weights.
    encoders = [name for name, each in model.backbone.named_modules() if isinstance(each, nn.TransformerEncoderLayer)]
    called = _called(model)
    return [
        name
        for name, module in model.backbone.named_modules()
        if name
        and module in called
        and _can_be_wrapped(module)
        and shared[id(module.weight)] == 1
        and not any(name.startswith(f"{encoder}." if encoder else "") for encoder in encoders)
    ]


def _can_be_wrapped(module: nn.Module) -> bool:
    """Whether peft's wrapping of a module computes what merging it does.

    Its classes are those of torch exactly: one derived from them may change padding or weight on the way, as timm's
    `Conv2dSame` and `StdConv2d` do. peft repeats a convolution's kernel, stride and padding, and nothing else.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if type(module) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D):
        return False
    if not isinstance(module.weight, nn.Parameter):  # computed from others: weight and spectral normalisation
        return False
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return True
    return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"


def _called(model: Any) -> set[nn.Module]:
    """The backbone's modules that are called when the model classifies its example."""
    import torch

    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in model.backbone.modules()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(model.example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return called
