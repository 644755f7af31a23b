"""Training: the stages that change backbones, recipe by recipe, the best of them for longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from tlbench.measurement import Measurement
from tlbench.search.arm import Arm, arms_of
from tlbench.search.betting import HEDGE, Record, bet
from tlbench.search.book import Question
from tlbench.search.ground import Ground
from tlbench.search.ladder import Ladder, rungs
from tlbench.search.looking import Looking
from tlbench.search.recipes import Recipe, Recipes, staged
from tlbench.seeds import derive_seed

DEFAULTS_SHARE = 0.3
"""The part of the time that the defaults have."""

CACHED_SHARE = 0.6
"""When training on kept activations ends at the latest, as a part of the time; the rest, finals aside, is for all."""

REACH = 0.5
"""Part of a backbone's layers below those that train from which on their activations are worth keeping."""


@final
@dataclass(kw_only=True, eq=False)
class Training:
    """The ladder of one contest and the recipes on it."""

    ground: Ground
    looking: Looking
    protected: Recipe | None = None
    """The defaults of fine-tuning on the champion: no search is to do worse than they do."""

    _new: int = 0
    """Recipes of the sampler in this stage."""

    _recorded: Iterator[Mapping[str, Any]] = field(default_factory=lambda: iter(()))
    """Bets of earlier runs in this stage."""

    _climbing: dict[str, Recipe] = field(default_factory=dict)
    """Recipes on the ladder, by name."""

    _scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """By arm and recipe, on the highest rung that each has reached, higher ones the better."""

    def __post_init__(self) -> None:
        """Start with an empty ladder."""
        search = self.ground.benchmark.search
        self._arms = [staged(arm, cached=False) for arm in self.ground.arms("trained")]
        self._ladder = Ladder(rungs=rungs(search.epochs))
        self._recipes = Recipes(search=search, label=self.ground.book.cell.label)

    @property
    def share_of_defaults(self) -> float:
        """The part of the time that they had; none where they were not trained."""
        return DEFAULTS_SHARE if self.protected is not None and self.protected.name in self._climbing else 0.0

    def stages(self) -> Iterator[Question | None]:
        """What trains the last layers alone, then everything, and random weights for comparison."""
        ground, backbones = self.ground, self.looking.best()
        trained = arms_of(self._arms, backbones)
        cached = [staged(arm, cached=True) for arm in trained if ground.reach(arm) >= REACH]
        others = [arm for arm in trained if ground.reach(arm) < REACH]
        yield from self._stage("cached", cached, ground.clock.at(CACHED_SHARE))
        yield from self._stage("tune", [*others, *cached], None)
        yield from self._from_scratch(backbones)

    def take(self, question: Question, measurement: Measurement) -> None:
        """Let a rung's result count."""
        recipe, epochs = question.recipe, measurement.trial.epochs
        if recipe is None:
            return
        goodness = self.ground.goodness(measurement)
        score = measurement.score("search", measurement.trial.metric) if goodness is not None else None
        self._recipes.tell(recipe, epochs, score, whole=epochs == self._ladder.rungs[-1])
        self._ladder.add(recipe.name, epochs, goodness)
        if goodness is not None:
            self._scores.setdefault(_named(recipe.arm), {})[recipe.name] = goodness

    def defaults(self, backbone: str | None, begins: float) -> Iterator[Question | None]:
        """Fine-tune the champion as it would be without a search.

        `begins`: when at the latest, as a part of the time. After the first rung straight to the highest that takes no
        more than `DEFAULTS_SHARE` of it: they are trained so far in any case, and the cooldown of a rung between is
        lost.
        """
        until = self.ground.clock.at(begins + DEFAULTS_SHARE)
        firsts = (self._drawn(arm, self._recipes.first) for arm in self._whole(backbone))
        recipe = next((recipe for recipe in firsts if recipe is not None), None)
        if recipe is not None:
            self.protected = recipe
            self.ground.begin("defaults", recipe.arm.backbone.name)
            yield from self._first_fitting(recipe, self._ladder.rungs[:1], until)
            if recipe.name in self._scores.get(_named(recipe.arm), {}):
                yield from self._first_fitting(recipe, self._ladder.rungs[:0:-1], until)

    def seconds_of_defaults(self, backbone: str) -> float | None:
        """What they will take; None where that is unknown, or where there are none."""
        return next((self._seconds(arm, self._ladder.rungs[-1]) for arm in self._whole(backbone)), None)

    def _whole(self, backbone: str | None) -> Iterator[Arm]:
        """The ways to fine-tune most of a backbone, those whose head begins at random first.

        They are what people do; MobileNetV2, nine epochs on 800 images of CIFAR-10, three seeds: 70.5 % of test images,
        and 68.2 % from the probe.
        """
        own = [arm for arm in self._arms if arm.backbone.name == backbone]
        own.sort(key=lambda arm: arm.defaults()["head_start"] == "probe")
        return (arm for arm in own if self.ground.reach(arm) < REACH)

    def _first_fitting(self, recipe: Recipe, rungs: Sequence[int], until: float | None) -> Iterator[Question | None]:
        """The first of some rungs that ends before `until`."""
        for epochs in rungs:
            question = self._rung(recipe, epochs)
            if self.ground.fits(question, until):
                self._climbing[recipe.name] = recipe
                self._ladder.promote(recipe.name, epochs)
                yield question
                yield from self.ground.settle()
                return

    def _stage(self, name: str, arms: Sequence[Arm], until: float | None) -> Iterator[Question | None]:
        """Defaults first, then recipes of the sampler; the best of each rung are trained for longer."""
        known = {_named(recipe.arm) for recipe in self._climbing.values()}
        unknown = [arm for arm in arms if _named(arm) not in known and not self.ground.is_out(arm)]
        openings = [recipe for arm in unknown if (recipe := self._drawn(arm, self._recipes.first)) is not None]
        self._new = 0
        self._recorded = (bet for bet in self.ground.bets if bet["stage"] == name)
        if arms:
            self.ground.begin(name, f"{len(arms)} ways to train, up to {self._ladder.rungs[-1]} epochs")
        while arms:
            question = (
                self._promotion(arms, until)
                or self._opening(openings, until)
                or self._bet_again(arms, until)
                or self._bet(name, arms, until)
            )
            if question is None and not self.ground.running:
                return
            yield question

    def _promotion(self, arms: Sequence[Arm], until: float | None) -> Question | None:
        """The best recipe that may be trained for longer and fits the time."""
        protected = frozenset() if self.protected is None else frozenset([self.protected.name])
        promotable = self._ladder.promotable(protected, least=int(self._closing(arms, until)))
        for name, epochs in sorted(promotable, key=lambda one: one[0] not in protected):
            question = self._rung(self._climbing[name], epochs)
            if self._climbing[name].arm in arms and self.ground.fits(question, until):
                self._ladder.promote(name, epochs)
                return question
        return None

    def _opening(self, openings: list[Recipe], until: float | None) -> Question | None:
        while openings:
            recipe = openings.pop(0)
            question = self._rung(recipe, self._ladder.rungs[0])
            if self.ground.fits(question, until):
                self._climbing[recipe.name] = recipe
                return question
        return None

    def _bet_again(self, arms: Sequence[Arm], until: float | None) -> Question | None:
        """The next recipe that an earlier run tried in this stage: the clock and what it learned may differ by now."""
        for recorded in self._recorded:
            arm = next((arm for arm in arms if _named(arm) == recorded["arm"] and not self.ground.is_out(arm)), None)
            if arm is None:
                continue
            self._new += 1
            recipe = self._drawn(arm, partial(self._recipes.again, suggested=recorded["suggested"]))
            if recipe is None or recipe.name in self._climbing:
                continue
            question = self._rung(recipe, self._ladder.rungs[0])
            if self.ground.fits(question, until):
                self._climbing[recipe.name] = recipe
                return question
        return None

    def _bet(self, stage: str, arms: Sequence[Arm], until: float | None) -> Question | None:
        """A new recipe, where time and trials allow one more."""
        ground = self.ground
        while not self._closing(arms, until):
            latest = ground.latest(until)
            records = {
                _named(arm): Record(scores=tuple(self._scores.get(_named(arm), {}).values()), seconds=seconds)
                for arm in arms
                if not ground.is_out(arm)
                and ground.in_time(seconds := self._seconds(arm, self._ladder.rungs[0]), latest)
            }
            if not records:
                return None
            self._new += 1
            chosen = bet(records, ground.clock.left)
            if self._new % HEDGE == 0:
                place = derive_seed(ground.benchmark.search.seed, ground.book.id, "hedge", self._new)
                chosen = sorted(records)[place % len(records)]
            recipe = self._drawn(next(arm for arm in arms if _named(arm) == chosen), self._recipes.next)
            if recipe is None:
                self._new -= 1  # nothing was tried
                continue
            ground.note("bet", stage=stage, arm=chosen, suggested=dict(recipe.suggested))
            if recipe.name not in self._climbing:
                self._climbing[recipe.name] = recipe
                return self._rung(recipe, self._ladder.rungs[0])
        return None

    def _drawn(self, arm: Arm, draw: Callable[[Arm], Recipe]) -> Recipe | None:
        return self.ground.drawn(self.ground.book, arm, draw)

    def _closing(self, arms: Sequence[Arm], until: float | None) -> bool:
        """Whether no trial is left, or what time is left is needed to train one recipe for as long as any."""
        if self._new >= self.ground.benchmark.search.trials:
            return True
        latest = self.ground.latest(until)
        prices = [seconds for arm in arms if (seconds := self._seconds(arm, self._ladder.rungs[-1])) is not None]
        return latest is not None and bool(prices) and not self.ground.in_time(min(prices), latest)

    def _rung(self, recipe: Recipe, epochs: int) -> Question:
        arm = recipe.arm
        resumed = self._ladder.reached(recipe.name) if recipe.params.get("schedule") == "wsd" else 0
        return Question(
            book=self.ground.book,
            trials=(self.ground.trial(arm, recipe.params, epochs),),
            arms=(arm,),
            seconds=self._seconds(arm, epochs, resumed),
            recipe=recipe,
            is_default=self.protected is not None and recipe.name == self.protected.name,
        )

    def _seconds(self, arm: Arm, epochs: int, resumed: int = 0) -> float | None:
        ground = self.ground
        return ground.prices.training(ground.trial(arm, {}, epochs), ground.train_size, ground.reach(arm), resumed)

    def _from_scratch(self, backbones: list[str]) -> Iterator[Question | None]:
        """Random weights in the best backbone, for as long as any: what pretraining brings, where there is time."""
        ground, epochs = self.ground, self._ladder.rungs[-1]
        arms = arms_of(ground.arms("random"), backbones) or ground.arms("random")
        for arm in arms[:1]:
            trial = ground.trial(arm, arm.defaults(), epochs)
            seconds = self._seconds(arm, epochs)
            question = Question(book=ground.book, trials=(trial,), arms=(arm,), seconds=seconds)
            if ground.fits(question, None):
                ground.begin("baseline", f"{arm.backbone.name} from random weights")
                yield question
        yield from ground.settle()


def _named(arm: Arm) -> str:
    return f"{arm.backbone.name} {arm.strategy.name}"
