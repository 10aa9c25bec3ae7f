"""A sweep with a simulated clock: real learning curves, any number of workers, the product's code.

The clock is that of plans (sweep/plan/simulation.py); the method is a search method of the product
(sweep/search/ask_tell.py) as `build_method` returns it. To try a method or a setting on a table, in
a second or so:

    from benchmarks.search.measures import regrets
    from benchmarks.search.methods import product
    from benchmarks.search.simulator import simulate, sweep_config
    from benchmarks.search.table import load

    table = load("python-stdlib")
    for seed in range(20):
        config = sweep_config(table, trials=32, seed=seed, algorithm="gp")
        replay = simulate(table, config, product(config), workers=2)
        regrets(table, replay, [0.25, 0.5, 1.0], seconds=92)

Whoever tunes takes seeds below 1,000: those from there on are the benchmark's, and choose nothing.

What a trial sees: the table's expected curve of its parameters plus real deviations, with either
sign. A sweep trains all its trials with one seed, so one deviation is common to all trials of a
size, and each has another of its own. The draws are pure functions of the sweep's seed, the size
and the trial's number, so methods meet the same luck. A trial takes START seconds and the table's
seconds a step; no worker ever fails, and nothing diverges, since nothing did in the tables.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

import numpy as np

from benchmarks.search.table import Array, Size, Table
from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig
from sweep.plan.simulation import Course, Simulation, evaluation_steps
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import AskTell
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.yaml_file import read_yaml

START = 0.15
"""Seconds from a trial's end to the next one's first step (benchmarks/README.md, `sweep`)."""


@dataclass(frozen=True)
class Answer:
    """What a sweep would return at some time: the trial with the lowest loss so far."""

    seconds: float
    """Simulated, since the sweep's start."""
    flops: float
    """Of all trials, by then."""
    trial: str
    params: dict[str, Any]


@dataclass
class Replay:
    """A simulated sweep."""

    record: SweepRecord
    """As a real one's; its times are simulated seconds."""
    answers: list[Answer] = field(default_factory=list)
    """By time; each holds until the next one."""
    seconds: float = 0.0
    """Simulated, until the last trial ended."""
    flops: float = 0.0
    """Of all trials."""
    driver_seconds: float = 0.0
    """CPU seconds of the method itself, all trials together."""


def sweep_config(table: Table, trials: int, seed: int, algorithm: str = "tpe") -> SweepConfig:
    """Return the default sweep (configs/sweep.yaml) over a table's space.

    What lies outside that space of the default's start point is left out of it.
    """
    values = read_yaml(config_file("sweep.yaml"))
    space = {name: Domain.model_validate(kind) for name, kind in table.head["space"].items()}
    values |= {
        "space": space,
        "start_points": [
            {
                name: value
                for name, value in point.items()
                if name in space and space[name].contains(value)
            }
            for point in values["start_points"]
        ],
        "num_samples": trials,
        "seed": seed,
    }
    values["search"] = values.get("search", {}) | {"algorithm": algorithm}
    return validate(SweepConfig, values, "table")


def simulate(
    table: Table,
    config: SweepConfig,
    method: AskTell,
    workers: int,
    until: float | None = None,
) -> Replay:
    """Run a sweep on a table.

    Args:
        table: the world.
        config: the sweep; its seed is the world's, too.
        method: fresh, of this sweep.
        workers: trials at once.
        until: simulated seconds after which nothing happens any more, and until which trials begin
            however many there were; None: `num_samples` trials, to their ends.
    """
    timed = _Timed(method)
    replay = Replay(SweepRecord())

    def heard(simulation: Simulation) -> None:
        best = replay.record.best
        assert best is not None
        if not replay.answers or replay.answers[-1].trial != best.name:
            now = simulation.seconds, simulation.flops
            replay.answers.append(Answer(*now, best.name, best.params))

    simulation = Simulation(config, timed, _World(table, config), replay.record)
    simulation.run(workers, until, heard)
    replay.seconds, replay.flops = simulation.seconds, simulation.flops
    replay.driver_seconds = timed.seconds
    return replay


class _World:
    """A table as the world of a sweep (see World)."""

    start_seconds = START

    def __init__(self, table: Table, config: SweepConfig) -> None:
        self._table, self._seed = table, config.seed
        self._steps = evaluation_steps(config.trial.train)
        self._places = [table.steps.index(step) for step in self._steps]

    def course(self, params: Mapping[str, Any], number: int) -> Course:
        """Return what a trial goes through."""
        size, _ = self._table.split(params)
        losses = seen_losses(self._table, params, self._seed, number)[self._places]
        return Course(
            losses=list(zip(self._steps, losses.tolist(), strict=True)),
            step_seconds=self._table.seconds_per_step(size),
            step_flops=self._table.flops_per_step(size),
        )


class _Timed:
    """A method, and the CPU seconds that it took."""

    def __init__(self, method: AskTell) -> None:
        self._method = method
        self.seconds = 0.0

    @property
    def answers(self) -> Container[int]:
        return self._method.answers

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        started = thread_time()
        params = self._method.ask(number, fixed)
        self.seconds += thread_time() - started
        return params

    def report(self, number: int, step: int, loss: float) -> bool:
        started = thread_time()
        goes_on = self._method.report(number, step, loss)
        self.seconds += thread_time() - started
        return goes_on

    def tell(self, number: int, loss: float | None) -> None:
        started = thread_time()
        self._method.tell(number, loss)
        self.seconds += thread_time() - started


def seen_losses(table: Table, params: Mapping[str, Any], seed: int, number: int) -> Array:
    """Return the losses (steps,) that trial `number` of a sweep sees."""
    own = _drawn(table.luck.own, seed, number)
    size, _ = table.split(params)
    return table.expected(params) + common_luck(table, size, seed) + own


def common_luck(table: Table, size: Size, seed: int) -> Array:
    """Return the deviation (steps,) of all trials of a size in a sweep."""
    # One number more than of a trial, or a size would have the luck of the trial so numbered.
    return _drawn(table.luck.common, seed, table.sizes.index(size), 0)


def _drawn(deviations: Array, *seed: int) -> Array:
    rng = np.random.default_rng(seed)
    drawn: Array = deviations[rng.integers(len(deviations))] * rng.choice([-1.0, 1.0])
    return drawn
