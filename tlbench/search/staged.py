"""The staged plan: screen, probe, cached, tune, final; one contest per data set, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, final

from tlbench.measurement import Measurement, best_of
from tlbench.search.book import Book, Question
from tlbench.search.contest import Contest
from tlbench.search.ground import Clock, Entrants, Ground
from tlbench.search.keeping import Keeper
from tlbench.search.plan import Plan
from tlbench.trial import Job, Trial


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    """A question some of whose answers are still to come."""

    question: Question
    found: dict[str, Measurement] = field(default_factory=dict)

    @property
    def answers(self) -> list[Measurement] | None:
        """One per trial, once all are there."""
        keys = [trial.key for trial in self.question.trials]
        return [self.found[key] for key in keys] if all(key in self.found for key in keys) else None


@final
@dataclass(kw_only=True)
class StagedPlan(Plan):
    """Contests in turn, each in its share of the budget.

    Of a contest's state only its bets are kept: a run that goes on asks the same questions again, and those whose
    answers are in the store take no time.
    """

    entrants: Sequence[Entrants]
    """One per data set that has competitors."""

    evaluator: int

    def __post_init__(self) -> None:
        """Read what earlier runs left, and begin the first contest."""
        events = self.journal.events()
        self._written = {_outcome(event) for event in events if event["event"] == "told"}
        self._numbers: dict[str, dict[str, int]] = {}
        self._bets: dict[str, list[Mapping[str, Any]]] = {}
        for event in events:
            if event["event"] == "told" and event["number"] is not None:
                self._numbers.setdefault(event["study"], {})[event["key"]] = event["number"]
            elif event["event"] == "bet":
                self._bets.setdefault(event["study"], []).append(event)
        self._starts = {event["study"]: float(event["start_s"]) for event in events if event["event"] == "contest"}
        self._waiting: dict[str, list[_Waiting]] = {}
        self._jobs, self._stopped = 0, False
        arms = [arm for book in self._books for arm in book.arms]
        self._keeper = Keeper(self.store, self.benchmark.search.metric, arms)
        self._keeper.sweep()
        for book in self._books:
            cell = asdict(book.cell)
            self.journal.append({"event": "opened", "study": book.id, "cell": cell, "arms": len(book.arms)})
        self._to_come = deque(self.entrants)
        self._contest = self._next_contest()

    @property
    def cells(self) -> int:
        """One per data set, and one per control on each."""
        return len(self._books)

    @property
    def stage(self) -> str:
        """The stage of the contest that is on."""
        return self._contest.ground.stage

    @property
    def jobs_total(self) -> int:
        """Jobs asked so far: how many there will be, time decides."""
        return self._jobs

    def stop(self) -> None:
        """Hand out no more jobs."""
        self._stopped = True

    def ask(self) -> Job | None:
        """The next job; None while everything waits for results, and when all is done."""
        while not self._stopped:
            question = self._contest.next()
            if question is not None:
                job = self._job(question)
                if job is not None:
                    return job
            elif self._contest.done and self._to_come:
                self._contest = self._next_contest()
            else:
                return None
        return None

    def report(self, key: str, epoch: int, score: float) -> bool:
        """Whether the contest's time is over, for what is no final."""
        end = self._contest.ground.clock.end
        stages = {waiting.question.trials[0].stage for waiting in self._waiting.get(key, ())}
        return end is not None and stages == {"search"} and self.spent_s > end

    def tell(self, measurement: Measurement) -> None:
        """A job's result, stored already; of a job of many rows each one."""
        for waiting in self._waiting.pop(measurement.key, ()):
            waiting.found[measurement.key] = measurement
            self._close(waiting, reused=False)

    @property
    def _books(self) -> list[Book]:
        return [book for entrants in self.entrants for book in (entrants.book, *entrants.controls)]

    def _next_contest(self) -> Contest:
        """The next data set's, with an equal share of what is left of the budget."""
        budget, study = self.benchmark.search.budget_s, self._to_come[0].book.id
        start = self._starts.get(study)
        if start is None:
            start = self.spent_s
            self.journal.append({"event": "contest", "study": study, "start_s": round(start, 3)})
        end = None if budget is None else start + max(0.0, budget - start) / len(self._to_come)
        ground = Ground(
            benchmark=self.benchmark,
            entrants=self._to_come.popleft(),
            evaluator=self.evaluator,
            workers=self.workers,
            clock=Clock(now=lambda: self.spent_s, start=start, end=end),
            is_known=lambda trial: self._known(trial) is not None,
            append=lambda event: self.journal.append({**event, "spent_s": round(self.spent_s, 3)}),
            say=self.doings.append,
            warn=self.notices.append,
            bets=self._bets.get(study, ()),
            found=partial(self._found, study),
        )
        return Contest(ground)

    def _found(self, study: str, known: Collection[str]) -> list[Measurement]:
        """Search results of earlier runs, in the order in which they were first told, but for those of known keys."""
        numbers = self._numbers.get(study, {})
        keys = [key for key in sorted(numbers, key=numbers.__getitem__) if key not in known]
        measurements = (self.store.get(key) for key in keys)
        return [found for found in measurements if found is not None and found.answers]

    def _job(self, question: Question) -> Job | None:
        """The job for what nobody knows or is finding out yet; None where there is nothing of that kind."""
        waiting, fresh = _Waiting(question=question), list[Trial]()
        self._jobs += 1
        for trial in question.trials:
            if question.is_default:
                self._keeper.prefer(trial.key)
            known = self._known(trial)
            if known is not None:
                waiting.found[trial.key] = known
                continue
            if trial.key not in self._waiting:
                fresh.append(trial)
            self._waiting.setdefault(trial.key, []).append(waiting)
        self._close(waiting, reused=True)
        if not fresh:
            return None
        threshold = self._keeper.threshold(fresh[0].dataset.name, fresh[0].key)
        return Job(trial=fresh[0], more=tuple(fresh[1:]), keep_model_above=threshold)

    def _known(self, trial: Trial) -> Measurement | None:
        known = self.store.get(trial.key)
        return known if known is not None and known.answers else None

    def _close(self, waiting: _Waiting, reused: bool) -> None:
        """Let the answers to a question count, if all are there."""
        found = waiting.answers
        if found is None:
            return
        question = waiting.question
        self._contest.answered(question, found)
        self.jobs_done += 1
        if reused:
            self.answers.append(best_of(found))
        self._keeper.add(question.book.id, *(each for each in found if each.trial.stage == "search"))
        for measurement in found:
            if measurement.trial.stage == "final":
                self._keeper.add_final(measurement)
        self._write(question.book, found)

    def _write(self, book: Book, found: Sequence[Measurement]) -> None:
        """Write down what was told, but for looks at backbones, which are no trials."""
        events = [
            {
                "event": "told",
                "study": book.id,
                "number": None if measurement.trial.stage == "final" else self._number(book, measurement.key),
                "key": measurement.key,
                "stage": measurement.trial.stage,
                "status": measurement.status,
                "spent_s": round(self.spent_s, 3),
            }
            for measurement in found
            if measurement.trial.stage != "screen"
        ]
        self.journal.extend([event for event in events if _outcome(event) not in self._written])

    def _number(self, book: Book, key: str) -> int:
        """As an earlier run had it; else the next."""
        numbers = self._numbers.setdefault(book.id, {})
        return numbers.setdefault(key, len(numbers))


def _outcome(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["study"], event["number"], event["key"], event["status"]
