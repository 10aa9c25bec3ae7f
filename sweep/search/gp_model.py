"""The model behind `search.algorithm: gp`: what the trials so far say of every configuration.

Rows are thinned so that a decision costs a bounded time, and the hyperparameters are found anew
only when the trials that have ended are a quarter more than at the last time: from those trials
alone, in the order in which they ended. So both are functions of the record. Trials of older sweeps
count as the first that ended.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sweep.analysis.axes import Axis, inputs_of
from sweep.analysis.curves import FEW, Told, evaluations_of, rows_from
from sweep.analysis.gaussian_process import Array, GaussianProcess, Rows, Scales, searched
from sweep.record.results import TrialRecord

KEPT = (FEW, (2,), ())
"""Which evaluations of each trial count beside its last: the first choice that leaves few enough
rows. Losses close in time say the same."""
MOST_ROWS = 400
"""Rows of a decision. Where there are more trials, the half that came furthest count, and an even
choice of the others, with their last evaluations."""
ROWS_OF_SCALES = 160
"""Rows that hyperparameters are fitted to."""
GROWTH = 1.25
"""By which factor the trials that have ended grow between two fits of the hyperparameters."""
FIRST_STEPS, LATER_STEPS = (0.7, 0.4, 0.25, 0.15), (0.3, 0.15)
"""Steps of the coordinate search for hyperparameters: at first, and from the last ones on."""


class Model:
    """Rows and hyperparameters.

    Args:
        axes: the inputs.
        full_steps: steps of a trial in full.
        first: trials that end before hyperparameters are fitted.
        older: trials of the sweeps that this one starts from.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        full_steps: Callable[[TrialRecord], int],
        first: int,
        older: Sequence[TrialRecord] = (),
    ) -> None:
        self._axes, self._full_steps, self._older = axes, full_steps, older
        self._inputs: dict[tuple[str | None, int], Array] = {}
        """Of each trial, (d,)."""
        self._next_fit = max(first, len(older))
        self._scales: Scales | None = None

    def inputs(self, trial: TrialRecord) -> Array:
        """Return a trial's inputs (d,)."""
        key = (trial.sweep, trial.number)
        if key not in self._inputs:
            self._inputs[key] = inputs_of(self._axes, [trial.params])[0]
        return self._inputs[key]

    def scales(self, ended: Sequence[TrialRecord]) -> Scales:
        """Return the hyperparameters, given the trials that have ended, in this order."""
        older = len(self._older)
        while older + len(ended) >= self._next_fit:
            rows = self.rows(ended[: self._next_fit - older], ROWS_OF_SCALES)
            if rows is not None:
                steps = FIRST_STEPS if self._scales is None else LATER_STEPS
                self._scales = searched(rows, self._scales or self._prior(), steps).scales
            self._next_fit = math.ceil(self._next_fit * GROWTH)
        return self._scales or self._prior()

    def rows(self, trials: Sequence[TrialRecord], most: int = MOST_ROWS) -> Rows | None:
        """Return the rows of trials whose losses count, at most so many; None if there are none.

        Those of older sweeps have the room that the others leave.
        """
        told = thinned(trials, most)
        told += thinned(self._older, most - len(told))
        if not told:
            return None
        inputs = np.array([self.inputs(trial) for trial, _ in told])
        return rows_from(told, inputs, self._full_steps)

    def posterior(self, rows: Rows, ended: Sequence[TrialRecord]) -> GaussianProcess:
        """Return the process given rows, with the hyperparameters of the trials that ended."""
        return GaussianProcess(rows, self.scales(ended))

    def believing(
        self, process: GaussianProcess, rows: Rows, running: Sequence[TrialRecord]
    ) -> GaussianProcess:
        """Return the process given rows, as if running trials had ended with what it expects."""
        inputs = np.array([self.inputs(trial) for trial in running])
        believed = Rows(
            inputs=np.concatenate([rows.inputs, inputs]),
            backwards=np.concatenate([rows.backwards, np.zeros(len(running))]),
            trial=np.concatenate([rows.trial, [trial.number for trial in running]]),
            loss=np.concatenate([rows.loss, process.final_mean(inputs)]),
            sweep=np.concatenate([rows.sweep, np.zeros(len(running), dtype=np.int64)]),
        )
        return GaussianProcess(believed, process.scales)

    def _prior(self) -> Scales:
        return Scales.prior(sum(len(axis.inputs(axis.grid(2)[0])) for axis in self._axes))


def thinned(trials: Sequence[TrialRecord], most: int) -> list[Told]:
    """Return the evaluations, at most so many, of trials whose losses count."""
    counted = [t for t in trials if t.is_comparable and t.step > 0]
    counted.sort(key=lambda trial: (-trial.step, trial.sweep or "", trial.number))
    if len(counted) > most:
        even = np.linspace(most // 2, len(counted) - 1, most - most // 2).astype(int)
        counted = counted[: most // 2] + [counted[n] for n in even]
    # Where each trial has room for one row, only the last choice can do.
    for places in KEPT if len(counted) < most else KEPT[-1:]:
        told = [one for trial in counted for one in evaluations_of(trial, places)]
        if len(told) <= most:
            break
    return told
