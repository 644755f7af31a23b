"""The ground of a contest: what all its stages know and share, time above all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from tlbench.benchmark import Benchmark, higher_is_better
from tlbench.components import Facts
from tlbench.measurement import Measurement
from tlbench.search.arm import Arm
from tlbench.search.book import Book, Question
from tlbench.search.prices import Prices
from tlbench.trial import Trial

Drawn = TypeVar("Drawn")


@final
@dataclass(frozen=True, kw_only=True)
class Clock:
    """The time that a contest has, in seconds since the run began."""

    now: Callable[[], float]
    start: float
    end: float | None
    """None: there is no limit."""

    def at(self, share: float) -> float | None:
        """When a part of the time will have passed."""
        return None if self.end is None else self.start + share * (self.end - self.start)

    @property
    def left(self) -> float:
        """Part of the time that is left, in [0, 1]; all of it without a limit."""
        if self.end is None:
            return 1.0
        return min(1.0, max(0.0, (self.end - self.now()) / max(self.end - self.start, 1e-9)))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Entrants:
    """Who competes on one data set."""

    book: Book
    controls: Sequence[Book]
    """One per control."""

    facts: Mapping[str, Facts]
    """By backbone."""

    reach: Callable[[Arm], float]
    """The part of the backbone's layers below those that train."""

    _reaches: dict[tuple[str, str], float] = field(default_factory=dict)

    def reach_of(self, arm: Arm) -> float:
        """`reach`, asked once of each pair: to see it takes a model, and most pairs of a large search are dropped."""
        if arm.kind != "trained":
            return 0.0
        pair = (arm.backbone.name, arm.strategy.name)
        if pair not in self._reaches:
            self._reaches[pair] = self.reach(arm)
        return self._reaches[pair]


@final
@dataclass(kw_only=True, eq=False)
class Ground:
    """What the stages of one contest share."""

    benchmark: Benchmark
    entrants: Entrants
    evaluator: int
    clock: Clock
    is_known: Callable[[Trial], bool]
    """Whether the store has the answer: such a question takes no time."""

    append: Callable[[Mapping[str, Any]], None]
    """Writes an event down."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    """Says what a user has to know however quiet the run."""

    bets: Sequence[Mapping[str, Any]] = ()
    """What earlier runs noted of their new recipes, in order."""

    found: Callable[[Collection[str]], Sequence[Measurement]] = lambda _: ()
    """Search results that earlier runs were told, but for those of known keys."""

    reserve: Callable[[], float] = lambda: 0.0
    """Seconds that finals will take."""

    workers: int = 1
    stage: str = ""
    running: int = 0
    """Questions without an answer."""

    prices: Prices = field(default_factory=Prices)
    _out: set[tuple[str, str]] = field(default_factory=set)
    """Backbone and strategy of the competitors that are left out."""

    @property
    def book(self) -> Book:
        """The book of the search."""
        return self.entrants.book

    @property
    def train_size(self) -> int:
        """Samples to train on."""
        return self.book.arms[0].context.train_size

    def arms(self, kind: str) -> list[Arm]:
        """The competitors of one kind of transfer."""
        return [arm for arm in self.book.arms if arm.kind == kind]

    def reach(self, arm: Arm) -> float:
        """The frozen part of the backbone's layers, where the arm trains any."""
        return self.entrants.reach_of(arm)

    def goodness(self, measurement: Measurement) -> float | None:
        """The search score, negated where lower is better; None of what has none."""
        metric = self.benchmark.search.metric
        score = measurement.score("search", metric) if measurement.status == "complete" else None
        return score if score is None or higher_is_better(metric) else -score

    def trial(self, arm: Arm, params: Mapping[str, Any], epochs: int = 0) -> Trial:
        """The question that a recipe of an arm is."""
        search = self.benchmark.search
        return arm.trial(
            params, stage="search", seed=search.seed, epochs=epochs, metric=search.metric, evaluator=self.evaluator
        )

    def begin(self, stage: str, what: str) -> None:
        """Note that a stage begins."""
        self.stage = stage
        self.note("stage", stage=stage, what=what)
        self.say(f"{stage}: {what}")

    def note(self, event: str, **more: Any) -> None:
        """Write something down about this contest."""
        self.append({"event": event, "study": self.book.id, **more})

    def drawn(self, book: Book, arm: Arm, draw: Callable[[Arm], Drawn]) -> Drawn | None:
        """What `draw` gives for an arm of a book; where it gives nothing the arm is left out, and all others go on."""
        try:
            return draw(arm)
        except (Exception, SystemExit) as error:  # of a plugin's space, or of a sampler that does not suit it
            reason = f"no recipe: {type(error).__name__}: {error}"
        names = {"backbone": arm.backbone.name, "strategy": arm.strategy.name}
        self._out.add((arm.backbone.name, arm.strategy.name))
        # A control has a book of its own, which ends with it.
        event = {"event": "dropped", **names} if book is self.book else {"event": "ended"}
        self.append({**event, "study": book.id, "reason": reason})
        self.warn(f"left out {' '.join(names.values())}: {reason}")
        return None

    def is_out(self, arm: Arm) -> bool:
        """Whether a competitor was left out."""
        return (arm.backbone.name, arm.strategy.name) in self._out

    def settle(self) -> Iterator[None]:
        """Wait for all that runs."""
        while self.running:
            yield None

    def fits(self, question: Question, until: float | None) -> bool:
        """Whether a question is answered already, or will be before `until` and the time for finals."""
        return all(map(self.is_known, question.trials)) or self.in_time(question.seconds, self.latest(until))

    def latest(self, until: float | None) -> float | None:
        """The earlier of `until` and the moment when only the time for finals is left."""
        if self.clock.end is None:
            return until
        end = self.clock.end - self.reserve()
        return end if until is None else min(until, end)

    def in_time(self, seconds: float | None, until: float | None) -> bool:
        """Whether what takes `seconds` ends before `until`; of what is unknown, whether it begins before."""
        return until is None or self.clock.now() + (seconds or 0.0) <= until
