"""Every strategy of `basic` in full on a miniature of every kind, from the catalog's names to the saved model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

import pieces
from fabricated import fabricate
from tlbench.benchmark import Benchmark, Search
from tlbench.catalog import Catalog
from tlbench.evaluation.evaluate import Evaluator
from tlbench.evaluation.saved import load_model
from tlbench.measurement import Measurement
from tlbench.plugins import discover
from tlbench.search.survey import Survey
from tlbench.store import Store
from tlbench.strategies import Strategy
from tlbench.trial import Job

pytestmark = pytest.mark.long

KINDS = ("resnet", "vgg", "inception", "efficientnet", "vit", "bert", "gpt2")
STRATEGIES = tuple(entry.full_name for entry in Catalog(discover()).registered("strategy") if entry.plugin == "basic")
LACKING = {
    ("norm-only", "vgg"): "normalisation",
}
"""What a strategy has nothing to train in, and the word of the reason."""


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def measured(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[tuple[str, str], Any]]:
    """A final of every strategy on every kind, by their names."""
    compute = replace(pieces.CPU, device=torch.device(request.param))
    with pytest.MonkeyPatch.context() as patch:
        site = tmp_path_factory.mktemp("site")
        fabricate(site, "mini", (Path(__file__).parent / "miniatures.py").read_text())
        patch.syspath_prepend(site)
        benchmark = Benchmark(
            name="miniatures",
            backbones=("mini/*",),
            strategies=STRATEGIES,
            datasets=("mini/images", "mini/texts"),
            search=Search(epochs=2),
        )
        catalog, store = Catalog(discover(), benchmark), Store(tmp_path_factory.mktemp("results"))
        evaluator, survey = Evaluator(catalog, store, compute, {}), Survey(benchmark, catalog, False)
        found = {}
        for arm in (arm for data in survey.datasets for arm in survey.arms(data)):
            params = {**arm.defaults(), "batch_size": 16} if not arm.component.frozen else arm.defaults()
            trial = arm.trial(params, stage="final", seed=0, epochs=2, metric="accuracy", evaluator=1)
            (result,) = evaluator.evaluate(Job(trial=trial), lambda epoch, score: False)
            key = (trial.strategy.name.partition("/")[2], trial.backbone.name.partition("/")[2])
            found[key] = (result, store, arm.component)
        yield found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", [name.partition("/")[2] for name in STRATEGIES])
def test_it_runs_and_what_is_frozen_stays(measured: dict[tuple[str, str], Any], strategy: str, kind: str) -> None:
    result: Measurement
    component: Strategy
    result, _, component = measured[strategy, kind]
    if (strategy, kind) in LACKING:
        assert result.failure is not None
        assert LACKING[strategy, kind] in result.failure.message
        return
    assert result.status == "complete", result.failure
    assert result.frozen["parameters_changed"] is False
    assert result.frozen["buffers_changed"] is False
    assert result.counts["test_evaluated"] == 18
    assert result.counts["parameters_trainable"] <= result.counts["parameters_total"] * 1.5
    if not component.frozen:
        assert all(np.isfinite(point.train_loss) for point in result.curve)


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_models_say_what_was_measured(measured: dict[tuple[str, str], Any], kind: str) -> None:
    """Merged, rebuilt and read back: the same answers to the same raw test samples."""
    for (strategy, of), (result, store, _) in measured.items():
        if of != kind or result.status != "complete":
            continue
        predictions = store.predictions(result.key)
        tested = np.array(predictions.split) == "test"
        samples = Catalog(discover()).dataset(result.trial.dataset.name).component.load_test(0)
        by_id = {identifier: samples[index] for index, identifier in enumerate(samples.ids)}
        raw = [by_id[identifier] for identifier in np.array(predictions.sample_id)[tested]]
        expected = softmax(predictions.logits[tested].astype(np.float64), axis=1)
        np.testing.assert_allclose(load_model(store.model_path(result.key))(raw), expected, atol=5e-3, err_msg=strategy)
