"""Fine-tuning: every layer trains, from pretrained weights or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from tlbench.components import IMAGE, Context, ParameterGroup, TrainedStrategy
from tlbench.spaces import Params, Suggest, training_space


def _for_images(context: Context) -> dict[str, Any]:
    """Flips, and the layout in which convolutions are 1.4 to 1.7 times as fast on a CPU (MobileNetV2 at 128 px)."""
    if context.modality != IMAGE:
        return {}
    return {"augmentation": "flip", "channels_last": context.kind == "convolutional"}


@final
class FullFineTuning(TrainedStrategy):
    """All weights train; batch-norm statistics stay frozen unless the recipe says otherwise.

    The fresh head learns at `head_learning_rate_scale` times the backbone's rate, after Long et al. (2015): with one
    rate for both, three epochs on 1,600 small photographs took MobileNetV2 to 0.66 validation accuracy, with ten times
    the rate for the head to 0.79. Ranges after Quick-Tune (Arango et al. 2024): lower rates for transformers than for
    convolutional networks.
    """

    name = "full"
    summary = "fine-tune every layer"

    def defaults(self, context: Context) -> Params:
        """AdamW at a rate that suits the kind of architecture."""
        rate = 1e-4 if context.kind == "transformer" else 3e-4
        return {
            "learning_rate": rate,
            "head_learning_rate_scale": 10.0,
            "batch_size": 32,
            **_for_images(context),
        }

    def space(self, trial: Suggest, context: Context) -> Params:
        """Rates, decay, warm-up, smoothing and, for images, augmentation."""
        rates = (1e-6, 1e-3) if context.kind == "transformer" else (1e-5, 1e-2)
        scale = trial.suggest_categorical("head_learning_rate_scale", (1.0, 3.0, 10.0))
        return {"head_learning_rate_scale": scale, **training_space(trial, context.modality, rates)}

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """The backbone at the learning rate, the rest at a multiple of it."""
        backbone = list(model.backbone.parameters())
        fresh = [*model.pool.parameters(), *model.head.parameters()]
        return [ParameterGroup(backbone), ParameterGroup(fresh, params["head_learning_rate_scale"])]


@final
class Scratch(TrainedStrategy):
    """The same architecture from random weights: what transfer has to beat, tuned with the same effort."""

    name = "scratch"
    summary = "train every layer from random weights"
    pretrained = False

    def defaults(self, context: Context) -> Params:
        """Higher rates than fine-tuning, and batch-norm statistics that train."""
        rate = 5e-4 if context.kind == "transformer" else 2e-3
        return {
            "learning_rate": rate,
            "weight_decay": 5e-2,
            "batch_size": 32,
            "batch_norm": "training",
            **_for_images(context),
        }

    def space(self, trial: Suggest, context: Context) -> Params:
        """As for fine-tuning, with rates that suit random weights."""
        return training_space(trial, context.modality, (1e-5, 1e-2))

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything trains."""
        return [ParameterGroup(list(model.parameters()))]
