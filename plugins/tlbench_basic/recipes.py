"""Recipes: default rates, ranges and settings that strategies of this plugin have in common."""

from __future__ import annotations

from typing import Any

from tlbench.components import IMAGE, TEXT
from tlbench.spaces import Context, Suggest

RATE_SCALES = (1.0, 3.0, 10.0)
LAYER_DECAYS = (None, 0.65, 0.75, 0.9)


def common(context: Context) -> dict[str, Any]:
    """Batches of 32; for images flips, and the layout that suits the architecture.

    With channels last convolutions are 1.4 to 1.7 times as fast on a CPU (MobileNetV2 at 128 px).
    """
    if context.modality != IMAGE:
        return {"batch_size": 32}
    return {"batch_size": 32, "augmentation": "flip", "channels_last": context.kind == "convolutional"}


def fine_tuning(context: Context) -> dict[str, Any]:
    """AdamW at a rate that suits the kind of architecture, ten times that rate for the fresh part.

    After Long et al. (2015): with one rate for both, three epochs on 1,600 small photographs took MobileNetV2 to 0.66
    validation accuracy, with ten times the rate for the head to 0.79. 1e-4 for transformers is AutoGluon's default: two
    epochs on 1,000 sentences took MiniLM to 0.805 with 5e-5 and to 0.838 with 2e-4, which larger encoders bear badly.
    """
    rate = rate_for(context, text=1e-4, image=1e-4, other=3e-4)
    return {"learning_rate": rate, "head_learning_rate_scale": 10.0, **common(context)}


def rate_for(context: Context, *, text: float, image: float, other: float) -> float:
    """One of three rates: for transformers on text, for transformers on anything else, for all other architectures."""
    if context.kind != "transformer":
        return other
    return text if context.modality == TEXT else image


def fine_tuning_rates(context: Context) -> tuple[float, float]:
    """Lowest and highest rate for pretrained weights, after Quick-Tune (Arango et al. 2024): lower for transformers."""
    return (1e-6, 1e-3) if context.kind == "transformer" else (1e-5, 1e-2)


def rate_scale_space(trial: Suggest) -> dict[str, Any]:
    """The factor on the fresh part's rate."""
    return {"head_learning_rate_scale": trial.suggest_categorical("head_learning_rate_scale", RATE_SCALES)}


def layer_decay_space(trial: Suggest) -> dict[str, Any]:
    """The factor on the rate from one layer group to the one below; Quick-Tune's values and AutoGluon's 0.9."""
    return {"layer_decay": trial.suggest_categorical("layer_decay", LAYER_DECAYS)}
