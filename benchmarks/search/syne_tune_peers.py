"""Syne Tune's asynchronous methods behind the product's door; `pip install syne-tune` to run them.

They are driven as its own Tuner drives them, with the sweep's rungs and seed, all else as it comes.
The package is no dependency of the benchmarks: it brings XGBoost along.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig

STEP, LOSS = "step", "val_loss"


class SyneTune:
    """One of Syne Tune's schedulers, asked and told in the order of its Tuner.

    Args:
        config: the sweep.
        kind: a class of syne_tune.optimizer.baselines, by name.
    """

    def __init__(self, config: SweepConfig, kind: str) -> None:
        from syne_tune.optimizer import baselines

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(config.seed % 2**32)
        self._scheduler = getattr(baselines, kind)(
            config_space={name: _domain(domain) for name, domain in config.space.items()},
            metric=LOSS,
            time_attr=STEP,
            max_t=config.trial.train.steps,
            grace_period=min(config.rungs),
            reduction_factor=config.asha.reduction_factor,
            random_seed=config.seed,
        )
        self._space = config.space
        self._trials: dict[int, Any] = {}
        self.answers: frozenset[int] = frozenset()
        """No trial trains the answer: that is the product's own."""

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a new trial."""
        from syne_tune.backend.trial_status import Trial

        params = self._scheduler.suggest().config
        # Its reports want a time of creation; no method reads it.
        self._trials[number] = Trial(number, params, datetime.fromtimestamp(0))
        self._scheduler.on_trial_add(self._trials[number])
        return {name: _within(domain, params[name]) for name, domain in self._space.items()}

    def report(self, number: int, step: int, loss: float) -> bool:
        """Tell of a result; return whether the trial goes on."""
        from syne_tune.optimizer.scheduler import SchedulerDecision

        if step == 0:
            return True  # its resources begin at 1
        result = {STEP: step, LOSS: loss}
        decision = self._scheduler.on_trial_result(self._trials[number], result)
        return bool(decision == SchedulerDecision.CONTINUE)

    def tell(self, number: int, loss: float | None) -> None:
        """Tell of a trial's end, which its scheduler decided, at the last step, too."""
        self._scheduler.on_trial_remove(self._trials[number])


def _within(domain: Domain, value: Any) -> Any:
    """Return a value in its domain: BOHB's whole numbers leave it by one."""
    if domain.kind == "choice":
        return value
    low, high = domain.values
    return min(max(value, low), high)


def _domain(domain: Domain) -> Any:
    """Return a domain in Syne Tune's words."""
    from syne_tune import config_space

    if domain.kind == "choice":
        return config_space.choice(domain.values)
    kind = {"int": "randint"}.get(domain.kind, domain.kind)
    return getattr(config_space, kind)(*domain.values)
