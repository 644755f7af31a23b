"""Looking: the stages that leave backbones as they are, to see which of them are worth training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.book import Question
from tlbench.search.ground import Ground
from tlbench.search.recipes import of_probes
from tlbench.search.screening import Standing, champions, cut, sizes
from tlbench.trial import SCREEN

SHARES = {"screen": 0.1, "probe": 0.2}
"""When a stage ends at the latest, as a part of the time."""

TRAINED = 3
"""Backbones that are trained, the champion of publication aside."""


@final
@dataclass(kw_only=True, eq=False)
class Looking:
    """Screen and probe, and what they tell of the backbones."""

    ground: Ground
    alive: list[str] = field(default_factory=list)
    """Backbones that are still in the contest, the best of the screen first."""

    _standings: dict[str, Standing] = field(default_factory=dict)
    """By backbone, of the last round it was in."""

    def take(self, measurement: Measurement) -> None:
        """Let a look at a backbone count."""
        name, accuracy = measurement.trial.backbone.name, measurement.score("train", "accuracy")
        if measurement.status == "complete" and accuracy is not None:
            samples = int(measurement.counts["train"])
            self._standings[name] = Standing(backbone=name, accuracy=accuracy, samples=samples)

    @property
    def champion(self) -> str | None:
        """The backbone that is best by publication, else by all that was seen; None where none is pretrained."""
        return next(iter([*self._published(), *self.best()]), None)

    def best(self) -> list[str]:
        """The backbones worth training, by probe, else by screen; the best by publication is always among them."""
        best: dict[str, float] = {}
        for told in self.ground.book.whole:
            goodness, name = self.ground.goodness(told.measurement), told.arm.backbone.name
            if told.arm.kind == "frozen" and goodness is not None:
                best[name] = max(best.get(name, goodness), goodness)
        ordered = sorted(self.alive, key=lambda name: (name not in best, -best.get(name, self._accuracy(name)), name))
        return list(
            dict.fromkeys([*ordered[:TRAINED], *(name for name in self._published()[:1] if name in self.alive)])
        )

    def screen(self) -> Iterator[Question | None]:
        """Rounds over ever more samples; a backbone that is clearly behind is in no further one."""
        ground, alive = self.ground, self._by_publication()
        for size in sizes(ground.train_size) if len(alive) > 1 else ():
            ground.begin("screen", f"{len(alive)} backbones on {size} of {ground.train_size} training samples")
            for backbone in alive:
                question, is_first = self._screening(backbone, size), not self._standings
                if not is_first and not ground.fits(question, ground.clock.at(SHARES["screen"])):
                    continue
                yield question
                if is_first:
                    yield from ground.settle()
                    yield from self._first_light(size)
            yield from ground.settle()
            self._drop({name: "there was no time to look at it" for name in alive if name not in self._standings})
            found = [standing for name, standing in self._standings.items() if name in alive]
            decided = cut(found, champions(ground.entrants.facts, found))
            self._drop(decided.dropped)
            alive = list(decided.kept) or alive[:1]
        self.alive = alive

    def probe(self) -> Iterator[Question | None]:
        """Every recipe of every frozen strategy, backbone by backbone."""
        ground, asked = self.ground, 0
        questions = [question for name in self.alive if (question := self._probing(name)) is not None]
        if questions:
            ground.begin("probe", f"{len(questions)} backbones, {len(questions[0].trials)} recipes each")
        for question in questions:
            if not asked or ground.fits(question, ground.clock.at(SHARES["probe"])):
                asked += 1
                yield question
        yield from ground.settle()

    def judge(self) -> None:
        """Note Kendall's tau between the order of the screen and that of the best scores after it."""
        best: dict[str, float] = {}
        for told in self.ground.book.whole:
            goodness, name = self.ground.goodness(told.measurement), told.arm.backbone.name
            if goodness is not None and told.arm.kind != "random" and name in self._standings:
                best[name] = max(best.get(name, goodness), goodness)
        if len(best) > 1:
            from scipy.stats import kendalltau  # a part of every start's time, and needed at the end alone

            tau = float(kendalltau([self._accuracy(name) for name in best], list(best.values())).statistic)
            order = sorted(best, key=lambda name: -self._accuracy(name))
            self.ground.note("screened", tau=None if tau != tau else round(tau, 3), order=order)

    def _by_publication(self) -> list[str]:
        """Backbones with pretrained weights, the best published accuracy first, then in the order given."""
        named = list(dict.fromkeys(arm.backbone.name for arm in self.ground.book.arms if arm.component.pretrained))
        return sorted(named, key=lambda name: -(self.ground.entrants.facts[name].accuracy or 0.0))

    def _published(self) -> list[str]:
        """Those of them whose accuracy is known."""
        return [name for name in self._by_publication() if self.ground.entrants.facts[name].accuracy is not None]

    def _screening(self, backbone: str, size: int) -> Question:
        ground, seen = self.ground, self._samples(backbone)
        arm = next(arm for arm in ground.book.arms if arm.backbone.name == backbone and arm.component.pretrained)
        fraction = size / ground.train_size
        trial = replace(ground.trial(arm, {}), strategy=SCREEN, stage="screen", fraction=fraction)
        seconds = ground.prices.features(backbone, size - seen)
        return Question(book=ground.book, trials=(trial,), arms=(arm,), seconds=seconds)

    def _first_light(self, size: int) -> Iterator[Question | None]:
        """A first model that can be used: of the backbone that was looked at first, and the samples it was given."""
        ground, first = self.ground, next(iter(self._standings), None)
        arms = [arm for arm in ground.arms("frozen") if arm.backbone.name == first]
        trials = [replace(ground.trial(arm, arm.defaults()), fraction=size / ground.train_size) for arm in arms]
        if trials:
            yield Question(book=ground.book, trials=tuple(trials), arms=tuple(arms), seconds=None)

    def _probing(self, backbone: str) -> Question | None:
        ground = self.ground
        arms = [arm for arm in ground.arms("frozen") if arm.backbone.name == backbone]
        drawn = [(arm, ground.drawn(ground.book, arm, self._probes) or ()) for arm in arms]
        asked = [(arm, params) for arm, recipes in drawn for params in recipes]
        left = round(1.25 * ground.train_size) - self._samples(backbone)  # validation is about a quarter of training
        question = Question(
            book=ground.book,
            trials=tuple(ground.trial(arm, params) for arm, params in asked),
            arms=tuple(arm for arm, _ in asked),
            seconds=ground.prices.features(backbone, left),
        )
        return question if asked else None

    def _probes(self, arm: Arm) -> list[dict[str, Any]]:
        return of_probes(arm, self.ground.benchmark.search)

    def _drop(self, reasons: Mapping[str, str]) -> None:
        for backbone, reason in reasons.items():
            self.ground.note("dropped", backbone=backbone, reason=reason)
            self.ground.say(f"dropped {backbone}: {reason}")

    def _accuracy(self, backbone: str) -> float:
        return self._standings[backbone].accuracy if backbone in self._standings else 0.0

    def _samples(self, backbone: str) -> int:
        return self._standings[backbone].samples if backbone in self._standings else 0
