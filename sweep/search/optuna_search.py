"""Which trial comes next: Ray's OptunaSearch, made repeatable and resumable.

The n-th suggestion is a pure function of the seed, n, and the results known by then: a new sampler
is seeded for each. A resume rebuilds the study from the sweep's own record, so there is no second
store that could disagree, and nothing is unpickled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.search.optuna import OptunaSearch

from sweep.config.space import Domain
from sweep.config.sweep import SearchConfig, SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL


class SweepSearch(OptunaSearch):  # type: ignore[misc]  # Ray is untyped
    """Suggests trials for one session of a sweep.

    First the unfinished trials of earlier sessions, from their checkpoints, then new ones.

    Args:
        config: the sweep.
        record: what earlier sessions did.
        checkpoints: for each unfinished trial its checkpoint folders, newest first.
        concurrent: how many trials may run at once. No suggestion is made ahead of its turn, so
            each knows all the results there are.
    """

    def __init__(
        self,
        config: SweepConfig,
        record: SweepRecord,
        checkpoints: Mapping[str, list[str]],
        concurrent: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config = config
        self._checkpoints = dict(checkpoints)
        self._concurrent = concurrent
        self._running: set[str] = set()
        self._resuming = sorted(record.unfinished, key=lambda trial: trial.number)
        # A driver may have been killed when a later trial had begun and an earlier one had not.
        self._taken = {trial.number for trial in record.trials.values()}
        self._next_number = 0
        space = {name: distribution(domain) for name, domain in config.space.items()}
        super().__init__(space=space, metric="val_loss", mode="min", sampler=RandomSampler())
        for trial in sorted(record.trials.values(), key=lambda trial: trial.number):
            if trial in self._resuming:  # TPE weighs trials by their place: it stays
                self._ot_study.enqueue_trial(trial.params)
            else:
                self._ot_study.add_trial(_closed(trial, space))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the Tune config of the next trial (see LanguageModelTrial); None: not yet."""
        if len(self._running) >= self._concurrent:
            return None
        self._running.add(trial_id)
        if self._resuming:
            name, fixed = self._resuming.pop(0).name, {}
        else:
            while self._next_number in self._taken:
                self._next_number += 1
            number = self._next_number
            self._taken.add(number)
            points = self._config.start_points
            name, fixed = f"t{number:03d}", points[number] if number < len(points) else {}
        if fixed:
            self._ot_study.enqueue_trial(fixed)
        self._ot_study.sampler = sampler(self._config.search, self._config.seed, int(name[1:]))
        super().suggest(trial_id)
        params: dict[str, Any] = self._ot_trials[trial_id].params
        gpus = self._config.gpus_per_trial
        return {
            "name": name,
            "params": params,
            "trial": self._config.trial_config(params).model_dump(),
            "resume_from": self._checkpoints.get(name, []),
            "gpu_share": gpus if 0 < gpus < 1 else None,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that ended."""
        self._running.discard(trial_id)
        super().on_trial_complete(trial_id, result, error)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: stopped trials count with their last loss, not with their curve."""


def distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    if domain.choice is not None:
        return CategoricalDistribution(domain.choice)
    if domain.integers is not None:
        low, high = domain.integers
        return IntDistribution(low, high)
    bottom, top = domain.values
    return FloatDistribution(bottom, top, log=domain.loguniform is not None)


def sampler(config: SearchConfig, seed: int, number: int) -> BaseSampler:
    """Return the sampler of suggestion `number`, every option that affects it pinned."""
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if config.algorithm == "random":
        return RandomSampler(seed=own_seed)
    return TPESampler(
        n_startup_trials=config.startup_trials,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
        seed=own_seed,
    )


def _closed(trial: TrialRecord, space: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    """Return an ended trial of an earlier session as Optuna was told of it."""
    state, value = optuna.trial.TrialState.COMPLETE, None
    if trial.outcome in ("finished", "stopped"):
        value = trial.evaluations[-1]["val_loss"]
    elif trial.outcome in ("diverged", "out_of_memory"):
        value = OBJECTIVE_OF_A_LOST_TRIAL
    else:
        state = optuna.trial.TrialState.FAIL
    return optuna.trial.create_trial(
        state=state, value=value, params=trial.params, distributions=space
    )
