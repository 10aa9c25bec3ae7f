"""The share of all steps that early stopping lets a sweep spend, by simulation."""

import numpy as np

from sweep.config.sweep import SweepConfig
from sweep.plan.sizes import size_count
from sweep.search.probes import probes_of
from sweep.search.rungs import Rungs

SIMULATED_TRIALS = 6_400

LARGEST_SIMULATED = 1_000
"""Trials of the longest sweep that is simulated: later ones survive as rarely as its last."""


LONG_BY_MODEL, SHORT_BY_MODEL = 0.44, 1.6
"""What search by gp spends, as measured on two tables of curves (benchmarks/search): a share of the
steps in a long sweep, and by how much less, over the trials, in a short one."""
LONG_FOR_TABLE, SHORT_FOR_TABLE = 0.8, 4.9
"""The same where the goal is the table of sizes."""

WARM_BY_MODEL = 0.7
"""By how much more, over the trials, where older sweeps' trials take the probes' place."""


def expected_share(config: SweepConfig) -> float:
    """Return the expected share of all steps that a sweep with early stopping spends."""
    if not config.asha.enabled:
        return 1.0
    return _by_model(config) if config.search.algorithm == "gp" else _by_rungs(config)


def _by_model(config: SweepConfig) -> float:
    trials, first = config.num_samples, config.grace_period / config.trial.train.steps
    probes = probes_of(config)
    least = (probes * first + min(trials, 2)) / trials  # the first one and the answer are whole
    long, short = LONG_BY_MODEL, SHORT_BY_MODEL
    if config.search.goal == "table":
        long, short = LONG_FOR_TABLE, SHORT_FOR_TABLE
    if config.search.warm_start:
        short = -WARM_BY_MODEL
    share = max(long - short / trials, least, first)
    return min(share, 1.0)


def _groups(config: SweepConfig) -> int:
    from sweep.search.candidates import MOST_SIZES  # scipy takes a while to import

    return min(size_count(config), MOST_SIZES)


def _by_rungs(config: SweepConfig) -> float:
    """Return the share that ASHA spends, by simulating its rule.

    The last trial trains the answer, where there is one: it enters no rung, and is never stopped.
    For the table of sizes each is ranked among those of its own.

    Trials of random, constant quality arrive one after another; better suggestions and trials
    side by side let somewhat more survive.
    """
    steps, at = config.trial.train.steps, config.rungs
    trials = min(config.num_samples, LARGEST_SIMULATED)
    groups = 1 if config.has_answer else _groups(config)
    sweeps = max(10, SIMULATED_TRIALS // trials)
    rng = np.random.default_rng(0)
    spent = 0
    for _ in range(sweeps):
        rungs = Rungs(at, config.asha.reduction_factor)
        for trial, quality in enumerate(rng.random(trials - config.has_answer).tolist()):
            group = trial % groups
            stops = (rung for rung in at if not rungs.arrive(rung, trial, quality, group))
            spent += next(stops, steps)
        spent += steps * config.has_answer
    return spent / (sweeps * trials * steps)
