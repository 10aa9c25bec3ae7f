"""The share of all steps that early stopping lets a sweep spend, by simulation."""

import bisect

import numpy as np

from sweep.config.sweep import SweepConfig

SIMULATED_TRIALS = 6_400

LARGEST_SIMULATED = 1_000
"""Trials of the longest sweep that is simulated: later ones survive as rarely as its last."""


def expected_share(config: SweepConfig) -> float:
    """Return the expected share of all steps that ASHA spends, by simulating its rule.

    Trials of random, constant quality arrive one after another; better suggestions and trials
    side by side let somewhat more survive.
    """
    steps, quantile = config.trial.train.steps, 1 / config.asha.reduction_factor
    trials = min(config.num_samples, LARGEST_SIMULATED)
    sweeps = max(10, SIMULATED_TRIALS // trials)
    rng = np.random.default_rng(0)
    spent = 0
    for _ in range(sweeps):
        seen: list[list[float]] = [[] for _ in config.rungs]
        for quality in rng.random(trials).tolist():
            reached = steps
            for rung, losses in zip(config.rungs, seen, strict=True):
                survives = not losses or quality <= _quantile(losses, quantile)
                bisect.insort(losses, quality)
                if not survives:
                    reached = rung
                    break
            spent += reached
    return spent / (sweeps * trials * steps)


def _quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of ascending numbers, between two of them by a straight line."""
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
