"""The search methods in Optuna, TPE and random, made repeatable and resumable.

They stop trials early at rungs, by asynchronous successive halving; the last one, which trains
the answer, enters none. Where the goal is the table of sizes, these come in turn, the sampler draws
the rest, and each trial is ranked among those of its size.

A new sampler is seeded for each suggestion. A resume rebuilds the study from the sweep's own
record, so there is no second store that could disagree, and nothing is unpickled.
"""

from collections.abc import Container, Mapping
from functools import cached_property
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
from optuna.trial import TrialState

from sweep.analysis.axes import axes_of
from sweep.analysis.sizes import size_fields
from sweep.config.search import SearchConfig
from sweep.config.space import Domain, is_within
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from sweep.search.answers import Answers
from sweep.search.ask_tell import told_loss
from sweep.search.known import Known
from sweep.search.rungs import RungStops, group_of


class OptunaMethod:
    """A search method (see AskTell) by one of Optuna's samplers.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config = config
        in_turn = size_fields(config)[0] if config.search.goal == "table" else []
        self._space = {n: distribution(d) for n, d in config.space.items() if n not in in_turn}
        """Of the fields that the sampler draws."""
        self._stops = RungStops(config, record)
        self._known = Known(config, record)
        self._answers = Answers(config, record, self._known)
        self._asked: dict[int, optuna.trial.Trial] = {}
        self._waiting = {trial.number for trial in record.unfinished}
        self.study = optuna.create_study(sampler=RandomSampler())
        """What Optuna knows of the sweep."""
        for trial in record.older:
            if is_within(config.space, config.trial, trial.params):  # Optuna can hold no other
                self.study.add_trial(self._ended(trial))
        for trial in sorted(record.trials.values(), key=lambda trial: trial.number):
            if trial.number in self._waiting:  # TPE weighs trials by their place: it stays
                self.study.enqueue_trial(self._drawn(trial.params))
            else:
                self.study.add_trial(self._ended(trial))

    @property
    def answers(self) -> Container[int]:
        """Numbers of the trials that train the answer."""
        return self._answers.numbers

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of trial `number`, those of `fixed` as they are there."""
        if number not in self._waiting:
            fixed = fixed or self._answers.params(number) or {}
        if self._drawn(fixed) and number not in self._waiting:
            self.study.enqueue_trial(self._drawn(fixed))
        self.study.sampler = sampler(self._config.search, self._config.seed, number)
        self._asked[number] = self.study.ask(self._space)
        drawn = self._asked[number].params
        if len(drawn) < len(self._config.space):
            told = {**self._size_in_turn(number), **fixed, **drawn}
            drawn = {name: told[name] for name in self._config.space}
        self._known.begins(number, drawn)
        return drawn

    def report(self, number: int, step: int, loss: float) -> bool:
        """Take in an evaluation; return whether the trial goes on, by the rungs."""
        self._known.hears(number, step, loss)
        trial = self._known.trials[number]
        at, group = self._known.plan_step(trial, step), group_of(self._config, trial.params)
        return number in self.answers or self._stops.report(number, at, loss, group)

    def tell(self, number: int, loss: float | None) -> None:
        """Take in the last loss of a trial; None: it failed."""
        self._known.ends(number, loss)
        state = TrialState.FAIL if loss is None else TrialState.COMPLETE
        self.study.tell(self._asked.pop(number), loss, state)

    def _drawn(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a trial's parameters that the study knows."""
        return {name: value for name, value in params.items() if name in self._space}

    def _size_in_turn(self, number: int) -> dict[str, Any]:
        """Return the size of trial `number`: each comes once a round, in an order of its own."""
        place, sizes = max(0, number - len(self._config.start_points)), self._sizes
        rng = np.random.default_rng([self._config.seed, place // len(sizes)])
        size: dict[str, Any] = sizes[rng.permutation(len(sizes))[place % len(sizes)]]
        return size

    @cached_property
    def _sizes(self) -> list[dict[str, Any]]:
        from sweep.search.candidates import Candidates  # scipy takes a while to import

        axes, names = axes_of(self._config.space), size_fields(self._config)[0]
        found = Candidates(self._config, axes, axes).sizes
        return [dict(zip(names, size, strict=True)) for size in found]

    def _ended(self, trial: TrialRecord) -> optuna.trial.FrozenTrial:
        """Return a trial of an earlier session as the study was told of it."""
        loss = told_loss(trial)
        return optuna.trial.create_trial(
            state=TrialState.FAIL if loss is None else TrialState.COMPLETE,
            value=loss,
            params=self._drawn(trial.params),
            distributions=self._space,
        )


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
