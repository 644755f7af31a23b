"""The control for texts: logistic regression on frequencies of words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

from tlbench.components import TEXT
from tlbench.parameters import positive, whole_number
from tlbench.spaces import Context, Params, Suggest
from tlbench.strategies import ControlStrategy
from tlbench_controls.logits import class_frequencies, per_class

if TYPE_CHECKING:
    import numpy as np
    from sklearn.pipeline import Pipeline

MOST_TERMS = 100_000
"""Words and pairs of words at most, the most frequent ones: bounds the memory that many classes take."""

_WORD = r"(?u)\b\w+\b"  # of one letter too, unlike scikit-learn's default: some languages write words so


@final
class Tfidf(ControlStrategy):
    """Logistic regression on TF-IDF weights of words and pairs of words: what a task needs no network for.

    `c` is the inverse of the penalty (scikit-learn's `C`); a word or pair counts from `least_texts` texts on. Word
    counts enter by their logarithm. Where the training texts hold no such word, every text gets the classes'
    frequencies.
    """

    name = "tfidf"
    summary = "control: logistic regression on TF-IDF weights of words and pairs of words"
    modalities = frozenset({TEXT})

    def defaults(self, context: Context) -> Params:
        """A weak penalty and every word, which suit some thousands of short texts."""
        return {"c": 10.0, "least_texts": 1}

    def space(self, trial: Suggest, context: Context) -> Params:
        """The penalty over five decades, and whether words of one or two texts count."""
        return {
            "c": trial.suggest_float("c", 1e-2, 1e3, log=True),
            "least_texts": trial.suggest_int("least_texts", 1, 3),
        }

    def check(self, params: Params, context: Context) -> None:
        """Refuse a penalty or a number of texts that cannot be used."""
        positive(params, "c")
        _least_texts(params)

    def prepare(self, sample: Any) -> np.ndarray:
        """The text's bytes: UTF-8, uint8 [length]."""
        import numpy as np

        return np.frombuffer(sample.encode("utf-8", "replace"), np.uint8).copy()

    def fit(
        self, arrays: Sequence[np.ndarray], labels: np.ndarray, classes: int, params: Params, seed: int
    ) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Learn the vocabulary, its weights and the regression."""
        import numpy as np

        model = _fitted(_texts(arrays), labels, params)
        if model is None:
            frequencies = class_frequencies(labels, classes)
            return lambda arrays: np.tile(frequencies, (len(arrays), 1))

        def logits(arrays: Sequence[np.ndarray]) -> np.ndarray:
            if not len(arrays):
                return np.empty((0, classes))
            return per_class(model.decision_function(_texts(arrays)))

        return logits


def _fitted(texts: Sequence[str], labels: np.ndarray, params: Params) -> Pipeline | None:
    """Vocabulary and regression; None where the vocabulary would be empty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        ngram_range=(1, 2),
        token_pattern=_WORD,
        min_df=_least_texts(params),
        max_features=MOST_TERMS,
        sublinear_tf=True,
    )
    try:
        weights = words.fit_transform(texts)
    except ValueError:  # no word at all, or none in that many texts
        return None
    regression = LogisticRegression(C=positive(params, "c"), max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # with a weak penalty the last steps change little
        regression.fit(weights, labels)
    return make_pipeline(words, regression)


def _least_texts(params: Params) -> int:
    return whole_number(params, "least_texts", 1, 2**31)


def _texts(arrays: Sequence[np.ndarray]) -> list[str]:
    return [array.tobytes().decode("utf-8") for array in arrays]
