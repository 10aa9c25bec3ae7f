"""What a search method knows of the trials: what the record holds, and what it heard since."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL


class Known:
    """The trials of a sweep as a search method knows them.

    The last step's evaluation counts from the word of the trial's end on: between the two other
    trials may report, and what they are judged by must be the same after a resume.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        self._config = config
        self._full: dict[tuple[str | None, int], int] = {}
        """Steps of each trial in full, by its sweep, if it is an older one's, and number."""
        self.trials: dict[int, TrialRecord] = {}
        """By number; `outcome` of those that run is None."""
        self.older = record.older
        """Those of the sweeps that this one starts from."""
        self.ended: list[int] = [record.trials[name].number for name in record.in_order]
        """The trials that have ended, in this order."""
        for trial in record.trials.values():
            self.trials[trial.number] = replace(trial, evaluations=[], outcome=trial.outcome)
            for evaluation in trial.evaluations:
                self.trials[trial.number].evaluations.append(evaluation)
        for trial in record.unfinished:
            known = self.trials[trial.number]
            known.outcome = None
            full = self.full_steps(known)
            known.evaluations = [e for e in known.evaluations if e["step"] < full]
            self.ended = [number for number in self.ended if number != trial.number]
        self.plan_steps = sum(map(self.plan_step, self.trials.values()))
        """Sum of where all trials are, in steps of the plan: each decision asks for it."""

    def begins(self, number: int, params: Mapping[str, Any]) -> None:
        """Take in that a trial runs."""
        if number not in self.trials:
            self.trials[number] = TrialRecord(f"t{number:03d}", dict(params), 0.0)

    def hears(self, number: int, step: int, loss: float) -> bool:
        """Take in an evaluation; return whether it is a new one."""
        trial = self.trials[number]
        if trial.evaluations and step <= trial.step:
            return False
        self.plan_steps += self.plan_step(trial, step) - self.plan_step(trial)
        trial.evaluations.append({"step": step, "val_loss": loss})
        return True

    def ends(self, number: int, loss: float | None) -> None:
        """Take in a trial's end, as AskTell.tell hears of it."""
        trial = self.trials[number]
        if loss is None:
            trial.outcome = "failed"
        elif loss == OBJECTIVE_OF_A_LOST_TRIAL:
            trial.outcome = "diverged"
        else:
            trial.outcome = "finished" if trial.step >= self.full_steps(trial) else "stopped"
        self.ended.append(number)

    def full_steps(self, trial: TrialRecord) -> int:
        """Return the steps of a trial in full."""
        key = trial.sweep, trial.number
        if key not in self._full:
            self._full[key] = self._config.full_steps(trial.params)
        return self._full[key]

    def plan_step(self, trial: TrialRecord, step: int | None = None) -> int:
        """Return where a trial is, or was at a step, in steps of the plan."""
        step = trial.step if step is None else step
        return step * self._config.trial.train.steps // self.full_steps(trial)

    @property
    def all(self) -> list[TrialRecord]:
        """The sweep's own trials, and those of older ones."""
        return [*self.trials.values(), *self.older]

    @property
    def running(self) -> list[TrialRecord]:
        """The trials that have not ended, by their numbers."""
        return sorted(
            (t for t in self.trials.values() if t.outcome is None), key=lambda t: t.number
        )
