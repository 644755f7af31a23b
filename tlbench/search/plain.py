"""The plain plan: Optuna alone, one study per cell in rounds, then finals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from tlbench.measurement import Measurement
from tlbench.search.finalists import Told, essential
from tlbench.search.keeping import Keeper
from tlbench.search.plan import Plan
from tlbench.search.replay import Replayed
from tlbench.search.study import Study
from tlbench.trial import Job, Trial

FINALS_SHARE = 1 / 3
"""Most of a budget that is kept for retraining the finalists of a search over backbones or strategies."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A question a study waits for; `number` is None for a final."""

    study: Study
    number: int | None
    trial: Trial


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Final:
    """A final to run: those of a lower round first. Round 0 of a search is its winner, which is run in any case."""

    trial: Trial
    round: int


@final
@dataclass(kw_only=True)
class PlainPlan(Plan):
    """Hands out jobs and is told results; knows neither processes nor Ray.

    Every ask and tell is in the journal. A plan made anew over the same journal and store goes on where the last one
    stopped: what was asked and never told comes first.
    """

    replayed: Sequence[Replayed]

    def __post_init__(self) -> None:
        """Go on where the journal ends."""
        self._waiting: dict[str, list[Asked]] = {}
        self._unasked: deque[Asked] = deque()
        self._finals: dict[str, list[_Final]] = {}
        self._out_of_time = self._stopped = False
        arms = [arm for study in self.studies for arm in study.arms]
        self._keeper = Keeper(self.store, self.benchmark.search.metric, arms)
        for replayed in self.replayed:
            self._continue(replayed)
        self._keeper.sweep()

    @property
    def studies(self) -> list[Study]:
        """One per cell."""
        return [replayed.study for replayed in self.replayed]

    @property
    def cells(self) -> int:
        """One per competitor."""
        return len(self.replayed)

    @property
    def stage(self) -> str:
        """Search, then finals."""
        return "finals" if self.studies and all(map(self._search_over, self.studies)) else "search"

    @property
    def jobs_total(self) -> int:
        """How many jobs there will be, as far as it is known."""
        seeds, total = len(self.benchmark.seeds), 0
        for study in self.studies:
            over = study.ended or self._out_of_time
            total += study.asked if over else max(study.asked, self.benchmark.search.trials)
            planned = self._finals.get(study.id)
            total += len(planned) if planned is not None else seeds
        return total

    def stop(self) -> None:
        """Hand out no more jobs: what runs may be told, the rest is for another run."""
        self._stopped = True

    def ask(self) -> Job | None:
        """The next job; None while everything waits for results, and when all is done."""
        for asked in () if self._stopped else self._questions():
            if asked.trial.key in self._waiting:
                self._waiting[asked.trial.key].append(asked)
                continue
            known = self._known(asked)
            if known is not None:
                self._receive([asked], known, reused=True)
                continue
            self._waiting[asked.trial.key] = [asked]
            threshold = self._keeper.threshold(asked.trial.dataset.name, asked.trial.key)
            return Job(trial=asked.trial, keep_model_above=threshold)
        return None

    def report(self, key: str, epoch: int, score: float) -> bool:
        """Whether to stop the running trial `key` after `epoch`: when every study that waits for it says so.

        Or when the time that is left is for finals.
        """
        waiting = [asked for asked in self._waiting[key] if asked.number is not None]
        stops = [asked.study.report(asked.number, epoch, score) for asked in waiting if asked.number is not None]
        return bool(stops) and (all(stops) or self._budget_used_up())

    def tell(self, measurement: Measurement) -> None:
        """A job's result, stored already."""
        self._receive(self._waiting.pop(measurement.key), measurement, reused=False)

    def _questions(self) -> Iterator[Asked]:
        """What to ask next, one at a time: left from the last run, then search in rounds, then finals."""
        while True:
            if self._unasked:
                yield self._unasked.popleft()
            elif (study := self._next_study()) is not None:
                asked = study.ask()
                if asked is None:
                    self._end(study)
                    continue
                number, trial = asked
                event = {"event": "asked", "study": study.id, "number": number, "key": trial.key, "stage": "search"}
                self.journal.append(event)
                yield Asked(study=study, number=number, trial=trial)
            elif opened := self._open_finals():
                yield opened[0]
            else:
                return

    def _next_study(self) -> Study | None:
        """The study with the fewest trials asked: all cells advance together, so that stopping is always fair."""
        trials = self.benchmark.search.trials
        going = [study for study in self.studies if not study.ended and study.asked < trials]
        if not going or self._budget_used_up():
            return None
        return min(going, key=lambda study: study.asked)

    def _budget_used_up(self) -> bool:
        """Whether another trial would take the time reserved for the finals."""
        budget = self.benchmark.search.budget_s
        if budget is None or self._out_of_time:
            return self._out_of_time
        reserve = sum(self._reserve(study) for study in self.studies)
        if self.spent_s + reserve / self.workers > budget:
            self._out_of_time = True
            self.notices.append(f"search ends after {self.spent_s:.0f} s: the rest of {budget:.0f} s is for finals")
        return self._out_of_time

    def _open_finals(self) -> list[Asked]:
        """Finals that were never asked, of studies whose search is over."""
        opened = []
        for study in self.studies:
            if self._search_over(study):
                if study.id not in self._finals:
                    self._plan_finals(study)
                opened += [
                    (final.round, Asked(study=study, number=None, trial=final.trial))
                    for final in self._finals[study.id]
                    if final.trial.key not in self._keeper.finals
                    and final.trial.key not in self._waiting
                    and self._in_time(study, final)
                ]
        return [asked for _, asked in sorted(opened, key=lambda pair: pair[0])]

    def _reserve(self, study: Study) -> float:
        """Seconds kept for a study's finals: for all of them, but in a search for no more than a part of the budget.

        One of each kind of transfer is kept time for in any case: the answer cannot do without.
        """
        finalists = study.finalists()
        whole = sum(map(_seconds, finalists)) * len(self.benchmark.seeds)
        budget = self.benchmark.search.budget_s
        if len(study.arms) == 1 or budget is None:
            return whole
        return max(sum(map(_seconds, essential(finalists))), min(whole, FINALS_SHARE * budget * self.workers))

    def _in_time(self, study: Study, final: _Final) -> bool:
        """Whether a final may start: the first one of a search's winner always, as nothing is an answer without it."""
        budget = self.benchmark.search.budget_s
        if budget is None or (len(study.arms) > 1 and final.round == 0):
            return True
        return self.spent_s <= budget

    def _search_over(self, study: Study) -> bool:
        asked_all = study.ended or study.asked >= self.benchmark.search.trials or self._out_of_time
        return bool(asked_all) and study.running == 0

    def _plan_finals(self, study: Study) -> None:
        finalists = study.finalists()
        kinds, several = essential(finalists), len(study.arms) > 1
        planned = [told.arm.finals(told.measurement.trial, self.benchmark.seeds) for told in finalists]
        self._finals[study.id] = [
            _Final(trial=trial, round=number if not several else _round(told, number, finalists[0], kinds))
            for told, trials in zip(finalists, planned, strict=True)
            for number, trial in enumerate(trials)
        ]
        self.journal.append(
            {
                "event": "finals",
                "study": study.id,
                "keys": [[trial.key for trial in trials] for trials in planned],
                "selected": [told.measurement.key for told in finalists],
            }
        )

    def _known(self, asked: Asked) -> Measurement | None:
        """A stored result that answers the question: of this run or of an earlier one."""
        known = self.store.get(asked.trial.key)
        if known is None:
            return None
        own = any(told.measurement.key == known.key for told in asked.study.told)
        return known if known.answers or own else None

    def _receive(self, asked: Sequence[Asked], measurement: Measurement, reused: bool) -> None:
        for one in asked:
            went_on = not one.study.ended
            self._take(one, measurement)
            event = {
                "event": "told",
                "study": one.study.id,
                "number": one.number,
                "key": measurement.key,
                "stage": measurement.trial.stage,
                "status": measurement.status,
                "spent_s": round(self.spent_s, 3),
            }
            self.journal.append(event)
            if one.study.ended and went_on:
                self._end(one.study)
        if reused:
            self.answers.append(measurement)

    def _end(self, study: Study) -> None:
        """Write down that a study has ended before its time."""
        self.journal.append({"event": "ended", "study": study.id, "reason": study.ended})
        self.notices.append(f"{study.cell.label}: {study.ended}")

    def _continue(self, replayed: Replayed) -> None:
        """Count what was told before; what was asked and never told comes first."""
        study = replayed.study
        for measurement in replayed.told:
            self._keeper.add(study.id, measurement)
        for measurement in replayed.finals.values():
            self._keeper.add_final(measurement)
        self.jobs_done += len(replayed.told) + len(replayed.finals)
        self._unasked.extend(
            Asked(study=study, number=number, trial=trial) for number, trial in replayed.pending.items()
        )
        if replayed.notice:
            self.notices.append(replayed.notice)
        if study.ended:
            self._end(study)

    def _take(self, one: Asked, measurement: Measurement) -> None:
        """Let a result count."""
        self.jobs_done += 1
        if one.number is None:
            self._keeper.add_final(measurement)
        else:
            one.study.tell(one.number, measurement)
            self._keeper.add(one.study.id, measurement)


def _round(told: Told, number: int, winner: Told, kinds: Sequence[Told]) -> int:
    """When a search's finalist is retrained with its seed `number`: the winner, one of each kind, then the rest."""
    return 0 if told is winner and number == 0 else 1 + number + (told not in kinds)


def _seconds(told: Told) -> float:
    return float(told.measurement.cost.get("total_s") or 0.0)
