"""The digits data set that comes with scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, final

from tlbench.components import IMAGE, Dataset, Split, Splits
from tlbench.errors import DataError
from tlbench_data.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np


@final
class Digits(Dataset):
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI, test part). No download."""

    name = "digits"
    summary = "handwritten digits, 1,797 grey images of 8 x 8 pixels, 10 classes; comes with scikit-learn"
    modality = IMAGE
    has_test = False

    @property
    def fingerprint(self) -> str:
        """Hash over ids, labels and pixels."""
        split = self._split
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in split.samples]
        return fingerprint(zip(split.ids, split.labels, digests, strict=True))

    def load(self, seed: int) -> Splits:
        """All images as training data; test and validation are taken from them."""
        return Splits(self._split)

    def load_test(self, seed: int) -> Split:
        """Raise `DataError`: there is no test split."""
        raise DataError("data set 'digits' has no test split of its own")

    @cached_property
    def _split(self) -> Split:
        from sklearn.datasets import load_digits

        digits = load_digits()
        ids = [f"digits/{number:04}" for number in range(len(digits.target))]
        return Split(ids, digits.target.tolist(), [str(name) for name in digits.target_names], _rgb(digits.images))


def _rgb(grey: np.ndarray) -> np.ndarray:
    """Values 0 to 16 [n, h, w] as uint8 [n, h, w, 3]."""
    import numpy as np

    return np.repeat(np.rint(grey * (255 / 16)).astype(np.uint8)[..., None], 3, axis=-1)
