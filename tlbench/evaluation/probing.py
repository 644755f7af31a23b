"""Probing: many configurations of frozen strategies, fitted in one computation on one backbone's features."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from torch import nn

from tlbench.catalog import Catalog, Entry
from tlbench.errors import BenchmarkError, UnknownNameError
from tlbench.evaluation.bundle import logits_of
from tlbench.evaluation.fitting import Fitted, Fitting
from tlbench.evaluation.model import check_offers
from tlbench.spaces import Params, resolve
from tlbench.strategies import FrozenStrategy
from tlbench.trial import Reference


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A trial that is to be answered together with others on the same data."""

    fitting: Fitting
    strategy: FrozenStrategy

    @property
    def view(self) -> str:
        """The features it is fitted on."""
        pool: str = self.fitting.trial.params["pool"]
        return pool

    @property
    def params(self) -> Params:
        """Its configuration."""
        return self.fitting.trial.params

    @property
    def company(self) -> Hashable:
        """What those have in common that one call of a strategy fits."""
        return self.fitting.trial.strategy, self.fitting.trial.seed

    @property
    def weights(self) -> Hashable:
        """What those have in common that look at the same features: random weights are their seed's."""
        return None if self.strategy.pretrained else self.fitting.trial.seed

    def check(self) -> None:
        """Refuse what only this one would fail of: `BenchmarkError` for features that the backbone does not have."""
        check_offers(self.fitting.backbone, resolve(self.params))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Failed:
    """Why a candidate has no model."""

    stage: str
    error: BaseException


Outcome = Fitted | Failed


def frozen_strategy(catalog: Catalog, strategy: Reference) -> Entry | Exception:
    """A strategy that fits heads on features, or why there is none."""
    try:
        entry = catalog.strategy(strategy.name)
    except UnknownNameError as error:
        return error
    if isinstance(entry.component, FrozenStrategy):
        return entry
    return BenchmarkError(f"strategy '{strategy.name}' fits no head on features: each of its trials is a job")


def probe(candidates: Sequence[Candidate]) -> list[Outcome]:
    """What becomes of every candidate: all views in one pass, each strategy called once, logits together.

    What goes wrong with one strategy or configuration is its own failure. Each candidate's `train_s` is its share of
    the seconds of all fits.
    """
    groups: dict[Hashable, dict[int, Candidate]] = {}
    for place, candidate in enumerate(candidates):
        groups.setdefault(candidate.weights, {})[place] = candidate
    probings = [_Probing(candidates=group) for group in groups.values()]
    for probing in probings:
        probing.compute()
    share_s = sum(probing.fit_s for probing in probings) / len(candidates)
    found = {place: outcome for probing in probings for place, outcome in probing.outcomes(share_s).items()}
    return [found[place] for place in range(len(candidates))]


@dataclass(kw_only=True, eq=False)
class _Probing:
    """Candidates that look at the same features, by their place among all."""

    candidates: Mapping[int, Candidate]
    failed: dict[int, Failed] = field(default_factory=dict)
    heads: dict[int, nn.Module] = field(default_factory=dict)
    logits: dict[int, np.ndarray] = field(default_factory=dict)
    fit_s: float = 0.0

    def compute(self) -> None:
        """Features, heads, logits."""
        for place, candidate in self.candidates.items():
            try:
                candidate.check()
            except (Exception, SystemExit) as error:
                self._fail(place, "features", error)
        if left := self._left():
            self._look(left)
        if left := self._left():
            self._fit(left)
            self._predict()

    def outcomes(self, train_s: float) -> dict[int, Outcome]:
        """By place; `train_s` is what each is to be charged."""
        found: dict[int, Outcome] = dict(self.failed)
        for place, logits in self.logits.items():
            fitting, pretrained = self.candidates[place].fitting, self.candidates[place].strategy.pretrained
            try:
                found[place] = fitting.fitted(self.heads[place], logits, self._features, pretrained, train_s)
            except (Exception, SystemExit) as error:
                found[place] = Failed(stage="train", error=error)
        return found

    def _left(self) -> dict[int, Candidate]:
        return {place: each for place, each in self.candidates.items() if place not in self.failed}

    def _fail(self, place: int, stage: str, error: BaseException) -> None:
        self.failed[place] = Failed(stage=stage, error=error)

    def _look(self, candidates: Mapping[int, Candidate]) -> None:
        """Compute the features of all views in one pass, or find them."""
        first = next(iter(candidates.values()))
        views = list(dict.fromkeys(candidate.view for candidate in candidates.values()))
        try:
            self._features = first.fitting.features(views, first.strategy.pretrained)
        except (Exception, SystemExit) as error:
            for place in candidates:
                self._fail(place, first.fitting.stage, error)

    def _fit(self, candidates: Mapping[int, Candidate]) -> None:
        """Let every strategy fit its configurations together; where that fails, one by one, to tell the guilty."""
        start, companies = time.monotonic(), dict[Hashable, list[int]]()
        for place, candidate in candidates.items():
            companies.setdefault(candidate.company, []).append(place)
        for places in companies.values():
            if not self._fitted(places) and len(places) > 1:
                for place in places:
                    self._fitted([place])
        self.fit_s = time.monotonic() - start

    def _fitted(self, places: Sequence[int]) -> bool:
        """Whether the strategy of these candidates fitted them; a single one that it did not has failed."""
        chosen = [self.candidates[place] for place in places]
        try:
            heads = chosen[0].fitting.heads(chosen[0].strategy, self._features, [each.params for each in chosen])
        except (Exception, SystemExit) as error:
            if len(places) == 1:
                self._fail(places[0], "train", error)
            return False
        self.heads.update(zip(places, heads, strict=True))
        return True

    def _predict(self) -> None:
        """Validation logits, those of a view together."""
        for view in dict.fromkeys(self.candidates[place].view for place in self.heads):
            places = [place for place in self.heads if self.candidates[place].view == view]
            outputs = logits_of([self.heads[place] for place in places], self._features.validation[view])
            for place, output in zip(places, outputs, strict=True):
                if isinstance(output, BaseException):
                    self._fail(place, "train", output)
                else:
                    self.logits[place] = output
