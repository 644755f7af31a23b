"""Greedy averaging: which epochs are kept, which join, and what stays bit for bit."""

from __future__ import annotations

import numpy as np
import torch

import pieces
import tiny
from tlbench.evaluation.averaging import BestEpochs
from tlbench.evaluation.predict import predict

LOGITS = np.zeros((1, 2), np.float32)


def kept(scores: list[float], most: int, metric: str = "accuracy") -> BestEpochs:
    best = BestEpochs(most, metric)
    for epoch, score in enumerate(scores, 1):
        state = {"weight": torch.tensor([float(epoch)]), "frozen": torch.tensor([0.1]), "steps": torch.tensor(epoch)}
        best.add(epoch, score, LOGITS, lambda state=state: state)  # type: ignore[misc]
    return best


def test_the_best_epochs_are_kept_and_the_earliest_of_equals_comes_first() -> None:
    assert [each.epochs for each in kept([0.1, 0.5, 0.3, 0.5, 0.4], 3).kept] == [(2,), (4,), (5,)]
    assert [each.epochs for each in kept([0.1, 0.5, 0.3], 2, "nll").kept] == [(1,), (3,)]
    assert kept([], 3).kept == []


def test_a_state_is_only_copied_where_it_is_kept() -> None:
    best, copies = BestEpochs(1, "accuracy"), []
    for epoch, score in enumerate([0.5, 0.4, 0.6, 0.6]):
        best.add(epoch, score, LOGITS, lambda epoch=epoch: copies.append(epoch) or {})  # type: ignore[misc, func-returns-value]
    assert copies == [0, 2]


def test_an_epoch_joins_where_it_does_no_harm() -> None:
    """Epochs 2, 4 and 5 are best; the average with 4 is as good, that with 5 as well is worse."""
    scores = {3.0: 0.5, round(11 / 3, 6): 0.4}
    result = kept([0.1, 0.5, 0.3, 0.5, 0.4], 3).averaged(
        lambda state: (scores[round(float(state["weight"]), 6)], LOGITS)
    )
    assert (result.epochs, result.score) == ((2, 4), 0.5)
    assert float(result.state["weight"]) == 3.0


def test_what_is_equal_and_what_counts_stays() -> None:
    result = kept([0.5, 0.5, 0.5], 3).averaged(lambda state: (0.9, LOGITS))
    assert result.epochs == (1, 2, 3)
    assert torch.equal(result.state["frozen"], torch.tensor([0.1])), "a third of three times 0.1 is not 0.1"
    assert int(result.state["steps"]) == 1


def test_a_run_is_never_worse_on_what_chooses() -> None:
    """The averaged model's own score, and the logits that are recorded are its own."""
    _, single = pieces.run(tiny.Full(), epochs=6, learning_rate=0.03)
    model, averaged = pieces.run(tiny.Full(), epochs=6, learning_rate=0.03, average=4)
    assert single.epochs == averaged.epochs[:1]
    labels = pieces.samples().validation.part.labels
    scores = []
    for run in (single, averaged):
        assert run.validation_logits is not None
        scores.append((run.validation_logits.argmax(1) == labels).mean())
    assert scores[1] >= scores[0]
    assert len(averaged.epochs) > 1, "this run has epochs that join"
    again = predict(model, pieces.samples().validation, tiny.Tiny().preprocess, pieces.CPU)
    assert averaged.validation_logits is not None
    np.testing.assert_allclose(again, averaged.validation_logits, rtol=1e-4, atol=1e-5)


def test_a_pruned_run_is_not_averaged() -> None:
    _, run = pieces.run(tiny.Full(), epochs=6, average=4, report=lambda epoch, score: epoch == 3)
    assert run.pruned
    assert len(run.epochs) == 1
