"""Looking: the stages that leave backbones as they are, to see which of them are worth training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.book import Question
from tlbench.search.ground import Ground
from tlbench.search.recipes import of_probes
from tlbench.search.screening import SURVIVORS, Standing, champions, cut, published, sizes
from tlbench.trial import SCREEN

SHARES = {"screen": 0.1, "probe": 0.1}
"""The part of the time that a stage has; both have it all where each backbone is probed right after its screen."""

TRAINED = 3
"""Backbones that are trained, the champion of publication aside."""


@final
@dataclass(kw_only=True, eq=False)
class Looking:
    """Screen and probe, and what they tell of the backbones."""

    ground: Ground
    alive: list[str] = field(default_factory=list)
    """Backbones that are still in the contest, the best of the screen first."""

    begins: float = 0.0
    """When screen and probe begin at the latest, as a part of the time: what comes before them has that."""

    _probed: set[str] = field(default_factory=set)
    """Backbones whose probes were asked for."""

    _standings: dict[int, dict[str, Standing]] = field(default_factory=dict)
    """By round, named by its samples, and backbone."""

    _failures: dict[str, str] = field(default_factory=dict)
    """What went wrong with looks at backbones, the last of each."""

    def take(self, measurement: Measurement) -> None:
        """Let a look at a backbone count."""
        name, accuracy = measurement.trial.backbone.name, measurement.score("train", "accuracy")
        if measurement.status == "complete" and accuracy is not None:
            size, samples = round(measurement.trial.fraction * self.ground.train_size), int(measurement.counts["train"])
            standing = Standing(backbone=name, accuracy=accuracy, samples=samples)
            self._standings.setdefault(size, {})[name] = standing
        elif measurement.failure is not None:
            self._failures[name] = f"looking at it failed: {measurement.failure.message}"

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
        worth = {**self._accuracies(name for name in self.alive if name not in best), **best}
        ordered = sorted(self.alive, key=lambda name: (name not in best, -worth[name], name))
        return list(dict.fromkeys([*ordered[:TRAINED], *self._published()[:1]]))

    @property
    def favourite(self) -> str | None:
        """Of several backbones the best by publication, which no screen drops; None where nothing is published."""
        named = self._by_publication()
        return next(iter(published(named, self.ground.entrants.facts)), None) if len(named) > 1 else None

    @property
    def ends(self) -> float:
        """When screen and probe end at the latest, as a part of the time."""
        return self.begins + sum(SHARES.values())

    def introduce(self, backbone: str) -> Iterator[Question | None]:
        """The first look at a backbone, and a first model that can be used."""
        ground, size, is_first = self.ground, sizes(self.ground.train_size)[0], not self._standings
        ground.begin("screen", f"{backbone} on {size} of {ground.train_size} training samples")
        yield self._screening(backbone, size)
        yield from ground.settle()
        if self._at_once and self._is_time_for_all(backbone):
            yield from self.probe_of(backbone)
        elif is_first:
            yield from self._first_light(size)
        yield from ground.settle()

    def probe_of(self, backbone: str) -> Iterator[Question | None]:
        """The probes of one backbone, before those of the others."""
        if backbone in self._probed or self.has_failed(backbone):
            return
        question = self._probing(backbone)
        if question is not None and (not self._probed or self.ground.fits(question, self.ground.clock.at(self.ends))):
            self.ground.begin("probe", f"{backbone}, {len(question.trials)} recipes")
            self._probed.add(backbone)
            yield question
        yield from self.ground.settle()

    def seconds_of_others(self, backbone: str) -> float | None:
        """What looking at all samples through all other backbones would take, were they as fast as this one.

        None where that is unknown. The screen may spare some of it.
        """
        seconds = self.ground.prices.features(backbone, self._all)
        return None if seconds is None else seconds * (len(self._by_publication()) - 1) / self.ground.workers

    def has_failed(self, backbone: str) -> bool:
        """Whether a look at it went wrong."""
        return backbone in self._failures

    def screen(self) -> Iterator[Question | None]:
        """Rounds over ever more samples; a backbone that is clearly behind is in no further one.

        On little data each is probed right after its look.
        """
        ground, alive = self.ground, self._by_publication()
        for size in sizes(ground.train_size) if len(alive) > 1 else ():
            if not self._at_once:
                ground.begin("screen", f"{len(alive)} backbones on {size} of {ground.train_size} training samples")
            for backbone in alive:
                if backbone in self._standings.get(size, {}) or self.has_failed(backbone):
                    continue
                question, is_first = self._screening(backbone, size), not self._standings
                until = ground.clock.at(self.ends if self._probed else self.begins + SHARES["screen"])
                if not is_first and not ground.fits(question, until):
                    continue
                if self._at_once:
                    yield from self.introduce(backbone)
                    continue
                yield question
                if is_first:
                    yield from ground.settle()
                    yield from self._first_light(size)
            yield from ground.settle()
            alive = self._cut(alive, size)
        self.alive = alive

    def probe(self) -> Iterator[Question | None]:
        """Every recipe of every frozen strategy, backbone by backbone."""
        ground, until = self.ground, self.ground.clock.at(self.ends)
        left = (name for name in self.alive if name not in self._probed)
        questions = {name: question for name in left if (question := self._probing(name)) is not None}
        if questions:
            count = len(next(iter(questions.values())).trials)
            ground.begin("probe", f"{len(questions)} backbones, {count} recipes each")
        for name, question in questions.items():
            if not self._probed or ground.fits(question, until):
                self._probed.add(name)
                yield question
        yield from ground.settle()

    def judge(self) -> None:
        """Note Kendall's tau between the order of the screen and that of the best scores after it."""
        best: dict[str, float] = {}
        for told in self.ground.book.whole:
            goodness, name = self.ground.goodness(told.measurement), told.arm.backbone.name
            if goodness is not None and told.arm.kind != "random" and self._samples(name):
                best[name] = max(best.get(name, goodness), goodness)
        if len(best) > 1:
            from scipy.stats import kendalltau  # a part of every start's time, and needed at the end alone

            seen = self._accuracies(best)
            tau = float(kendalltau(list(seen.values()), list(best.values())).statistic)
            order = sorted(best, key=lambda name: -seen[name])
            self.ground.note("screened", tau=None if tau != tau else round(tau, 3), order=order)

    @property
    def _at_once(self) -> bool:
        """Whether a backbone may be probed right after its screen, which drops nobody and sees half of the samples.

        Several workers share the screens first: each would wait for the others.
        """
        ground = self.ground
        few = len(self._by_publication()) <= SURVIVORS
        return few and ground.workers == 1 and 2 * sizes(ground.train_size)[0] >= ground.train_size

    def _is_time_for_all(self, backbone: str) -> bool:
        """Whether all samples can be looked at through each that is not probed, were all as fast as this one.

        Where they cannot, all are screened first, and the best of them probed.
        """
        ground, left = self.ground, [name for name in self._by_publication() if name not in self._probed]
        seconds = ground.prices.features(backbone, self._all)
        return seconds is not None and ground.in_time(len(left) * seconds, ground.latest(ground.clock.at(self.ends)))

    def _by_publication(self) -> list[str]:
        """Backbones with pretrained weights, the best published accuracy first, then in the order given."""
        named = list(dict.fromkeys(arm.backbone.name for arm in self.ground.book.arms if arm.component.pretrained))
        facts = self.ground.entrants.facts
        return list(dict.fromkeys([*published(named, facts), *named]))

    def _published(self) -> list[str]:
        """Those of them that are still in the contest and whose accuracy is known."""
        alive = [name for name in self._by_publication() if name in self.alive]
        return published(alive, self.ground.entrants.facts)

    def _screening(self, backbone: str, size: int) -> Question:
        ground, seen = self.ground, self._samples(backbone)
        arm = next(arm for arm in ground.book.arms if arm.backbone.name == backbone and arm.component.pretrained)
        fraction = size / ground.train_size
        trial = replace(ground.trial(arm, {}), strategy=SCREEN, stage="screen", fraction=fraction)
        seconds = ground.prices.features(backbone, size - seen)
        return Question(book=ground.book, trials=(trial,), arms=(arm,), seconds=seconds)

    def _first_light(self, size: int) -> Iterator[Question | None]:
        """A first model that can be used: of the backbone that was looked at first, and the samples it was given."""
        ground, first = self.ground, next(iter(self._standings.get(size, ())), None)
        arms = [arm for arm in ground.arms("frozen") if arm.backbone.name == first]
        trials = [replace(ground.trial(arm, arm.defaults()), fraction=size / ground.train_size) for arm in arms]
        if trials:
            yield Question(book=ground.book, trials=tuple(trials), arms=tuple(arms), seconds=None)

    def _probing(self, backbone: str) -> Question | None:
        ground = self.ground
        arms = [arm for arm in ground.arms("frozen") if arm.backbone.name == backbone and not ground.is_out(arm)]
        drawn = [(arm, ground.drawn(ground.book, arm, self._probes) or ()) for arm in arms]
        asked = [(arm, params) for arm, recipes in drawn for params in recipes]
        question = Question(
            book=ground.book,
            trials=tuple(ground.trial(arm, params) for arm, params in asked),
            arms=tuple(arm for arm, _ in asked),
            seconds=ground.prices.features(backbone, self._all - self._samples(backbone)),
        )
        return question if asked else None

    @property
    def _all(self) -> int:
        """Samples that a probe passes through its backbone: validation is about a quarter of training."""
        return round(1.25 * self.ground.train_size)

    def _probes(self, arm: Arm) -> list[dict[str, Any]]:
        return of_probes(arm, self.ground.benchmark.search)

    def _cut(self, alive: Sequence[str], size: int) -> list[str]:
        """Who stays after a round, best first. Only those that were in the round are judged by it."""
        seen = [name for name in alive if self._samples(name)] or alive[:1]
        unseen = "there was no time to look at it"
        self._drop({name: self._failures.get(name, unseen) for name in alive if name not in seen})
        found = self._standings.get(size, {})
        judged = [found[name] for name in seen if name in found]
        decided = cut(judged, champions(self.ground.entrants.facts, judged))
        self._drop(decided.dropped)
        kept = [*decided.kept, *(name for name in seen if name not in found)]
        accuracies = self._accuracies(kept)
        return sorted(kept, key=lambda name: (-accuracies[name], name))

    def _drop(self, reasons: Mapping[str, str]) -> None:
        for backbone, reason in reasons.items():
            self.ground.note("dropped", backbone=backbone, reason=reason)
            self.ground.say(f"dropped {backbone}: {reason}")

    def _accuracies(self, names: Iterable[str]) -> dict[str, float]:
        """By the most samples that all of them were looked at with: whoever had more looks better for that alone."""
        asked = list(names)
        whole = [found for found in self._standings.values() if found.keys() >= set(asked)]
        return {name: whole[-1][name].accuracy if whole else 0.0 for name in asked}

    def _samples(self, backbone: str) -> int:
        return max((found[backbone].samples for found in self._standings.values() if backbone in found), default=0)
