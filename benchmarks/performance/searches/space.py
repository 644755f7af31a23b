"""The space of the searches that are not tlbench: backbone, how much of it trains, rate and weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from searches.setting import Setting
    from searches.training import Recipe

IMAGE_RATES, TEXT_RATES = (1e-5, 1e-2), (1e-6, 1e-3)
"""For convolutional networks and for transformers, after Quick-Tune (Arango et al. 2024), as tlbench's own ranges."""

DECAYS = (1e-5, 1e-1)


class Suggest(Protocol):
    """What suggests values: an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several."""


@final
class Suggestions:
    """Values that were suggested elsewhere."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The value of this name."""
        return float(self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The value of this name."""
        return self._values[name]


def recipe_of(trial: Suggest, setting: Setting) -> Recipe:
    """The recipe that a trial suggests."""
    from searches.training import Recipe

    rates = TEXT_RATES if setting.is_text else IMAGE_RATES
    return Recipe(
        backbone=trial.suggest_categorical("backbone", setting.backbones),
        strategy=trial.suggest_categorical("strategy", ("head", "full")),
        learning_rate=trial.suggest_float("learning_rate", *rates, log=True),
        weight_decay=trial.suggest_float("weight_decay", *DECAYS, log=True),
    )
