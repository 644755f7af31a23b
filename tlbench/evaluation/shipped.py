"""The shipped model: a fitted classifier that takes raw samples, one or a million."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import nn

from tlbench.components import IMAGE, TEXT, Preprocess
from tlbench.errors import DataError
from tlbench.evaluation.device import Compute
from tlbench.evaluation.predict import BLOCK, predict_arrays
from tlbench.samples import pixels
from tlbench.samples.threads import Each


@final
class SavedModel:
    """A fitted classifier that takes raw samples."""

    def __init__(self, model: nn.Module, preprocess: Preprocess, modality: str, recipe: Mapping[str, Any]) -> None:
        self.model, self.preprocess, self.modality, self.recipe = model, preprocess, modality, recipe
        self.class_names: tuple[str, ...] = tuple(recipe["class_names"])

    def __call__(self, samples: Sequence[Any]) -> np.ndarray:
        """Class probabilities float32 [n, classes] of raw samples, as the data set gives them.

        Images are uint8 RGB arrays [height, width, 3], Pillow's images or paths of image files; texts are `str`.
        Raises `DataError` for others and for files that do not decode.
        """
        return probabilities(self.logits(samples))

    def logits(self, samples: Sequence[Any]) -> np.ndarray:
        """Logits float32 [n, classes] of the same samples; so many at a time that memory does not depend on n."""
        if isinstance(samples, str | bytes | Path | Image.Image):
            raise DataError(f"a sequence of samples is needed, not a single {type(samples).__name__}: put it in a list")
        found = np.empty((len(samples), len(self.class_names)), np.float32)
        for index, outcome in enumerate(self.outcomes(samples)):
            if isinstance(outcome, DataError):
                raise DataError(f"sample {index}: {outcome}") from outcome
            found[index] = outcome
        return found

    def outcomes(self, samples: Iterable[Any]) -> Iterator[np.ndarray | DataError]:
        """Logits float32 [classes] of each sample in turn, or why there are none.

        Samples are taken as they are needed; of those that wait only the prepared arrays are in memory.
        """
        threads = torch.get_num_threads()
        compute = Compute(device=torch.device("cpu"), dtype=torch.float32, threads=threads)
        rest, prepare = iter(samples), Each(self._prepared)
        while block := list(islice(rest, BLOCK)):
            prepared = prepare(block)
            arrays = [array for array in prepared if not isinstance(array, DataError)]
            rows = iter(predict_arrays(self.model, arrays, self.preprocess, compute) if arrays else ())
            yield from (array if isinstance(array, DataError) else next(rows) for array in prepared)

    def prepared(self, sample: Any) -> np.ndarray:
        """A raw sample as the preprocessing's `batch` takes it. Raises `DataError`."""
        return self.preprocess.prepare(_raw(sample, self.modality))

    def _prepared(self, sample: Any) -> np.ndarray | DataError:
        try:
            return self.prepared(sample)
        except DataError as error:
            return error


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits [..., classes], in float32."""
    found: np.ndarray = torch.from_numpy(logits).softmax(dim=-1).numpy()
    return found


def _raw(sample: Any, modality: str) -> Any:
    """The sample as a data set gives it. Refuses what the preprocessing would misread."""
    if modality == TEXT and not isinstance(sample, str):
        raise DataError(f"a text (str) is needed, not {type(sample).__name__}")
    if modality != IMAGE:
        return sample
    if isinstance(sample, str | Path):
        return pixels.read(Path(sample))
    if isinstance(sample, Image.Image):
        try:
            return pixels.from_image(sample)
        except Exception as error:  # as in `pixels.read`: Pillow reads files when their pixels are asked for
            raise DataError(f"the image does not decode: {pixels.reason(error)}") from error
    if not _is_pixels(sample):
        what = f"{sample.dtype} {list(sample.shape)}" if isinstance(sample, np.ndarray) else type(sample).__name__
        raise DataError(f"an RGB image, uint8 [height, width, 3], is needed, not {what}")
    return sample


def _is_pixels(sample: Any) -> bool:
    if not isinstance(sample, np.ndarray) or sample.dtype != np.uint8:
        return False
    return sample.ndim == 3 and sample.shape[2] == 3 and sample.size > 0
