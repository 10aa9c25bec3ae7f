"""The sweep as it runs: a live table in a terminal, a few plain lines elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live

from sweep.analysis.words import duration, outcome_text, params_text
from sweep.config.sweep import SweepConfig
from sweep.record.lines import Event
from sweep.record.planned import PlannedCost
from sweep.record.results import SweepRecord, TrialRecord
from sweep.show.console import say
from sweep.show.live import LiveView

PLAIN_LINES = 16
"""Ended trials that plain output tells of, at most; a larger sweep tells of every n-th."""


class Progress:
    """Shows a sweep's events; a context manager around the session.

    Args:
        config: the sweep.
        record: kept up to date by whoever sends the events.
        plan: what all trials are expected to take; None if that is not known.
        console: where to.
        trouble: says what ails MLflow, or None.
    """

    def __init__(
        self,
        config: SweepConfig,
        record: SweepRecord,
        plan: PlannedCost | None,
        console: Console,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._config = config
        self._record = record
        self._plan = plan
        self._console = console
        self._trouble = trouble
        self._started = time.monotonic()
        self._steps_before = self._record.steps
        self._ended_before = self._record.ended
        self._view = LiveView(config, record)
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def notice(self, event: Event) -> None:
        """Show what just happened."""
        self._view.notice(event)
        kind = event["event"]
        if kind in ("trial_restarted", "notice"):
            text = event.get("reason") or event.get("text")
            say(self._console, f"{event['trial']}: {text}" if "trial" in event else str(text))
        elif kind == "outcome":
            trial = self._record.trials[event["trial"]]
            if trial.outcome in ("failed", "out_of_memory"):
                say(self._console, f"{trial.name} {outcome_text(trial)}: {trial.reason}")
            elif self._live is None and self._tells(trial):
                say(self._console, self._plain_line(trial))

    def _tells(self, trial: TrialRecord) -> bool:
        every = -(-self._config.num_samples // PLAIN_LINES)
        return self._record.ended % every == 0 or self._record.ended == self._config.num_samples

    def _plain_line(self, trial: TrialRecord) -> str:
        best = self._record.best
        so_far = f"best {best.best_val_loss:.4f} ({best.name})" if best else "no loss yet"
        loss = (
            "-"
            if trial.outcome == "diverged" or not trial.evaluations
            else f"{trial.best_val_loss:.4f}"
        )
        return (
            f"[{self._record.ended}/{self._config.num_samples}] {trial.name} "
            f"{params_text(trial.params)}: {loss}, {outcome_text(trial)}; {so_far}; "
            f"{self._time_left()} left"
        )

    def _render(self) -> Group:
        elapsed = duration(time.monotonic() - self._started)
        shown = f"{elapsed}, {self._time_left()} left"
        return Group(*self._view.lines(self._console.options, shown, self._trouble()))

    def _time_left(self) -> str:
        """Return the time left: by the pace in steps and in trials, at first by the plan."""
        elapsed = time.monotonic() - self._started
        done, ended = self._record.steps, self._record.ended
        if ended >= self._config.num_samples:
            return "0 s"  # whatever was expected of its steps
        guesses = []
        if self._plan is not None and done > self._steps_before:
            left = max(0.0, self._plan.steps - done)
            guesses.append(elapsed / (done - self._steps_before) * left)
        if ended > self._ended_before:
            to_do = self._config.num_samples - ended
            guesses.append(elapsed / (ended - self._ended_before) * to_do)
        if not guesses:
            if self._plan is None or self._plan.seconds is None:
                return "?"
            guesses.append(self._plan.seconds)
        return "about " + duration(sum(guesses) / len(guesses))
