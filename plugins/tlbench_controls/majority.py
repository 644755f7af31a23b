"""The majority control: every sample gets the classes' frequencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.spaces import Context, Params, Suggest
from tlbench.strategies import ControlStrategy
from tlbench_controls.logits import class_frequencies

if TYPE_CHECKING:
    import numpy as np


@final
class Majority(ControlStrategy):
    """The most frequent class of the training samples, whatever the sample: what knowing nothing gives."""

    name = "majority"
    summary = "control: always the most frequent class"

    def defaults(self, context: Context) -> Params:
        """No parameters."""
        return {}

    def space(self, trial: Suggest, context: Context) -> Params:
        """Nothing to search."""
        return {}

    def prepare(self, sample: Any) -> np.ndarray:
        """Nothing of the sample."""
        import numpy as np

        return np.empty(0, np.uint8)

    def fit(
        self, arrays: Sequence[np.ndarray], labels: np.ndarray, classes: int, params: Params, seed: int
    ) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Count the classes."""
        import numpy as np

        frequencies = class_frequencies(labels, classes)
        return lambda arrays: np.tile(frequencies, (len(arrays), 1))
