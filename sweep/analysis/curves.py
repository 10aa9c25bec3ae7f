"""Evaluations of trials as rows of the process, those of older sweeps beside a sweep's own."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sweep.analysis.gaussian_process import Array, Rows
from sweep.record.results import TrialRecord

Told = tuple[TrialRecord, dict[str, float]]
"""A trial, and one of its evaluations."""

FEW = (1, 2, 3, 5, 8)
"""Which of a trial's evaluations count, besides its last: losses close in time say the same."""


def evaluations_of(trial: TrialRecord, places: Sequence[int]) -> list[Told]:
    """Return a trained trial's evaluations at these places, from 1 on, and its last."""
    trained = [e for e in trial.evaluations if e["step"] > 0]
    return [(trial, e) for n, e in enumerate(trained, 1) if n in places or n == len(trained)]


def rows_from(
    told: Sequence[Told], inputs: Array, full_steps: Callable[[TrialRecord], int]
) -> Rows:
    """Return evaluations as rows.

    Args:
        told: at least one.
        inputs: (n, d), of their trials.
        full_steps: steps of a trial in full.
    """
    sweeps: dict[str | None, int] = {None: 0}
    older: dict[tuple[str, int], int] = {}
    trials = []
    for trial, _ in told:
        sweeps.setdefault(trial.sweep, len(sweeps))
        if trial.sweep is None:
            trials.append(trial.number)
        else:
            trials.append(older.setdefault((trial.sweep, trial.number), -1 - len(older)))
    return Rows(
        inputs=inputs,
        backwards=np.array([math.log(full_steps(t) / e["step"]) for t, e in told]),
        trial=np.array(trials),
        loss=np.array([e["val_loss"] for _, e in told]),
        sweep=np.array([sweeps[trial.sweep] for trial, _ in told]),
    )
