"""Training: the loop against references, and what must not move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pieces
import tiny
from tlbench.components import Preprocess, Split
from tlbench.errors import TrialFailure
from tlbench.evaluation import train as training_module
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.device import BATCH_ELEMENTS
from tlbench.evaluation.freezing import FrozenState, tensor_digest
from tlbench.evaluation.predict import predict


def state(model: torch.nn.Module) -> dict[str, str]:
    return {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()}


def test_it_learns() -> None:
    _, run = pieces.run(tiny.Full(), epochs=20, batch_norm="training")
    assert run.curve[-1].train_loss < run.curve[0].train_loss
    assert max(point.search_score for point in run.curve) > 0.8


def test_same_seed_same_result_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (one, first), (two, second) = pieces.run(tiny.Full()), pieces.run(tiny.Full())
    assert torch.equal(before, torch.get_rng_state())
    assert state(one) == state(two)
    assert np.array_equal(first.validation_logits, second.validation_logits)
    assert state(pieces.run(tiny.Full(), seed=1)[0]) != state(one)


def test_learning_rate_0_changes_nothing() -> None:
    """Metamorphic invariant of the oracles: with rate 0 the model stays what it was."""
    untouched = pieces.model(learning_rate=0.0)
    trained, run = pieces.run(tiny.Full(), learning_rate=0.0)
    assert state(trained) == state(untouched)
    assert len({point.search_score for point in run.curve}) == 1


@pytest.mark.parametrize("batch_norm", ["frozen", "training"])
def test_frozen_means_frozen_parameters_and_buffers(batch_norm: str) -> None:
    """Pitfall 7: batch-norm buffers of a frozen backbone must not move either."""
    untouched = state(pieces.model(tiny.Head()))
    trained, run = pieces.run(tiny.Head(), batch_norm=batch_norm)
    moved = {name for name, digest in state(trained).items() if digest != untouched[name]}
    assert moved == {"head.weight", "head.bias"}
    assert run.frozen["parameters_changed"] is False
    assert run.frozen["buffers_changed"] is False
    assert run.frozen["parameters_checked"] == 8
    assert run.frozen["buffers_checked"] == 6


def test_batch_norm_statistics_are_a_parameter() -> None:
    untouched = state(pieces.model())
    for batch_norm, moves in (("frozen", False), ("training", True)):
        trained, run = pieces.run(tiny.Full(), batch_norm=batch_norm)
        after = state(trained)
        assert (after["backbone.stem.1.running_mean"] != untouched["backbone.stem.1.running_mean"]) is moves
        assert run.frozen["buffers_changed"] is False


def test_the_freeze_check_sees_a_strategy_that_lies() -> None:
    model = pieces.model(tiny.Head())
    model.backbone.requires_grad_(False)
    frozen = FrozenState(model, "frozen")
    assert frozen.changes()["parameters_changed"] is False
    with torch.no_grad():
        model.backbone.stem[0].weight[0, 0, 0, 0] += 1e-6
        model.backbone.stem[1].running_var[3] += 1e-6
    assert frozen.changes()["parameters_changed"] is True
    assert frozen.changes()["buffers_changed"] is True


def test_gradual_unfreezing_moves_the_backbone_from_its_epoch_on() -> None:
    untouched = state(pieces.model())
    one, _ = pieces.run(tiny.Thaw(), epochs=1)
    assert state(one)["backbone.stem.0.weight"] == untouched["backbone.stem.0.weight"]
    two, run = pieces.run(tiny.Thaw(), epochs=2)
    if run.best_epoch == 2:
        assert state(two)["backbone.stem.0.weight"] != untouched["backbone.stem.0.weight"]


def test_micro_batches_give_the_gradient_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = pieces.run(tiny.Full(), batch_size=30, dropout=0.0)
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", 10 * 3 * tiny.SIZE**2)
    split, run = pieces.run(tiny.Full(), batch_size=30, dropout=0.0)
    assert run.micro_batch == 10
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_micro_batch_is_the_largest_divisor_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for fits, expected in ((1, 1), (3, 3), (5, 4), (7, 6), (100, 12)):
        monkeypatch.setitem(BATCH_ELEMENTS, "cpu", fits * 3 * tiny.SIZE**2)
        assert pieces.run(tiny.Full(), epochs=1, batch_size=12)[1].micro_batch == expected
        assert pieces.run(tiny.Full(), epochs=1, batch_size=12, batch_norm="training")[1].micro_batch == 12
    assert pieces.run(tiny.Full(), epochs=1, batch_size=12, batch_norm="training", micro_batch=3)[1].micro_batch == 3


def test_out_of_memory_halves_the_micro_batch_and_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = pieces.run(tiny.Full(), batch_size=16)
    real = functional.cross_entropy

    def scarce(logits: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        if len(logits) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no memory")
        return real(logits, *rest, **options)

    monkeypatch.setattr(functional, "cross_entropy", scarce)
    got, run = pieces.run(tiny.Full(), batch_size=16)
    assert run.micro_batch == 4
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    with pytest.raises(TrialFailure) as caught:
        pieces.run(tiny.Full(), batch_size=16, batch_norm="training")
    assert caught.value.kind == "oom"


def test_a_loss_that_is_not_finite_diverged() -> None:
    with pytest.raises(TrialFailure) as caught:
        pieces.run(tiny.Diverges())
    assert caught.value.kind == "diverged"


def test_the_best_epoch_is_restored() -> None:
    trained, run = pieces.run(tiny.Full(), epochs=6, learning_rate=0.3, clip_norm=None)
    best = max(point.search_score for point in run.curve)
    assert run.curve[run.best_epoch - 1].search_score == best
    again = predict(trained, pieces.samples().validation, tiny.Tiny().preprocess, pieces.CPU)
    np.testing.assert_allclose(again, run.validation_logits, rtol=1e-5, atol=1e-5)


def test_patience_and_pruning_stop_the_run() -> None:
    _, run = pieces.run(tiny.Full(), epochs=9, learning_rate=0.0, patience=2)
    assert len(run.curve) == 3
    assert not run.pruned
    _, run = pieces.run(tiny.Full(), epochs=9, report=lambda epoch, score: epoch == 2)
    assert len(run.curve) == 2
    assert run.pruned
    _, run = pieces.run(tiny.Full(), epochs=2, report=lambda epoch, score: epoch == 2)
    assert not run.pruned


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sgd"},
        {"augmentation": "rand", "mixup": 0.2, "cutmix": 1.0},
        {"augmentation": "trivial", "clip_norm": None, "dropout": 0.3},
        {"channels_last": True, "warmup": 0.5},
        {"pool": "avg+max", "batch_size": 64},
        {"batch_size": 1},
    ],
)
def test_every_option_of_the_recipe_trains(changes: dict[str, object]) -> None:
    _, run = pieces.run(tiny.Full(), epochs=2, **changes)
    assert len(run.curve) == 2
    assert all(np.isfinite(point.train_loss) for point in run.curve)


def test_mixed_precision_stays_close() -> None:
    """bfloat16 autocast changes logits a little and the outcome hardly."""
    half = pieces.Compute(device=torch.device("cpu"), dtype=torch.bfloat16, threads=1)
    _, exact = pieces.run(tiny.Full(), epochs=4)
    _, run = pieces.run(tiny.Full(), epochs=4, compute=half)
    assert not np.array_equal(run.validation_logits, exact.validation_logits)
    assert abs(run.curve[-1].search_score - exact.curve[-1].search_score) < 0.2


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    """90 samples in batches of 89: batch statistics of a single sample do not exist."""
    _, run = pieces.run(tiny.Full(), epochs=1, batch_size=89, batch_norm="training")
    assert run.steps == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 89}, [90]),
        ({"batch_size": 45, "micro_batch": 11}, [11, 11, 11, 12] * 2),
        ({"batch_size": 89, "micro_batch": 89}, [90]),
        ({"batch_size": 45, "micro_batch": 1}, [*[2] * 21, 3] * 2),
        ({"batch_size": 89, "batch_norm": "frozen"}, [89, 1]),
    ],
)
def test_no_sample_goes_alone_through_a_batch_norm_that_trains(
    changes: dict[str, Any], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statistics would be of one sample, and torch refuses those where features have no positions."""
    seen: list[int] = []
    real = tiny.Net.forward_features

    def watch(self: tiny.Net, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(len(x))
        return real(self, x)

    monkeypatch.setattr(tiny.Net, "forward_features", watch)
    pieces.run(tiny.Full(), epochs=1, **{"batch_norm": "training", **changes})
    assert seen == expected


def test_batch_1_and_batch_n_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 21: a score must not depend on the evaluation batch size; every sample exactly once (pitfall 19)."""
    model, of, preprocess = pieces.model(), pieces.samples(), tiny.Tiny().preprocess
    together = predict(model, of.validation, preprocess, pieces.CPU)
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", 1)
    alone = predict(model, of.validation, preprocess, pieces.CPU)
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", 7 * 3 * tiny.SIZE**2)
    sevens = predict(model, of.validation, preprocess, pieces.CPU)
    assert together.shape == (60, 3)
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sevens, together, rtol=1e-5, atol=1e-6)


def test_features_are_what_the_head_sees() -> None:
    model, of, preprocess = pieces.model(), pieces.samples(), tiny.Tiny().preprocess
    views = pieces.features(model, ["native", "avg", "max"], of.validation, preprocess)
    torch.testing.assert_close(views["native"], views["avg"])
    logits = model.head(views["native"]).detach().numpy()
    np.testing.assert_allclose(logits, predict(model, of.validation, preprocess, pieces.CPU), rtol=1e-5, atol=1e-6)


@final
class _Words(Preprocess):
    """Samples of different length: token ids, padded with zeros."""

    identity: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.widths: list[int] = []

    def prepare(self, sample: Any) -> np.ndarray:
        return np.asarray(sample, np.int32)

    def batch(self, arrays: Any, params: Any, training: bool, generator: Any, device: Any) -> Any:
        tensors = [torch.from_numpy(array) for array in arrays]
        ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(tensor) for tensor in tensors], batch_first=True)
        self.widths.append(ids.shape[1])
        return {"input_ids": ids, "attention_mask": mask}

    def example(self) -> np.ndarray:
        return np.ones(4, np.int32)


class _Sums(nn.Module):
    """One logit per sample: the sum of its tokens; the other is zero."""

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        total = (inputs["input_ids"] * inputs["attention_mask"]).sum(1).float()
        return torch.stack([total, torch.zeros_like(total)], dim=1)


def test_samples_of_different_length_are_predicted_in_their_order_and_go_together_by_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 300)
    texts = [np.full(length, 1 + index % 7) for index, length in enumerate(lengths)]
    ids = [f"{index:03}" for index in range(300)]
    split = Split(ids, [0] * 300, ("a", "b"), texts)
    preprocess = _Words()
    monkeypatch.setitem(BATCH_ELEMENTS, "cpu", 400)
    logits = predict(_Sums(), Prepared(as_part(split, "test"), preprocess), preprocess, pieces.CPU)
    np.testing.assert_array_equal(logits[:, 0], [text.sum() for text in texts])
    padded = sum(width * min(300, 400 // width) for width in preprocess.widths)
    assert padded < 1.3 * lengths.sum(), "sorted by size, little is padded"
    assert len(preprocess.widths) < 60


def test_what_goes_on_training_keeps_its_moments() -> None:
    """AdamW counts the steps of every parameter: a new optimiser with old state does not begin again."""
    steps: list[dict[str, float]] = []
    real = training_module.set_rate

    def watch(optimiser: torch.optim.Optimizer, *rest: Any) -> None:
        state = {id(parameter): float(of["step"]) for parameter, of in optimiser.state.items()}
        groups = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        steps.append({str(tuple(parameter.shape)): state.get(id(parameter), 0.0) for parameter in groups})
        real(optimiser, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "set_rate", watch)
        pieces.run(tiny.Thaw(), epochs=2, batch_size=45)
    head, stem = "(3, 16)", "(8, 3, 3, 3)"
    assert [step[head] for step in steps] == [0, 1, 2, 3]
    assert [step.get(stem) for step in steps] == [None, None, 0, 1]
