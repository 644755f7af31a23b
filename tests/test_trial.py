"""Trials and measurements as values, and the seeds derived from names."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from tlbench.errors import FailureKind, StoreError
from tlbench.measurement import SCHEMA, Epoch, Failure, Measurement, Status
from tlbench.seeds import derive_seed, hash_order
from tlbench.trial import Job, Reference, Trial, canonical_json

TRIAL = Trial(
    backbone=Reference(name="zoo/net", version=1),
    strategy=Reference(name="zoo/full", version=2),
    dataset=Reference(name="zoo/photos", version=3),
    declared=({"base": "zoo/base", "options": {"width": 0.5}},),
    weights="sha256:00",
    preprocess={"size": [8, 8], "mean": [0.5, 0.5, 0.5]},
    fingerprint="f0",
    split_seed=0,
    shots=None,
    params={"learning_rate": 0.001, "pool": "native", "patience": None},
    seed=0,
    metric="accuracy",
    epochs=3,
    fraction=1.0,
    stage="search",
    evaluator=1,
)
OTHER: dict[str, Any] = {
    "backbone": Reference(name="zoo/net", version=2),
    "strategy": Reference(name="zoo/part", version=2),
    "dataset": Reference(name="zoo/photos", version=4),
    "declared": ({"base": "zoo/base", "options": {"width": 0.25}},),
    "weights": "sha256:01",
    "preprocess": {"size": [8, 8], "mean": [0.5, 0.5, 0.4]},
    "fingerprint": "f1",
    "split_seed": 1,
    "shots": 10,
    "params": {"learning_rate": 0.002, "pool": "native", "patience": None},
    "seed": 1,
    "metric": "nll",
    "epochs": 4,
    "fraction": 0.5,
    "fold": 1,
    "stage": "final",
    "evaluator": 2,
}


def measurement(status: Status = "complete", failure: Failure | None = None) -> Measurement:
    return Measurement(
        trial=TRIAL,
        status=status,
        failure=failure,
        scores={"search": {"accuracy": 0.5, "top5_accuracy": None, "confusion": [[1, 0], [0, 1]]}},
        curve=(Epoch(epoch=1, train_loss=0.25, search_score=0.5, elapsed_s=1.0),),
        counts={"train": 90},
        provenance={"machine": {"host": "abacus"}},
    )


def failed(kind: FailureKind) -> Measurement:
    return measurement("failed", Failure(kind=kind, stage="train", type="ValueError", message="no"))


def test_every_field_is_in_the_key() -> None:
    assert OTHER.keys() == {field.name for field in fields(Trial)}
    keys = {replace(TRIAL, **{name: value}).key for name, value in OTHER.items()}
    assert len(keys | {TRIAL.key}) == len(OTHER) + 1


def test_the_key_is_the_same_for_ever() -> None:
    """A key that moves makes every stored result a stranger: whoever changes this raises the store's schema."""
    assert TRIAL.key == Job(trial=TRIAL, keep_model_above=0.5).key
    assert TRIAL.key == "3da0cfa25d6102d6"


def recipe(rate: float, **changes: Any) -> Trial:
    return replace(TRIAL, params={"learning_rate": rate}, **changes)


def test_a_job_of_many_has_a_key_of_all_its_trials_in_their_order() -> None:
    one, two, three = (recipe(rate) for rate in (0.1, 0.2, 0.3))
    job = Job(trial=one, more=(two, replace(three, seed=9, strategy=Reference(name="zoo/part", version=1))))
    assert job.trials == (one, *job.more)
    assert len(job.key) == 16
    keys = {Job(trial=one).key, Job(trial=one, more=(two,)).key, Job(trial=two, more=(one,)).key, job.key, two.key}
    assert len(keys) == 5
    assert replace(job, keep_model_above=0.5).key == job.key


@pytest.mark.parametrize("name", OTHER)
def test_a_job_of_many_is_on_one_backbone_and_on_the_same_data(name: str) -> None:
    other = replace(recipe(0.2), **{name: OTHER[name]})
    if name in ("strategy", "params", "seed"):
        assert Job(trial=recipe(0.1), more=(other,)).trials[1] == other
    else:
        with pytest.raises(ValueError, match="strategy, parameters and seed alone"):
            Job(trial=recipe(0.1), more=(other,))


def test_a_job_of_many_holds_every_trial_once_and_neither_finals_nor_screens() -> None:
    with pytest.raises(ValueError, match="twice"):
        Job(trial=recipe(0.1), more=(recipe(0.2), recipe(0.1)))
    for stage in ("final", "screen"):
        trials = [recipe(rate, stage=stage) for rate in (0.1, 0.2)]
        with pytest.raises(ValueError, match=f"stage '{stage}' is a job of its own"):
            Job(trial=trials[0], more=(trials[1],))


def test_order_of_names_and_kind_of_sequence_do_not_change_the_key() -> None:
    turned = {name: TRIAL.params[name] for name in sorted(TRIAL.params, reverse=True)}
    listed: Any = [dict(each) for each in TRIAL.declared]
    assert replace(TRIAL, params=turned, declared=listed).key == TRIAL.key


def test_a_trial_survives_json() -> None:
    stored = json.loads(json.dumps(measurement().to_json()))["trial"]
    assert Trial.from_json(stored).key == TRIAL.key
    assert Trial.from_json(stored).strategy == TRIAL.strategy


def test_canonical_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'


@pytest.mark.parametrize("value", [measurement(), failed("oom"), measurement("pruned")])
def test_a_measurement_survives_json(value: Measurement) -> None:
    read = Measurement.from_json(json.loads(json.dumps(value.to_json())))
    assert (read.key, read.status, read.failure, read.curve) == (value.key, value.status, value.failure, value.curve)
    assert json.dumps(read.to_json()) == json.dumps(value.to_json())


def test_a_newer_schema_and_a_wrong_key_are_refused() -> None:
    value = measurement().to_json()
    with pytest.raises(StoreError, match=f"schema {SCHEMA + 1}"):
        Measurement.from_json({**value, "schema": SCHEMA + 1})
    with pytest.raises(StoreError, match="does not fit"):
        Measurement.from_json({**value, "trial": {**value["trial"], "seed": 5}})


def test_what_answers_its_question() -> None:
    answering = {status: measurement(status).answers for status in get_args(Status) if status != "failed"}
    assert answering == {"complete": True, "pruned": False, "excluded": True}
    kinds = {kind: failed(kind).answers for kind in get_args(FailureKind)}
    assert kinds == {"error": True, "diverged": True, "oom": True, "timeout": True, "infrastructure": False}


def test_unknown_scores_are_none() -> None:
    value = measurement()
    assert value.score("search", "accuracy") == 0.5
    assert [value.score("search", "top5_accuracy"), value.score("test", "accuracy")] == [None, None]


def test_a_row_is_flat_and_keeps_whole_what_is_no_scalar() -> None:
    row = measurement().row()
    assert row["trial_backbone_name"] == "zoo/net"
    assert row["trial_params"] == TRIAL.params
    assert row["scores_search_accuracy"] == 0.5
    assert row["scores_search_confusion"] == [[1, 0], [0, 1]]
    assert row["provenance_machine_host"] == "abacus"
    assert failed("oom").row()["failure_kind"] == "oom"


def test_a_seed_depends_on_every_name_and_on_where_names_end() -> None:
    names = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), (0, "order"), (1, "order"), (0, "dropout")]
    seeds = [derive_seed(*each) for each in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "order") == 7587320288093301805  # printf '0\x1forder' | sha256sum, the first 63 bits


def test_deriving_a_seed_moves_no_generator() -> None:
    before = random.getstate()
    derive_seed(0, "order")
    assert random.getstate() == before


def test_hash_order_follows_the_ids_and_not_their_order() -> None:
    ids = [f"photo/{number}" for number in range(50)]
    chosen = [ids[index] for index in hash_order(ids, "subset", 0)]
    assert sorted(chosen) == sorted(ids)
    assert chosen != ids
    turned = ids[::-1]
    assert [turned[index] for index in hash_order(turned, "subset", 0)] == chosen
    half = ids[::2]
    assert [half[index] for index in hash_order(half, "subset", 0)] == [name for name in chosen if name in half]
    assert [ids[index] for index in hash_order(ids, "subset", 1)] != chosen
