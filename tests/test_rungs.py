"""Training in rungs: what is paused and resumed ends bit for bit where a run from the start ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import checkpoints
import pieces
import tiny
from tlbench import caches
from tlbench.catalog import Catalog
from tlbench.components import Split
from tlbench.evaluation import train as training_module
from tlbench.evaluation.data import Prepared, as_part
from tlbench.evaluation.device import Compute
from tlbench.evaluation.disk import Disk
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.freezing import FrozenState, tensor_digest
from tlbench.evaluation.model import Classifier, build
from tlbench.evaluation.order import Order
from tlbench.evaluation.run import Run, Task
from tlbench.evaluation.snapshot import Moving, Snapshot
from tlbench.evaluation.states import States
from tlbench.measurement import Measurement, Predictions
from tlbench.plugins import discover
from tlbench.spaces import Params, resolve
from tlbench.store import Store
from tlbench.strategies import ParameterGroup, TrainedStrategy
from tlbench.trial import Job, Reference, Trial

pytestmark = pytest.mark.long

RUNGS = (1, 3, 9)
STEPS = 6
"""Of an epoch: 90 samples in batches of 16."""

PAUSES = {1: 4, 3: 12, 9: 36}
"""By the epochs of a rung: where the last third of its steps begins."""


@final
class Pulled(tiny._Everything):
    """Fine-tuning with a penalty on the way from the start, which is remembered outside of the model's tensors."""

    name = "pulled"
    summary = "held near the start"

    def adapt(self, model: Any, params: Params) -> Sequence[ParameterGroup]:
        model.start = [parameter.detach().clone() for parameter in model.parameters()]
        return [ParameterGroup(list(model.head.parameters()), 10.0), ParameterGroup(list(model.backbone.parameters()))]

    def penalty(self, model: Any, params: Params) -> Tensor:
        pairs = zip(model.parameters(), model.start, strict=True)
        return torch.stack([(now - before).square().sum() for now, before in pairs]).sum()


def train(epochs: int, states: States | None, strategy: TrainedStrategy | None = None, **changes: Any) -> Any:
    recipe = {"schedule": "wsd", **changes}
    return pieces.run(strategy or tiny.Full(), epochs=epochs, states=states, **recipe)


def outcome(model: nn.Module, run: Run) -> dict[str, Any]:
    """All of a run that is to be the same, however it came about."""
    assert run.validation_logits is not None
    return {
        "weights": {name: tensor_digest(tensor) for name, tensor in model.state_dict().items()},
        "logits": run.validation_logits.tobytes(),
        "curve": [(point.epoch, point.train_loss, point.search_score) for point in run.curve],
        "counts": (run.steps, run.samples_seen, run.micro_batch, run.flops, run.epochs),
        "frozen": run.frozen,
    }


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rate's factor at every step that is computed."""
    computed: list[float] = []
    real = training_module.set_rate

    def watch(optimiser: torch.optim.Optimizer, factor: float) -> None:
        computed.append(factor)
        real(optimiser, factor)

    monkeypatch.setattr(training_module, "set_rate", watch)
    return computed


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.4},
    "augmentation": {"augmentation": "rand", "mixup": 0.2, "cutmix": 1.0},
    "statistics": {"batch_norm": "training"},
    "layout": {"channels_last": True, "batch_norm": "training"},
    "sgd": {"optimiser": "sgd", "channels_last": True},
    "micro-batches": {"micro_batch": 5, "dropout": 0.1},
    "long warm-up": {"warmup": 1.0},
    "all": {
        "optimiser": "sgd",
        "dropout": 0.2,
        "augmentation": "trivial",
        "mixup": 1.0,
        "batch_norm": "training",
        "clip_norm": None,
    },
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_each_rung_is_what_it_would_be_from_the_start(changes: dict[str, Any], steps: list[float]) -> None:
    states = States({"of": "this test"}, Disk())
    for epochs, resumed in ((1, 0), (1, STEPS), (3, PAUSES[1]), (9, PAUSES[3]), (9, 9 * STEPS), (3, 3 * STEPS)):
        expected = outcome(*train(epochs, None, **changes))
        del steps[:]
        model, run = train(epochs, states, **changes)
        assert outcome(model, run) == expected
        assert (run.steps_resumed, len(steps)) == (resumed, epochs * STEPS - resumed)
    for ended in states.at_end(STEPS):
        states.put(STEPS, replace(ended, facts={**ended.facts, "groups": []}), ended=True)
    model, run = train(1, states, **changes)
    assert run.steps_resumed == PAUSES[1], "within the last epoch, where the end cannot be used"
    assert outcome(model, run) == outcome(*train(1, None, **changes))


def test_a_low_rate_warms_up_in_proportion_sooner(steps: list[float]) -> None:
    for rate, rising in ((3e-4, STEPS), (1e-4, STEPS // 3), (3e-5, 1)):
        del steps[:]
        train(3, None, warmup=0.1, learning_rate=rate)
        assert steps[: rising + 1] == pytest.approx([(step + 1) / (rising + 1) for step in range(rising + 1)])


@pytest.mark.parametrize("strategy", [tiny.Head(), Pulled()], ids=lambda strategy: strategy.name)
def test_whatever_trains(strategy: TrainedStrategy) -> None:
    states = States({"of": "this test"}, Disk())
    for epochs in RUNGS:
        expected = outcome(*train(epochs, None, strategy, dropout=0.3))
        for _ in range(2):
            assert outcome(*train(epochs, states, strategy, dropout=0.3)) == expected
    assert expected["frozen"]["parameters_changed"] is False


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_every_number_format(dtype: torch.dtype) -> None:
    compute = Compute(device=torch.device("cpu"), dtype=dtype, threads=1)
    states = States({"of": "this test"}, Disk())
    for epochs in RUNGS[:2]:
        expected = outcome(*train(epochs, None, compute=compute))
        for _ in range(2):
            assert outcome(*train(epochs, states, compute=compute)) == expected


def test_the_undecayed_state_goes_on_and_the_decayed_one_is_measured(steps: list[float]) -> None:
    states = States({"of": "this test"}, Disk())
    train(1, states, warmup=0.0)
    assert steps == pytest.approx([1, 1, 1, 1, 1, 1 - math.sqrt(1 / 2)])
    del steps[:]
    train(3, states, warmup=0.0)
    assert steps == pytest.approx([*[1.0] * 8, *(1 - math.sqrt(step / 6) for step in range(6))])


def test_there_is_one_point_on_the_curve_and_one_report() -> None:
    reported: list[int] = []
    _, run = train(3, None, report=lambda epoch, score: bool(reported.append(epoch)) or True)
    assert reported == [point.epoch for point in run.curve] == [3]
    assert (run.best_epoch, run.pruned) == (3, False)


def test_a_training_is_left_once_where_it_decays_and_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the decay begins between two epochs, as after 12 steps; not where it was resumed."""
    put: list[tuple[int, bool]] = []
    real = States.put

    def watch(self: States, step: int, state: Snapshot, *, ended: bool = False) -> None:
        put.append((step, ended))
        real(self, step, state, ended=ended)

    monkeypatch.setattr(States, "put", watch)
    states = States({"of": "this test"}, Disk())
    for epochs in (1, 3, 3, 9):
        train(epochs, states)
    assert put == [(4, False), (6, True), (12, False), (18, True), (36, False), (54, True)]


def test_what_has_ended_is_kept_without_what_the_optimiser_remembers() -> None:
    states = States({"of": "this test"}, Disk())
    train(1, states)
    (paused,), (ended,) = states.before(PAUSES[1]), states.at_end(STEPS)
    assert {name for name in paused.tensors if not name.startswith("optimiser ")} == set(ended.tensors)
    assert any(name.startswith("optimiser ") for name in paused.tensors)


def test_a_training_that_is_found_ended_is_validated_and_keeps_its_cost() -> None:
    """Pitfall: a resumed run that looks cheaper than it was."""
    states = States({"of": "this test"}, Disk())
    _, first = train(3, states)
    _, again = train(3, states)
    for name in ("train_s", "first_step_s", "samples_seen", "first_step_samples", "samples_per_s", "flops"):
        assert getattr(again, name) == getattr(first, name), name
    assert again.validation_s > 0
    assert again.curve[0].elapsed_s >= first.train_s


def test_where_no_state_is_wanted_none_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    states = States({"of": "this test"}, Disk())
    train(1, states)
    monkeypatch.setattr(Moving, "snapshot", None)
    _, run = train(3, States({"of": "this test"}, Disk(), writes=False))
    assert run.steps_resumed == PAUSES[1]
    assert len(list(states.before(PAUSES[3]))) == 1


def test_a_state_from_beyond_the_decay_s_beginning_is_of_no_use() -> None:
    states = States({"of": "this test"}, Disk())
    train(9, states)
    model, run = train(3, states)
    assert outcome(model, run) == outcome(*train(3, None))
    assert run.steps_resumed == 0


def test_what_was_resumed_keeps_its_cost() -> None:
    """Pitfall: a resumed run that looks cheaper than it was."""
    states = States({"of": "this test"}, Disk())
    train(3, states)
    (state,) = states.before(PAUSES[3])
    _, run = train(9, states)
    assert run.train_s > state.counters["train_s"] > 0
    assert run.first_step_s > state.counters["first_step_s"] > 0
    assert (run.samples_seen, run.first_step_samples) == (9 * 90, 2 * 16), "each run has a first step"
    assert run.curve[0].elapsed_s > state.counters["elapsed_s"] > 0
    assert 0 < run.validation_s < run.curve[0].elapsed_s


def test_moments_are_laid_out_in_memory_as_they_were() -> None:
    """In another layout kernels may round in another way."""
    taken = _moving(channels_last=True, optimiser="sgd")
    for parameter in taken.model.parameters():
        taken.optimiser.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)
    resumed = _moving(channels_last=True, optimiser="sgd")
    assert resumed.restore(taken.snapshot({}))
    pairs = list(zip(taken.model.parameters(), resumed.model.parameters(), strict=True))
    for one, other in pairs:
        before, after = (each.optimiser.state[of] for each, of in ((taken, one), (resumed, other)))
        assert torch.equal(before["momentum_buffer"], after["momentum_buffer"])
        assert before["momentum_buffer"].stride() == after["momentum_buffer"].stride()
    assert any(not parameter.is_contiguous() for parameter, _ in pairs)


def test_half_the_micro_batch_stays_half() -> None:
    """A run that met the end of the memory goes on as it went on then."""
    states = States({"of": "this test"}, Disk())
    train(1, states)
    (state,) = states.before(PAUSES[1])
    states.put(PAUSES[1], replace(state, facts={**state.facts, "counters": {**state.counters, "most_rows": 4}}))
    assert train(3, states)[1].micro_batch == 4


def test_a_state_of_another_training_is_left_alone() -> None:
    others: list[dict[str, Any]] = [{"strategy": tiny.Head()}, {"learning_rate": 1e-4}, {"strategy": Pulled()}]
    expected = outcome(*train(3, None))
    for number, other in enumerate(others):
        states = States({"of": number}, Disk())
        train(1, states, **other)
        model, run = train(3, states)
        assert run.steps_resumed == 0
        assert outcome(model, run) == expected


def test_only_what_moves_is_kept() -> None:
    """Weights that a strategy freezes are those of the backbone: no state repeats them."""
    kept: dict[str, set[str]] = {}
    for name, strategy, batch_norm in (("head", tiny.Head(), "training"), ("full", tiny.Full(), "training")):
        states = States({"of": name}, Disk())
        train(1, states, strategy, batch_norm=batch_norm)
        (state,) = states.before(PAUSES[1])
        kept[name] = {key.removeprefix("model ") for key in state.tensors if key.startswith("model ")}
    assert kept["head"] == {"head.weight", "head.bias"}
    assert kept["full"] == {name for name, _ in pieces.model().named_parameters()} | {
        f"backbone.{part}.1.{name}"
        for part in ("stem", "body")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_a_buffer_that_nobody_declared_is_seen_to_move() -> None:
    model = pieces.model()
    model.backbone.register_buffer("count", torch.zeros(()), persistent=False)
    frozen = FrozenState(model, "frozen")
    assert "backbone.count" not in frozen.moved()
    model.backbone.get_buffer("count").add_(1)
    assert "backbone.count" in frozen.moved()


@pytest.mark.parametrize(("samples", "size"), [(90, 16), (91, 15), (90, 89), (1, 8), (7, 8), (8, 8), (9, 1)])
def test_every_sample_comes_once_an_epoch_and_every_epoch_can_be_had_again(samples: int, size: int) -> None:
    def first(epochs: int) -> list[list[list[int]]]:
        order = Order(samples, size, seed=3)
        drawn = [
            [batch.tolist() for batch in batches] for batches, _ in zip(order.epochs(), range(epochs), strict=False)
        ]
        assert all(len(batches) == order.batches for batches in drawn)
        return drawn

    assert first(4)[:2] == first(2)
    for batches in first(3):
        assert sorted(chain.from_iterable(batches)) == list(range(samples))
        assert all(len(batch) > 1 for batch in batches) or samples == 1 or size == 1
        assert all(len(batch) == size for batch in batches[:-1])


# Whole jobs


@pytest.fixture
def evaluator(tiny_plugin: Path, tmp_path: Path) -> Evaluator:
    return Evaluator(Catalog(discover()), Store(tmp_path / "store"), pieces.CPU, {})


def trial(epochs: int = 3, **changes: Any) -> Trial:
    recipe = {"schedule": "wsd", "dropout": 0.2, **changes.pop("params", {})}
    return pieces.trial(params=pieces.recipe(tiny.Full(), **recipe), epochs=epochs, **changes)


def measured(evaluator: Evaluator, of: Trial) -> tuple[Measurement, Predictions]:
    (found,) = evaluator.evaluate(Job(trial=of), lambda epoch, score: False)
    assert found.status == "complete", found.failure
    predictions = evaluator.store.predictions(of.key)
    assert predictions is not None
    return found, predictions


def states() -> list[Path]:
    return sorted(caches.root().glob("states/*/*.safetensors"))


def test_a_final_of_the_same_seed_has_nothing_to_train(
    evaluator: Evaluator, steps: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    searched, _ = measured(evaluator, trial())
    del steps[:]
    final, predictions = measured(evaluator, trial(stage="final"))
    assert steps == []
    assert (searched.counts["steps_resumed"], final.counts["steps_resumed"]) == (0, 3 * STEPS)
    assert searched.counts["steps"] == final.counts["steps"] == 3 * STEPS
    assert final.counts["epochs_run"] == final.counts["best_epoch"] == 3
    for name in ("samples_seen", "train_flops"):
        assert searched.cost[name] == final.cost[name] > 0
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "empty"))
    anew, again = measured(evaluator, trial(stage="final"))
    assert anew.counts["steps_resumed"] == 0
    assert anew.scores == final.scores
    np.testing.assert_array_equal(again.logits, predictions.logits)
    assert states() == [], "nothing goes on from a final"


def test_without_a_cache_no_training_is_paused(
    tiny_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLBENCH_CACHE_LIMIT", "0")
    evaluator = Evaluator(Catalog(discover()), Store(tmp_path / "store"), pieces.CPU, {})
    measured(evaluator, trial(epochs=1))
    assert measured(evaluator, trial(epochs=3))[0].counts["steps_resumed"] == 0
    assert not caches.root().exists()


def test_another_seed_recipe_or_data_begins_anew(evaluator: Evaluator) -> None:
    measured(evaluator, trial())
    others = (
        {"seed": 1},
        {"params": {"learning_rate": 1e-3}},
        {"params": {"weight_decay": 0.0}},
        {"fraction": 0.5},
        {"shots": 10},
    )
    for changes in others:
        found, _ = measured(evaluator, trial(9, **changes))
        assert found.counts["steps_resumed"] == 0


def test_a_cosine_is_not_paused_and_says_so(evaluator: Evaluator) -> None:
    for epochs in (1, 3):
        found, _ = measured(evaluator, trial(epochs, params={"schedule": "cosine"}))
        assert found.counts["steps_resumed"] == 0
        assert len(found.curve) == epochs
    assert states() == []


def test_a_strategy_that_is_told_how_many_epochs_there_are_begins_anew(evaluator: Evaluator) -> None:
    """What `begin_epoch` does may depend on it: gradual unfreezing is at another layer after as many steps."""
    thaw = Reference(name="tiny/thaw", version=1)
    for epochs in (1, 3):
        found, _ = measured(evaluator, trial(epochs, strategy=thaw))
        assert (found.counts["steps_resumed"], found.counts["steps"]) == (0, epochs * STEPS)
    assert states() == []


LORA = {"rank": 4, "alpha_ratio": 2, "lora_dropout": 0.3, "targets": "all", "head_learning_rate_scale": 1.0}


def test_additions_are_resumed_with_their_dropout(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changes: Mapping[str, Any] = {
        "strategy": Reference(name="basic/lora", version=1),
        "params": resolve({"schedule": "wsd", "batch_size": 16, "channels_last": True, **LORA}),
    }
    kept = []
    for epochs in RUNGS:
        found, predictions = measured(evaluator, pieces.trial(epochs=epochs, **changes))
        kept.append((found.scores, predictions.logits.tobytes(), found.frozen, found.counts["steps"]))
    assert found.counts["steps_resumed"] == PAUSES[3]
    again, predictions = measured(evaluator, pieces.trial(epochs=9, **changes))
    assert again.counts["steps_resumed"] == 9 * STEPS
    assert predictions.logits.tobytes() == kept[-1][1]
    monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    for epochs, expected in zip(RUNGS, kept, strict=True):
        found, predictions = measured(evaluator, pieces.trial(epochs=epochs, **changes))
        assert found.counts["steps_resumed"] == 0
        assert (found.scores, predictions.logits.tobytes(), found.frozen, found.counts["steps"]) == expected


def test_texts_are_resumed_with_the_dropout_and_the_padding_that_they_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.make("bert", tmp_path / "bert")
    catalog = Catalog(discover())
    backbone = catalog.backbone("transformers/bert").component
    lora = catalog.strategy("basic/lora").component
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(checkpoints.WORDS, length)) for length in random.integers(1, 20, 30)]
    split = Split([f"{number:02}" for number in range(30)], [0, 1, 2] * 10, ("a", "b", "c"), texts)
    params = resolve({"schedule": "wsd", "batch_size": 4, "dropout": 0.1, **LORA})
    outcomes: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for keeps in outcomes:
        states = States({"of": "this test"}, Disk()) if keeps else None
        for epochs in RUNGS:
            prepared = Prepared(as_part(split, "train"), backbone.preprocess)
            task = replace(_task(), strategy=lora, params=params, preprocess=backbone.preprocess, train=prepared)
            task = replace(task, validation=prepared, chooses=np.ones(30, bool), epochs=epochs, states=states)
            model = build(backbone, params, 3, True, 0)
            outcomes[keeps].append(outcome(model, training_module.train(model, task)))
    assert outcomes[True] == outcomes[False]


def test_a_state_of_a_model_of_other_shape_is_not_taken() -> None:
    """As after a plugin's change that nobody raised a version for: nothing is half restored."""
    state, large = _moving().snapshot({}), pieces.model()
    large.backbone.stem[0] = nn.Conv2d(3, 8, 5, padding=2)
    before = {name: tensor_digest(tensor) for name, tensor in large.state_dict().items()}
    assert not _moving(large).restore(state)
    assert {name: tensor_digest(tensor) for name, tensor in large.state_dict().items()} == before


def _moving(model: Classifier | None = None, **changes: Any) -> Moving:
    """Of a training that has not begun yet."""
    return training_module._Training(model or pieces.model(), _task(**changes))._moving


def _task(**changes: Any) -> Task:
    of = pieces.samples()
    return Task(
        strategy=tiny.Full(),
        params=pieces.recipe(tiny.Full(), schedule="wsd", **changes),
        preprocess=tiny.Tiny().preprocess,
        train=of.train,
        validation=of.validation,
        chooses=np.ones(60, bool),
        metric="accuracy",
        classes=3,
        epochs=1,
        seed=0,
        compute=pieces.CPU,
        report=lambda epoch, score: False,
    )
