"""Fine-tuning: every layer trains, from pretrained weights or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from tlbench.components import IMAGE, Context, ParameterGroup, TrainedStrategy
from tlbench.spaces import Params, Suggest, training_space


def _everything(model: Any) -> list[ParameterGroup]:
    return [ParameterGroup(list(model.parameters()))]


def _augmentation(context: Context) -> dict[str, Any]:
    return {"augmentation": "flip"} if context.modality == IMAGE else {}


@final
class FullFineTuning(TrainedStrategy):
    """All weights train at one learning rate; batch-norm statistics stay frozen unless the recipe says otherwise.

    Ranges after Quick-Tune (Arango et al. 2024): lower rates for transformers than for convolutional networks.
    """

    name = "full"
    summary = "fine-tune every layer"

    def defaults(self, context: Context) -> Params:
        """AdamW at a rate that suits the kind of architecture."""
        rate = 1e-4 if context.kind == "transformer" else 3e-4
        return {"learning_rate": rate, **_augmentation(context)}

    def space(self, trial: Suggest, context: Context) -> Params:
        """Rate, decay, warm-up, smoothing and, for images, augmentation."""
        rates = (1e-6, 1e-3) if context.kind == "transformer" else (1e-5, 1e-2)
        return training_space(trial, context.modality, rates)

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything trains."""
        return _everything(model)


@final
class Scratch(TrainedStrategy):
    """The same architecture from random weights: what transfer has to beat, tuned with the same effort."""

    name = "scratch"
    summary = "train every layer from random weights"
    pretrained = False

    def defaults(self, context: Context) -> Params:
        """Higher rates than fine-tuning, and batch-norm statistics that train."""
        rate = 5e-4 if context.kind == "transformer" else 2e-3
        return {"learning_rate": rate, "weight_decay": 5e-2, "batch_norm": "training", **_augmentation(context)}

    def space(self, trial: Suggest, context: Context) -> Params:
        """As for fine-tuning, with rates that suit random weights."""
        return training_space(trial, context.modality, (1e-5, 1e-2))

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        """Everything trains."""
        return _everything(model)
