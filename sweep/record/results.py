"""What happened in a sweep, built from its events: trials, outcomes, the best."""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sweep.common.errors import SweepError
from sweep.record.events import read_events
from sweep.record.lines import Event
from sweep.record.planned import PlannedCost, planned
from sweep.record.values import (
    finite,
    of_kind,
    parameters,
    trial_name,
    trial_number,
)

Outcome = Literal["finished", "stopped", "diverged", "out_of_memory", "failed", "interrupted"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

EndedBy = Literal["stop", "pause", "time_budget"]
"""What ends a session early, beside a signal or a crash."""

End = Literal["complete", "interrupted", "stopped", "paused", "out of time"]

ENDS: dict[EndedBy, End] = {"stop": "stopped", "pause": "paused", "time_budget": "out of time"}
"""What is said of a sweep that was ended so."""

COMPARABLE: frozenset[Outcome | None] = frozenset({"finished", "stopped", "interrupted", None})
"""Outcomes whose losses count: a diverged or failed trial is never the best."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint folder that was complete when it was recorded."""

    step: int
    val_loss: float
    path: str
    """Its name in the sweep's store: relative to results/NAME, or to its folder in `storage`."""


@dataclass
class TrialRecord:
    """One trial, as far as it has come."""

    name: str
    params: dict[str, Any]
    """The suggestion, by dotted field."""
    started: float
    """Unix time of its first start, seconds."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Reported metrics, by ascending step."""
    best: dict[str, float] | None = None
    """The evaluation with the lowest validation loss, the earlier of equals."""
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    outcome: Outcome | None = None
    """None while it runs, or after a crash of the driver."""
    ended: float | None = None
    """Unix time of the outcome, seconds."""
    rung: int | None = None
    """Step of the rung that stopped it."""
    reason: str | None = None
    """Why it diverged or failed."""
    is_answer: bool = False
    """Whether it was to train the best settings by a fit to all trials before, unstopped."""
    restarts: int = 0
    """Times its worker died and it went on from a checkpoint."""
    sweep: str | None = None
    """Older sweep that it is of, where that is what this one starts from; None: its own."""

    @cached_property
    def number(self) -> int:
        """Position in the order of suggestions, from 0."""
        return trial_number(self.name)

    @property
    def step(self) -> int:
        """Last reported step."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else 0

    @property
    def best_val_loss(self) -> float:
        """Lowest validation loss, nats per token; infinite before the first evaluation."""
        return self.best["val_loss"] if self.best else float("inf")

    @property
    def is_comparable(self) -> bool:
        """Whether its losses count."""
        return self.outcome in COMPARABLE

    @property
    def sort_key(self) -> tuple[bool, float, int]:
        """Orders trials from the best to the worst: comparable ones first, then by loss."""
        return (not self.is_comparable, self.best_val_loss, self.number)


@dataclass
class SweepRecord:
    """All trials of a sweep."""

    trials: dict[str, TrialRecord] = field(default_factory=dict)
    num_samples: int = 0
    """Trials asked for in the last session."""
    sessions: int = 0
    """Times the sweep was started or resumed."""
    seconds: float = 0.0
    """Wall-clock time of all sessions so far; a clock that is set back takes nothing away."""
    plan: PlannedCost | None = None
    """None if none was shown."""
    session_started: float | None = None
    """Unix time at which the running session began; None between sessions."""
    ended_by: EndedBy | None = None
    """What ended the last session early; None: a signal, a crash, or nothing did."""
    updated: float | None = None
    """Unix time of the last event."""
    lost: set[int] = field(default_factory=set)
    """Numbers of trials whose start was damaged: they are not given again."""
    older: list[TrialRecord] = field(default_factory=list)
    """Trials of older sweeps that this one starts from: data of the search, and nothing else."""
    in_order: list[str] = field(default_factory=list)
    """Names of the trials that have an outcome, in the order in which they ended."""
    steps: int = 0
    """Sum of all trials' last reported steps."""
    holding: dict[str, TrialRecord] = field(default_factory=dict)
    """The trials that have checkpoints."""
    _by_loss: list[tuple[float, int, str]] = field(default_factory=list, repr=False, compare=False)
    """A heap of the trials' best losses; those that no longer count are dropped from its top."""

    @classmethod
    def read(cls, folder: Path) -> "SweepRecord":
        """Build the record of a sweep folder.

        Raises:
            SweepError: an event is damaged.
        """
        record = cls()
        record.apply_all(read_events(folder))
        return record

    def apply_all(self, events: Iterable[Event]) -> None:
        """Take in events in order.

        Raises:
            SweepError: an event lacks a key or names an unknown trial.
        """
        for number, event in enumerate(events, start=1):
            try:
                self.apply(event)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SweepError(
                    f"event {number} of the sweep is damaged: {error!r}; "
                    "`python sweep/status.py NAME --repair` goes on without it"
                ) from error

    def apply(self, event: Event) -> None:
        """Take in one event. Kinds and keys:

        older_trial: sweep, older, params, outcome, curve (see conduct/warm_start.py).
        session_started: session, num_samples, machine, plan (in the first).
        session_ended: completed, and ended_by, if it was early.
        trial_started: trial, params, answer if it trains that, on a cluster node (again after a
            resume).
        trial_restarted: trial, reason.
        evaluation: trial, metrics; worker (host:process), where it is another one.
        checkpoint: trial, step, val_loss, path. notice: text, trial if it is of one.
        outcome: trial, outcome, step, rung, reason. trial_lost: trial (see repair.py).
        """
        kind = event["event"]
        if kind != "session_started" and self.session_started is not None:
            assert self.updated is not None
            self.seconds += max(0.0, event["time"] - self.updated)
        if kind == "session_started":
            self.sessions = of_kind(int, event["session"])
            self.num_samples = of_kind(int, event["num_samples"])
            self.session_started, self.ended_by = event["time"], None
            if event.get("plan") is not None:
                self.plan = planned(of_kind(dict, event["plan"]))
        elif kind == "session_ended":
            self.session_started, self.ended_by = None, _ended_by(event.get("ended_by"))
        elif kind == "trial_started":
            params, name = parameters(event["params"]), trial_name(event["trial"])
            trial = self.trials.setdefault(name, TrialRecord(name, params, event["time"]))
            if trial.outcome is not None:
                self.in_order.remove(name)
            trial.outcome = trial.ended = trial.reason = None
            trial.is_answer = trial.is_answer or of_kind(bool, event.get("answer", False))
            self._rank(trial)
        elif kind == "older_trial":
            self.older.append(_older(event))
        elif kind == "trial_lost":
            self.lost.add(trial_number(trial_name(event["trial"])))
        elif kind != "notice" or "trial" in event:
            self._apply_to_trial(self.trials[event["trial"]], kind, event)
        self.updated = event["time"]

    def _apply_to_trial(self, trial: TrialRecord, kind: str, event: Event) -> None:
        if kind == "evaluation":
            metrics = {
                name: finite(value) for name, value in of_kind(dict, event["metrics"]).items()
            }
            step, loss = of_kind(int, metrics["step"]), metrics["val_loss"]
            self.steps += step - trial.step
            trial.evaluations.append(metrics)
            if loss < trial.best_val_loss:
                trial.best = metrics
                self._rank(trial)
        elif kind == "checkpoint":
            step, loss = of_kind(int, event["step"]), finite(event["val_loss"])
            saved = SavedCheckpoint(step, loss, of_kind(str, event["path"]))
            trial.checkpoints.append(saved)
            self.holding[trial.name] = trial
        elif kind == "trial_restarted":
            trial.restarts += 1
        elif kind == "outcome":
            if event["outcome"] not in OUTCOMES:
                raise ValueError(f"unknown outcome {event['outcome']!r}")
            if trial.outcome is None:
                self.in_order.append(trial.name)
            trial.outcome, trial.ended = event["outcome"], event["time"]
            trial.rung = None if event["rung"] is None else of_kind(int, event["rung"])
            trial.reason = None if event["reason"] is None else of_kind(str, event["reason"])

    @property
    def ranked(self) -> list[TrialRecord]:
        """All trials, the best first."""
        return sorted(self.trials.values(), key=lambda trial: trial.sort_key)

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest validation loss, among those whose losses count."""
        while self._by_loss:
            loss, _, name = self._by_loss[0]
            trial = self.trials[name]
            if trial.is_comparable and trial.best_val_loss == loss:
                return trial
            heapq.heappop(self._by_loss)
        return None

    def _rank(self, trial: TrialRecord) -> None:
        if trial.best is not None:
            heapq.heappush(self._by_loss, (trial.best_val_loss, trial.number, trial.name))

    @property
    def unfinished(self) -> list[TrialRecord]:
        """Trials that a resume goes on with, in order."""
        return [t for t in self.trials.values() if t.outcome in (None, "interrupted")]

    @property
    def ended(self) -> int:
        """Number of trials that have an outcome."""
        return len(self.in_order)

    @property
    def complete(self) -> bool:
        """Whether all trials that were asked for have ended."""
        return len(self.trials) >= self.num_samples and not self.unfinished

    @property
    def end(self) -> End:
        """How the sweep ended, in a word: complete, interrupted, or one of ENDS."""
        if self.sessions and self.complete:
            return "complete"
        return ENDS[self.ended_by] if self.ended_by else "interrupted"

    def counts(self) -> dict[str, int]:
        """Return the number of trials by outcome, and of those running; no zeros."""
        found: Counter[str] = Counter(trial.outcome or "running" for trial in self.trials.values())
        return {name: found[name] for name in ("running", *OUTCOMES) if name in found}


def _ended_by(value: Any) -> EndedBy | None:
    if value is not None and value not in get_args(EndedBy):
        raise ValueError(f"unknown end {value!r}")
    return cast("EndedBy | None", value)


def _older(event: Event) -> TrialRecord:
    """Return a trial of an older sweep: its evaluations that count, as [step, val_loss] each."""
    name, params = trial_name(event["older"]), parameters(event["params"])
    if event["outcome"] not in OUTCOMES:
        raise ValueError(f"unknown outcome {event['outcome']!r}")
    curve = [of_kind(list, told) for told in of_kind(list, event["curve"])]
    return TrialRecord(
        name,
        params,
        started=event["time"],
        evaluations=[{"step": of_kind(int, s), "val_loss": finite(loss)} for s, loss in curve],
        outcome=event["outcome"],
        sweep=of_kind(str, event["sweep"]),
    )
