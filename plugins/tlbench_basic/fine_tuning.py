"""Fine-tuning: every layer trains, from pretrained weights or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.parameters import number
from tlbench.spaces import Context, Narrowed, Params, Suggest, training_space
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench_basic.groups import backbone_part, check_rates, fresh_part, layer_decay
from tlbench_basic.recipes import common, fine_tuning, fine_tuning_rates, layer_decay_space, rate_for, rate_scale_space

if TYPE_CHECKING:
    from torch import Tensor, nn

_MOST = 1e12
"""The largest penalty that a recipe may ask for."""


@final
class FullFineTuning(TrainedStrategy):
    """All weights train; batch-norm statistics stay frozen unless the recipe says otherwise.

    The fresh part learns at `head_learning_rate_scale` times the backbone's rate. With `layer_decay` the rate falls by
    that factor from each layer group to the one below, as for ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022):
    the top layer group learns at the learning rate, group by group below at `layer_decay` times the rate above. None is
    off; 0 leaves a rate of 0 to all but the top.
    """

    name = "full"
    summary = "fine-tune every layer"
    default = True
    version = 2

    def defaults(self, context: Context) -> Params:
        """AdamW at a rate that suits the kind of architecture."""
        return {**fine_tuning(context), "layer_decay": None}

    def space(self, trial: Suggest, context: Context) -> Params:
        """Rates, decay, warm-up, smoothing and, for images, augmentation."""
        return {
            **rate_scale_space(trial),
            **layer_decay_space(trial),
            **training_space(trial, context, fine_tuning_rates(context)),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse rates that cannot be used."""
        check_rates(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """The backbone at the learning rate or below it, the rest at a multiple of it."""
        return [*backbone_part(model, decay=layer_decay(params)), fresh_part(model, params)]


@final
class ProbeThenFineTuning(TrainedStrategy):
    """Fine-tuning from the linear probe's solution: LP-FT (Kumar et al. 2022).

    A random head's large gradients distort pretrained features; a head that already fits them does not. The engine
    begins with the exact logistic regression of penalty `probe_l2`, so that all epochs are left for fine-tuning, with
    the same rate for the head as for the backbone: a lower one for the head than where it begins at random.
    """

    name = "lp-ft"
    summary = "fine-tune every layer, the head starting as the linear probe"
    default = True
    version = 2

    def defaults(self, context: Context) -> Params:
        """About a third of the rate of plain fine-tuning for transformers, as much for others.

        With a third of it, pretrained MobileNets had 2.5 and 4.8 points less after nine epochs on 800 images of
        CIFAR-10.
        """
        return {
            **fine_tuning(context),
            "learning_rate": rate_for(context, text=2e-5, image=3e-5, other=3e-4),
            "head_learning_rate_scale": 1.0,
            "head_start": "probe",
            "probe_l2": 0.1,
            "layer_decay": None,
        }

    def space(self, trial: Suggest, context: Context) -> Params:
        """The probe's penalty, and rates a decade below those of plain fine-tuning."""
        low, high = fine_tuning_rates(context)
        return {
            "probe_l2": trial.suggest_float("probe_l2", 1e-6, 1e1, log=True),
            **layer_decay_space(trial),
            **training_space(trial, context, (low / 10, high / 10)),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse rates that cannot be used."""
        check_rates(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything, at rates as for plain fine-tuning."""
        return [*backbone_part(model, decay=layer_decay(params)), fresh_part(model, params)]


@final
class StartingPointPenalty(TrainedStrategy):
    """Fine-tuning with a penalty on the way from the pretrained weights: L2-SP (Li et al. 2018).

    To the loss is added ``alpha / 2 * |w - w0|^2`` over the backbone's parameters, w0 being their pretrained values,
    and ``beta / 2 * |v|^2`` over the head's, in place of weight decay.
    """

    name = "l2-sp"
    summary = "fine-tune every layer, held near the pretrained weights"

    def defaults(self, context: Context) -> Params:
        """The recipe of plain fine-tuning, with the two penalties in place of weight decay."""
        return {**fine_tuning(context), "weight_decay": 0.0, "alpha": 1e-2, "beta": 1e-2}

    def space(self, trial: Suggest, context: Context) -> Params:
        """Penalty `alpha` over the decades of Quick-Tune (Arango et al. 2024); `beta` and weight decay stay fixed."""
        undecayed = Narrowed(trial, {"weight_decay": 0.0}, {})
        searched = training_space(undecayed, context, fine_tuning_rates(context))
        del searched["weight_decay"]  # so that a benchmark file may still give it
        return {
            "alpha": trial.suggest_float("alpha", 1e-4, 1e-1, log=True),
            **rate_scale_space(trial),
            **searched,
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse rates and penalties that cannot be used."""
        check_rates(params)
        _penalties(params)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything; the pretrained weights are remembered beside the model's own, which they are not part of."""
        model.starting_point = [parameter.detach().clone() for parameter in model.backbone.parameters()]
        return [*backbone_part(model), fresh_part(model, params)]

    def penalty(self, model: Any, params: Params) -> Tensor:
        """Half the weighted squared distance from the start, and half the head's weighted squared length."""
        import torch

        backbone = list(model.backbone.parameters())
        # Training moves the model to its device after `adapt`; once the start has followed, this does nothing.
        model.starting_point = [
            start.to(parameter.device) for start, parameter in zip(model.starting_point, backbone, strict=True)
        ]
        way = zip(backbone, model.starting_point, strict=True)
        moved = torch.stack([(parameter - start).square().sum() for parameter, start in way]).sum()
        length = torch.stack([parameter.square().sum() for parameter in model.head.parameters()]).sum()
        alpha, beta = _penalties(params)
        return alpha / 2 * moved + beta / 2 * length

    def deploy(self, model: Any) -> nn.Module:
        """The model without the memory of its start."""
        vars(model).pop("starting_point", None)
        deployed: nn.Module = model
        return deployed


@final
class Scratch(TrainedStrategy):
    """The same architecture from random weights: what transfer has to beat, tuned with the same effort."""

    name = "scratch"
    summary = "train every layer from random weights"
    default = True
    version = 2
    pretrained = False

    def defaults(self, context: Context) -> Params:
        """Higher rates than fine-tuning, and batch-norm statistics that train."""
        rate = 5e-4 if context.kind == "transformer" else 2e-3
        return {"learning_rate": rate, "weight_decay": 5e-2, "batch_norm": "training", **common(context)}

    def space(self, trial: Suggest, context: Context) -> Params:
        """As for fine-tuning, with rates that suit random weights."""
        return training_space(trial, context, (1e-5, 1e-2))

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything trains."""
        return [ParameterGroup(list(model.parameters()))]


def _penalties(params: Params) -> tuple[float, float]:
    """Weights of the penalties on the way from the start and on the head."""
    return number(params, "alpha", 0.0, _MOST), number(params, "beta", 0.0, _MOST)
