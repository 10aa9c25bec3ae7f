"""What a sweep's time budget still allows: by the pace measured so far, at first by the plan's."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweep.config.equal_flops import step_flops
from sweep.config.sweep import SweepConfig
from sweep.record.lines import Event
from sweep.record.results import SweepRecord
from trainable.config.trial import TrialConfig


@dataclass
class _Mean:
    """Seconds of something that was done so many times."""

    seconds: float = 0.0
    times: int = 0

    def add(self, seconds: float, times: int) -> None:
        self.seconds += max(0.0, seconds)  # a clock may be set back
        self.times += times

    @property
    def each(self) -> float:
        return self.seconds / self.times if self.times else 0.0


class TimeBudget:
    """The time that a sweep may take while trials run, all its sessions together.

    It must hear of all events of the sweep, of those of earlier sessions as well.

    Args:
        config: the sweep.
        vocab_size: number of token ids.
        paces: what the plan expects (see Forecast).
    """

    def __init__(
        self, config: SweepConfig, vocab_size: int, paces: Mapping[int, float] | None = None
    ) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._paces = paces or {}
        self._ends = float("inf")
        """When it is used up, on the monotonic clock, seconds."""
        self._refused = False
        self._flops: dict[str, int] = {}
        """Of trial.train.steps steps of each trial."""
        self._seen: dict[str, tuple[float, int]] = {}
        """When each trial was last heard of, and its step then."""
        self._beginning = _Mean()
        """From a trial's start to its evaluation before the first step."""
        self._steps: dict[int, _Mean] = {}
        """A step with its share of evaluations and saves, by the FLOPs of trial.train.steps."""

    def begin(self, record: SweepRecord) -> None:
        """Let the clock run from now on; earlier sessions have taken their part."""
        if self._config.budget_seconds is not None:
            self._ends = time.monotonic() + self._config.budget_seconds - record.seconds

    @property
    def left(self) -> float:
        """Seconds left; infinite without a budget."""
        return self._ends - time.monotonic()

    @property
    def is_used_up(self) -> bool:
        """Whether it has kept a trial from its beginning, or from its end."""
        return self._refused or self.left <= 0

    def allows(self, trial: TrialConfig, done: int) -> bool:
        """Say whether a trial that has `done` steps can come to its end in time.

        After one that cannot none can: a sweep that went on with the smaller ones alone would have
        looked at these sizes more than at the others.
        """
        self._refused = self._refused or self.expected_seconds(trial, done) > self.left
        return not self._refused

    def expected_seconds(self, trial: TrialConfig, done: int = 0) -> float:
        """Return what is left of a trial that has `done` steps, in seconds; 0 if nothing is known.

        Sizes that were not measured lie between those that were. A smaller one is taken to be as
        slow as the smallest of them, a larger one to be slower by its FLOPs.
        """
        steps = self._config.trial.train.steps
        seen = {flops: mean.each * steps for flops, mean in self._steps.items() if mean.times}
        known = seen or self._paces
        if not known:
            return 0.0
        sizes, flops = sorted(known), steps * step_flops(trial, self._vocab_size)
        seconds = float(np.interp(flops, sizes, [known[size] for size in sizes]))
        larger = max(1.0, flops / sizes[-1])
        return self._beginning.each + seconds * larger * (trial.train.steps - done) / steps

    def notice(self, event: Event) -> None:
        """Take the pace of the trials from what is recorded."""
        kind, name = event["event"], event.get("trial", "")
        _, step = self._seen.get(name, (0.0, 0))
        if kind == "trial_started":
            trial = self._config.trial_config(event["params"])
            each = step_flops(trial, self._vocab_size)
            self._flops[name] = self._config.trial.train.steps * each
        if kind in ("trial_started", "trial_restarted"):
            self._seen[name] = (event["time"], step)
        elif kind == "evaluation":
            before, step = self._seen[name]
            self._seen[name] = (event["time"], int(event["metrics"]["step"]))
            done = self._seen[name][1] - step
            if done:
                steps = self._steps.setdefault(self._flops[name], _Mean())
                steps.add(event["time"] - before, done)
            else:
                self._beginning.add(event["time"] - before, 1)
