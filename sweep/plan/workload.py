"""What a sweep is expected to train: its own search, simulated in a made-up valley of losses.

How far trials come, and of which sizes those are that come far, follows from the search, from early
stopping, and from how many run at once. Large models end lower, so most of the work is theirs.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice

import numpy as np

from sweep.config.sweep import SweepConfig
from sweep.plan.simulation import Simulation
from sweep.plan.sizes import trial_flops
from sweep.plan.valley import Valley
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method

SIMULATED_TRIALS = 64
"""Of all simulated sweeps together, at least."""
LARGEST = 48
"""Trials of the longest sweep that is simulated: a longer one goes on as its later half."""
OLDER = 24
"""Trials of a simulated older sweep, where one starts from older ones."""


@dataclass(frozen=True)
class Stint:
    """A trial as far as it comes."""

    full_steps: int
    """Its steps in full."""
    flops: int
    """Of these."""
    share: float
    """Of them, that it trains."""


@dataclass(frozen=True)
class Workload:
    """Some equally likely courses of a sweep."""

    sweeps: tuple[tuple[Stint, ...], ...]
    """Of each the trials, in the order in which they begin."""

    @property
    def share(self) -> float:
        """Expected share of the steps that all trials in full would take."""
        return self.steps * len(self.sweeps) / sum(s.full_steps for s in chain(*self.sweeps))

    @property
    def steps(self) -> float:
        """Expected steps of all trials together."""
        return sum(s.share * s.full_steps for s in chain(*self.sweeps)) / len(self.sweeps)

    def seconds(self, workers: int, of: Callable[[Stint], float]) -> float:
        """Return the expected time until the last trial ends.

        Args:
            workers: trials at once; a free one takes the next trial.
            of: seconds of a trial.
        """
        ends = []
        for stints in self.sweeps:
            free = [0.0] * min(workers, len(stints))
            for stint in stints:
                heapq.heapreplace(free, free[0] + of(stint))
            ends.append(max(free))
        return float(np.mean(ends))


def expected_workload(config: SweepConfig, vocab_size: int, workers: int) -> Workload:
    """Return what a sweep is expected to train.

    Args:
        config: the sweep.
        vocab_size: number of token ids.
        workers: trials at once.
    """
    trials = min(config.num_samples, LARGEST)
    at_once = max(1, round(workers * trials / config.num_samples))
    sweeps = []
    for place in range(-(-SIMULATED_TRIALS // trials)):
        seed = int(np.random.SeedSequence([config.seed, place]).generate_state(1)[0])
        own = config.model_copy(update={"num_samples": trials, "seed": seed})
        stints = _simulated(own, vocab_size, at_once)
        more = islice(cycle(stints[trials // 2 : -1]), config.num_samples - trials)
        sweeps.append((*stints[:-1], *more, stints[-1]))
    return Workload(tuple(sweeps))


def _simulated(config: SweepConfig, vocab_size: int, workers: int) -> list[Stint]:
    record = SweepRecord()
    if config.search.warm_start:
        search = config.search.model_copy(update={"warm_start": []})
        cold = {"search": search, "num_samples": OLDER, "seed": config.seed + 1}
        told = _run(config.model_copy(update=cold), vocab_size, SweepRecord(), workers)
        record.older.extend(replace(t, sweep="older") for t in told.trials.values())
    record = _run(config, vocab_size, record, workers)
    stints = []
    for trial in sorted(record.trials.values(), key=lambda trial: trial.number):
        full = config.trial_config(trial.params)
        steps = full.train.steps
        stints.append(Stint(steps, trial_flops(full, vocab_size), trial.step / steps))
    return stints


def _run(config: SweepConfig, vocab_size: int, record: SweepRecord, workers: int) -> SweepRecord:
    world = Valley(config, vocab_size)
    simulation = Simulation(config, build_method(config, record), world, record)
    simulation.run(workers)
    return simulation.record
