"""A made-up world of losses, for plans: larger models end lower, and each has its own best rate.

Its numbers are round ones of real curves (benchmarks/search/tables): the best rate falls with the
width (Yang et al. 2022), what is off it costs the more the earlier one looks, and the early best
rates are not the final ones.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sweep.analysis.axes import axes_of
from sweep.config.equal_flops import step_flops
from sweep.config.space import RATE
from sweep.config.sweep import SweepConfig
from sweep.plan.simulation import Course, evaluation_steps
from trainable.config.trial import TrialConfig
from trainable.model.counts import parameter_count

SIZE = 0.1
"""Nats that e times the parameters save at the end."""
RATE_AT_128X3, BY_WIDTH, BY_DEPTH = 3.7e-3, -1.0, -0.25
"""The best final rate of a model 128 wide and 3 deep, and the exponents of width and depth."""
CURVATURE, STRAIGHT = 0.14, 0.2
"""Nats that a rate e-fold off costs, and how soon that grows no faster than the distance."""
EARLY = (0.0, 0.125, 0.375, 1.0), (0.6, 0.4, -0.25, 0.0)
"""Shares of a trial's steps, and how far the best rate then is off the final one, e-folds."""
OTHERS = 0.05
"""Nats that either end of another field's domain costs."""
NOISE, JITTER = 0.015, 0.007
"""Deviations of a trial, and of each of its evaluations, nats."""


class Valley:
    """The world of a sweep's space (see World); a step's FLOPs are its seconds.

    Args:
        config: the sweep; its seed is the world's.
        vocab_size: number of token ids.
    """

    start_seconds = 0.0

    def __init__(self, config: SweepConfig, vocab_size: int) -> None:
        self._config, self._vocab_size = config, vocab_size
        axes = {axis.name: axis for axis in axes_of(config.space)}
        self._rate = axes.pop(RATE, None)
        self._others = [axis for name, axis in axes.items() if not name.startswith("model.")]

    def course(self, params: Mapping[str, Any], number: int) -> Course:
        """Return what a trial goes through."""
        trial = self._config.trial_config(dict(params))
        steps = evaluation_steps(trial.train)
        share = np.array(steps) / trial.train.steps
        rng = np.random.default_rng([self._config.seed, number])
        losses = 2.0 + 2.0 * np.exp(-8 * share) + rng.normal(0, JITTER, len(steps))
        losses += self._size(trial) * share**0.3 + self._off_rate(trial, share)
        losses += self._off_others(params) + rng.normal(0, NOISE)
        flops = step_flops(trial, self._vocab_size)
        return Course(list(zip(steps, losses.tolist(), strict=True)), flops, flops)

    def _size(self, trial: TrialConfig) -> float:
        if self._config.by_flops:
            return 0.0  # which size is the best of a budget, nobody knows beforehand
        return -SIZE * math.log(parameter_count(trial.model, self._vocab_size))

    def _off_rate(self, trial: TrialConfig, share: np.ndarray[Any, Any]) -> Any:
        if self._rate is None:
            return 0.0
        model = trial.model
        best = RATE_AT_128X3 * (model.d_model / 128) ** BY_WIDTH * (model.n_layers / 3) ** BY_DEPTH
        low, high = self._config.space[RATE].values[0], self._config.space[RATE].values[-1]
        off = math.log(trial.optim.lr / min(max(best, low), high)) - np.interp(share, *EARLY)
        return CURVATURE * off**2 / (1 + STRAIGHT * abs(off)) * (1 + (1 - share) ** 4)

    def _off_others(self, params: Mapping[str, Any]) -> float:
        places = [axis.inputs(params[axis.name]) for axis in self._others]
        return sum(OTHERS * (2 * place[0] - 1) ** 2 for place in places if len(place) == 1)
