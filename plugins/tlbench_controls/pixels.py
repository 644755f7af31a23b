"""The control for images: a support vector machine on pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE
from tlbench.parameters import positive
from tlbench.spaces import Context, Params, Suggest
from tlbench.strategies import ControlStrategy
from tlbench_controls.logits import per_class

if TYPE_CHECKING:
    import numpy as np

SIZE = 32
"""Pixels along each edge of what the machine sees."""

MOST_SAMPLES = 10_000
"""Training samples at most: time and memory grow with their square, to 800 MB for so many."""

_CHUNK = 1000  # samples scored at once, so that their pixels and kernel stay at 105 MB


@final
class PixelSvm(ControlStrategy):
    """A support vector machine with Gaussian kernel on the pixels, scaled down: what a task needs no network for.

    `c` is the price of a margin error (scikit-learn's `C`); the kernel's width follows the pixels' variance, as with
    scikit-learn's `gamma="scale"`. Of more than 10,000 training samples each class gives its first ones, in equal
    shares as far as it has them. The logits are one-vs-rest decision values, no log-probabilities: they are fit for
    accuracy, not for likelihood.
    """

    name = "pixel-svm"
    summary = "control: support vector machine on 32 x 32 pixels"
    modalities = frozenset({IMAGE})

    def defaults(self, context: Context) -> Params:
        """A price that suits pixels in [0, 1]."""
        return {"c": 10.0}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The price over four decades."""
        return {"c": trial.suggest_float("c", 1e-1, 1e3, log=True)}

    def check(self, params: Params, context: Context) -> None:
        """Refuse a price that cannot be used."""
        positive(params, "c")

    def prepare(self, sample: Any) -> np.ndarray:
        """The image at 32 x 32 pixels, whatever its shape was: uint8 [32, 32, 3]."""
        import numpy as np
        from PIL import Image

        return np.array(Image.fromarray(sample).resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def fit(
        self, arrays: Sequence[np.ndarray], labels: np.ndarray, classes: int, params: Params, seed: int
    ) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Fit the machine to the first samples of every class."""
        import numpy as np
        from sklearn.metrics.pairwise import rbf_kernel
        from sklearn.svm import SVC

        taken = first_of_each(labels, max(MOST_SAMPLES, classes))
        known = _flat([arrays[index] for index in taken])
        gamma = 1 / (known.shape[1] * (known.var() or 1.0))
        # By matrix products the kernel takes a tenth of the time it takes inside libsvm: 2 s, not 16 s, for 2,000
        # samples to learn from and 1,000 to score. Ties broken, it predicts the class of the highest decision value.
        machine = SVC(C=positive(params, "c"), kernel="precomputed", break_ties=True)
        machine.fit(rbf_kernel(known, known, gamma), labels[taken])

        def logits(arrays: Sequence[np.ndarray]) -> np.ndarray:
            chunks = (arrays[start : start + _CHUNK] for start in range(0, len(arrays), _CHUNK))
            kernels = (rbf_kernel(_flat(chunk), known, gamma) for chunk in chunks)
            scored = [per_class(machine.decision_function(kernel)) for kernel in kernels]
            return np.concatenate([np.empty((0, classes)), *scored])

        return logits


def first_of_each(labels: np.ndarray, most: int) -> np.ndarray:
    """Sorted indices of `most` samples at most: the first of every class, then the second of every class, and so on."""
    import numpy as np

    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = np.arange(len(members))
    return np.sort(np.argsort(place, kind="stable")[:most])


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels in [0, 1], float64 [n, pixels]."""
    import numpy as np

    return np.stack(arrays).reshape(len(arrays), -1) / 255.0
