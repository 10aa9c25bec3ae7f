"""The share of all steps that early stopping lets a sweep spend, by simulation."""

import numpy as np

from sweep.config.sweep import SweepConfig
from sweep.search.rungs import Rungs

SIMULATED_TRIALS = 6_400

LARGEST_SIMULATED = 1_000
"""Trials of the longest sweep that is simulated: later ones survive as rarely as its last."""


def expected_share(config: SweepConfig) -> float:
    """Return the expected share of all steps that ASHA spends, by simulating its rule.

    The last trial trains the answer: it enters no rung, and is never stopped.

    Trials of random, constant quality arrive one after another; better suggestions and trials
    side by side let somewhat more survive.
    """
    steps, at = config.trial.train.steps, config.rungs
    trials = min(config.num_samples, LARGEST_SIMULATED)
    sweeps = max(10, SIMULATED_TRIALS // trials)
    rng = np.random.default_rng(0)
    spent = 0
    for _ in range(sweeps):
        rungs = Rungs(at, config.asha.reduction_factor)
        for trial, quality in enumerate(rng.random(trials - 1).tolist()):
            stops = (rung for rung in at if not rungs.arrive(rung, trial, quality))
            spent += next(stops, steps)
        spent += steps
    return spent / (sweeps * trials * steps)
