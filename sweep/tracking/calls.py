"""What a sweep's events are in MLflow, as plain data: calls that somebody else makes.

Nothing is done here, no store is known: the same events after the same record give the same calls.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.analysis.words import counts_text, params_text
from sweep.config.sweep import SweepConfig
from sweep.record.folder import SweepFile
from sweep.record.lines import Event
from sweep.record.results import Outcome, SweepRecord, TrialRecord
from sweep.tracking.view import log_param, logarithmic, run_name
from trainable.config.trial import TrialConfig
from trainable.model.counts import parameter_count

PARENT = ""
"""Names the sweep's own run, where a trial's run has the trial's name."""

RUN_STATUS: dict[Outcome, str] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "diverged": "FINISHED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status of a trial; it draws KILLED and FAILED as errors, so they are kept for those."""


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    stamp: int
    """Unix time of the event, milliseconds: the same whenever it is delivered."""
    step: int


@dataclass(frozen=True)
class GoOn:
    """A run that may have ended runs again."""

    run: str


@dataclass(frozen=True)
class StartTrial:
    """A trial's run begins, or goes on."""

    trial: str
    shown_as: str
    started: int
    """Unix time, milliseconds."""
    tags: dict[str, str]
    params: dict[str, str]


@dataclass(frozen=True)
class LogMetrics:
    """Points of a run."""

    run: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class SetTags:
    """What is to be read on a run."""

    run: str
    tags: dict[str, str]


@dataclass(frozen=True)
class EndRun:
    """A run ends."""

    run: str
    status: str
    ended: int
    """Unix time, milliseconds."""


@dataclass(frozen=True)
class LogText:
    """A file of a run, given by what is in it."""

    run: str
    path: str
    """Where the run has it."""
    text: str


@dataclass(frozen=True)
class LogFile:
    """A file of a run, given by one on this disk."""

    run: str
    file: Path
    folder: str = ""
    """Where the run has it, by the same name."""


Call = GoOn | StartTrial | LogMetrics | SetTags | EndRun | LogText | LogFile


class Translator:
    """Turns a sweep's events into calls, in order.

    Args:
        name: the sweep's.
        sweep: its config and identity.
        vocab_size: number of token ids; None if nobody knows any more.
        known: the events that were told before.
    """

    def __init__(
        self, name: str, sweep: SweepFile, vocab_size: int | None, known: Iterable[Event] = ()
    ) -> None:
        self._name = name
        self._sweep = sweep
        self._vocab_size = vocab_size
        self._record = SweepRecord()
        """The sweep as the store knows it."""
        told = list(known)
        self._record.apply_all(told)
        self._outcomes = sum(event["event"] == "outcome" for event in told)
        """Outcomes so far: the steps of the parent's curve. A trial interrupted has several."""

    def calls(self, events: Iterable[Event]) -> Iterator[Call]:
        """Yield what tells `events`; points wait for each other, but for nothing else."""
        waiting: dict[str, list[Point]] = {}
        for event in events:
            kind = event["event"]
            if kind == "evaluation":
                trial = self._record.trials[event["trial"]]
                waiting.setdefault(trial.name, []).extend(_points(trial, event))
            elif kind in ("trial_started", "outcome", "session_ended"):
                yield from _logged(waiting)
            self._record.apply(event)
            yield from self._told(kind, event)
        yield from _logged(waiting)

    def _told(self, kind: str, event: Event) -> Iterator[Call]:
        if kind == "session_started":
            yield GoOn(PARENT)
        elif kind == "trial_started":
            yield self._start(self._record.trials[event["trial"]], event)
        elif kind == "outcome":
            yield from self._end(self._record.trials[event["trial"]], event)
        elif kind == "session_ended":
            yield SetTags(PARENT, self._summary())
            done = self._record.complete or self._record.ended_by == "time_budget"
            status = "FINISHED" if done else "KILLED"
            yield EndRun(PARENT, status, _stamp(event))

    def _start(self, trial: TrialRecord, event: Event) -> StartTrial:
        config = self._sweep.config.trial_config(trial.params)
        tags = {"sweep.trial": trial.name, "sweep.config": config.model_dump_json()}
        params = _params(config, self._vocab_size) | _axes(self._sweep.config, trial)
        return StartTrial(trial.name, run_name(trial), _stamp(event), tags, params)

    def _end(self, trial: TrialRecord, event: Event) -> Iterator[Call]:
        assert trial.outcome is not None
        tags = {
            "outcome": trial.outcome,
            "outcome.step": str(event["step"]),
            "outcome.rung": str(trial.rung) if trial.rung is not None else None,
            "outcome.reason": trial.reason,
        }
        yield SetTags(trial.name, {key: value for key, value in tags.items() if value})
        yield EndRun(trial.name, RUN_STATUS[trial.outcome], _stamp(event))
        self._outcomes += 1
        best = self._record.best
        if best is not None:
            point = Point("best_val_loss", best.best_val_loss, _stamp(event), self._outcomes)
            yield LogMetrics(PARENT, (point,))

    def _summary(self) -> dict[str, str]:
        """Return the parent's tags that tell how the sweep went."""
        best = self._record.best
        tags = {"outcomes": counts_text(self._record), "sweep.state": self._record.end}
        if best is not None:
            tags["best.trial"] = best.name
            tags["best.params"] = params_text(best.params)
        return tags


def _stamp(event: Event) -> int:
    return int(event["time"] * 1000)


def _points(trial: TrialRecord, event: Event) -> Iterator[Point]:
    values = dict(event["metrics"])
    values["best_val_loss"] = min(values["val_loss"], trial.best_val_loss)
    step = int(values.pop("step"))
    for key, value in values.items():
        yield Point(key, value, _stamp(event), step)


def _logged(waiting: dict[str, list[Point]]) -> Iterator[LogMetrics]:
    for run, points in waiting.items():
        yield LogMetrics(run, tuple(points))
    waiting.clear()


def _params(config: TrialConfig, vocab_size: int | None) -> dict[str, str]:
    values: dict[str, Any] = {
        f"{section}.{field}": value
        for section, fields in config.model_dump().items()
        for field, value in fields.items()
    }
    values["model.n_heads"] = config.model.n_heads
    values["model.d_ff"] = config.model.ff_width
    if vocab_size is not None:
        values["parameters"] = parameter_count(config.model, vocab_size)
    # Every digit: a trial can be run again from what its run shows.
    return {key: str(value) for key, value in values.items() if value is not None}


def _axes(config: SweepConfig, trial: TrialRecord) -> dict[str, str]:
    """Return what charts draw in place of values whose logarithm is searched."""
    return {
        log_param(field): f"{math.log10(trial.params[field]):.4f}"
        for field in logarithmic(config)
        if field in trial.params
    }
