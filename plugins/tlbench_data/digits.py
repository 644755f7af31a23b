"""The digits data set that comes with scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from tlbench.components import IMAGE, Dataset, Split, Splits
from tlbench.errors import BenchmarkError, DataError
from tlbench.parameters import number
from tlbench.seeds import derive_seed
from tlbench_data.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np


_ENLARGED = 32
"""Pixels along each edge of a rotated digit: 8 x 8 pixels do not survive a rotation."""


@final
class Digits(Dataset):
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI, test part). No download.

    A benchmark file may make them harder with ``options = { rotation = 45 }``: each is enlarged to 32 x 32 pixels and
    turned by an angle of its own, drawn evenly from that many degrees to either side.
    """

    summary = "handwritten digits, 1,797 grey images of 8 x 8 pixels, 10 classes; comes with scikit-learn"
    modality = IMAGE
    has_test = False

    def __init__(self, name: str = "digits", rotation: float = 0.0) -> None:
        self.name, self._rotation = name, rotation

    def derive(self, *, name: str, path: Path | None, options: Mapping[str, Any]) -> Digits:
        """The same digits under another name, rotated if the option `rotation` (degrees, 0 to 180) says so."""
        unknown = [option for option in options if option != "rotation"]
        if path is not None or unknown:
            given = f"option '{unknown[0]}'" if unknown else "path"
            raise BenchmarkError(f"data set '{name}': 'data/digits' takes no {given}: 'rotation' is its only option")
        try:
            rotation = number({"rotation": self._rotation, **options}, "rotation", 0, 180)
        except BenchmarkError as error:
            raise BenchmarkError(f"data set '{name}': {error}") from error
        return Digits(name, rotation)

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
        raise DataError(f"data set '{self.name}' has no test split of its own")

    @cached_property
    def _split(self) -> Split:
        from sklearn.datasets import load_digits

        digits = load_digits()
        ids = [f"digits/{number:04}" for number in range(len(digits.target))]
        images = _rgb(digits.images)
        if self._rotation:
            images = _rotated(images, ids, self._rotation)
        return Split(ids, digits.target.tolist(), [str(name) for name in digits.target_names], images)


def _rgb(grey: np.ndarray) -> np.ndarray:
    """Values 0 to 16 [n, h, w] as uint8 [n, h, w, 3]."""
    import numpy as np

    return np.repeat(np.rint(grey * (255 / 16)).astype(np.uint8)[..., None], 3, axis=-1)


def _rotated(images: np.ndarray, ids: Sequence[str], most: float) -> np.ndarray:
    """Images [n, h, w, 3] enlarged to [n, 32, 32, 3] and turned, each by an angle that its id and `most` decide."""
    import numpy as np
    from PIL import Image

    def turned(image: np.ndarray, identifier: str) -> np.ndarray:
        angle = most * (2 * derive_seed("rotation", identifier) / 2**63 - 1)
        large = Image.fromarray(image).resize((_ENLARGED, _ENLARGED), Image.Resampling.BICUBIC)
        return np.asarray(large.rotate(angle, Image.Resampling.BICUBIC))

    return np.stack([turned(image, identifier) for image, identifier in zip(images, ids, strict=True)])
