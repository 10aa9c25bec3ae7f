"""A sweep with a simulated clock: real learning curves, any number of workers, the product's code.

The method is a search method of the product (sweep/search/ask_tell.py) as `build_method` returns
it, asked and told in the order in which a sweep would; what happens is a sweep's record. To try a
method or a setting on a table, in a second or so:

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

What a trial sees: the table's expected curve of its parameters plus a real deviation, drawn from
those of the trained curves near an optimum, with either sign. The draw is a pure function of the
seed and the trial's number, so methods meet the same luck. A trial takes START seconds and the
table's seconds a step; no worker ever fails, and nothing diverges, since nothing did in the tables.
"""

import heapq
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

import numpy as np

from benchmarks.search.table import Array, Table
from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig
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
    simulation = _Simulation(table, config, method)
    simulation.run(workers, until)
    return simulation.replay


@dataclass(order=True)
class _Running:
    """A trial and its next evaluation."""

    due: float
    """When it is reported, seconds."""
    number: int
    params: dict[str, Any] = field(compare=False)
    losses: Array = field(compare=False)
    """(steps,), as this trial sees them."""
    step: int = field(compare=False)
    """Of the next evaluation."""
    per_step: float = field(compare=False)
    flops: int = field(compare=False)


class _Simulation:
    def __init__(self, table: Table, config: SweepConfig, method: AskTell) -> None:
        self._table, self._config, self._method = table, config, method
        self._train = config.trial.train
        self._at = {step: place for place, step in enumerate(table.steps)}
        self._numbers = iter(range(10**6))
        self.replay = Replay(SweepRecord())

    def run(self, workers: int, until: float | None) -> None:
        most = self._config.num_samples if until is None else 10**6
        self._apply("session_started", 0.0, session=1, num_samples=self._config.num_samples)
        running = [self._begin(0.0) for _ in range(min(workers, most))]
        heapq.heapify(running)
        begun = len(running)
        while running:
            trial = heapq.heappop(running)
            if until is not None and trial.due > until:
                break
            if self._goes_on(trial):
                heapq.heappush(running, trial)
            elif begun < most:
                heapq.heappush(running, self._begin(trial.due))
                begun += 1
        self._apply("session_ended", self.replay.seconds, completed=until is None)

    def _begin(self, now: float) -> _Running:
        number = next(self._numbers)
        points = self._config.start_points
        fixed = points[number] if number < len(points) else {}
        started = thread_time()
        params = self._method.ask(number, fixed)
        self.replay.driver_seconds += thread_time() - started
        size, _ = self._table.split(params)
        answer = {"answer": True} if number in self._method.answers else {}
        self._apply("trial_started", now, trial=_name(number), params=params, **answer)
        return _Running(
            due=now + START,
            number=number,
            params=params,
            losses=seen_losses(self._table, params, self._config.seed, number),
            step=0,
            per_step=self._table.seconds_per_step(size),
            flops=self._table.flops_per_step(size),
        )

    def _goes_on(self, trial: _Running) -> bool:
        """Report a trial's evaluation; say whether there is a next one."""
        now, step, loss = trial.due, trial.step, float(trial.losses[self._at[trial.step]])
        replay, record = self.replay, self.replay.record
        if step:
            replay.flops += trial.flops * (step - max(0, self._before(step)))
        replay.seconds = now
        name = _name(trial.number)
        told = {"step": step, "val_loss": loss, "flops": trial.flops * step}
        self._apply("evaluation", now, trial=name, metrics=told)
        best = record.best
        assert best is not None
        if not replay.answers or replay.answers[-1].trial != best.name:
            replay.answers.append(Answer(now, replay.flops, best.name, best.params))
        started = thread_time()
        goes_on = self._method.report(trial.number, step, loss)
        if goes_on and step < self._train.steps:
            trial.step = self._after(step)
            trial.due += trial.per_step * (trial.step - step)
        else:
            self._method.tell(trial.number, loss)
        replay.driver_seconds += thread_time() - started
        if goes_on and step < self._train.steps:
            return True
        ended = "finished" if step == self._train.steps else "stopped"
        rung = step if ended == "stopped" else None
        self._apply("outcome", now, trial=name, outcome=ended, step=step, rung=rung, reason=None)
        return False

    def _after(self, step: int) -> int:
        return min(step + self._train.eval_interval, self._train.steps)

    def _before(self, step: int) -> int:
        return (step - 1) // self._train.eval_interval * self._train.eval_interval

    def _apply(self, kind: str, now: float, **facts: Any) -> None:
        self.replay.record.apply({"event": kind, "time": now, **facts})


def seen_losses(table: Table, params: dict[str, Any], seed: int, number: int) -> Array:
    """Return the losses (steps,) that trial `number` of a sweep sees."""
    rng = np.random.default_rng([seed, number])
    deviations = table.deviations
    drawn: Array = deviations[rng.integers(len(deviations))] * rng.choice([-1.0, 1.0])
    return table.expected(params) + drawn


def _name(number: int) -> str:
    return f"t{number:03d}"
