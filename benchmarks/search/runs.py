"""Simulated sweeps as rows of data: run once, kept in a file of JSON lines, and read again."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.measures import Fitted, SizesFound, by_fit, by_rule, regret
from benchmarks.search.methods import REFERENCE, method_of
from benchmarks.search.simulator import simulate, sweep_config
from benchmarks.search.table import load

USUAL = 32
"""Trials of the default sweep."""


@dataclass(frozen=True)
class Setting:
    """What is simulated many times."""

    table: str
    method: str
    workers: int
    trials: int
    equal_time: bool = False
    """Whether trials begin for as long as the reference takes, however many there are."""


@dataclass(frozen=True)
class Run:
    """One simulated sweep."""

    setting: Setting
    seed: int
    answers: list[list[float]]
    """Simulated seconds, FLOPs and regret of each answer; it holds until the next."""
    seconds: float
    flops: float
    finished: int
    driver_seconds: float
    asked: int
    """Trials."""
    rule: SizesFound
    fit: Fitted | None

    def regret_at(self, place: int, most: float) -> float:
        """Return the regret of the answer at so many seconds (place 0) or FLOPs (place 1)."""
        known = [answer for answer in self.answers if answer[place] <= most]
        return (known or self.answers[:1])[-1][2]


Job = tuple[Setting, int, float | None, bool]
"""A sweep to simulate: its setting and seed, the seconds until which trials begin (None: until all
have), and whether its record is fitted."""


def fewer(seeds: Sequence[int], trials: int) -> Sequence[int]:
    """Return the first of the seeds, so that sweeps of more than USUAL trials cost no more."""
    return seeds[: max(1, len(seeds) * USUAL // max(USUAL, trials))]


class Runs:
    """The runs of a file, which grows by what is missing.

    Args:
        path: of JSON lines; None: nothing is kept.
        processes: that simulate side by side; 1: this one.
    """

    def __init__(self, path: Path | None, processes: int = 1) -> None:
        self._path, self._processes = path, processes
        self._known: dict[tuple[Setting, int], Run] = {}
        if path is not None and path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # a killed process left the rest
            path.write_bytes(whole)
            for line in whole.splitlines():
                run = _read(json.loads(line))
                self._known[run.setting, run.seed] = run

    def of(self, setting: Setting, seeds: Sequence[int], fits: int) -> list[Run]:
        """Return a setting's runs, one a seed; the first `fits` of them with the product's fit."""
        missing = []
        for place, seed in enumerate(seeds):
            run = self._known.get((setting, seed))
            if run is None or (place < fits and run.fit is None):
                missing.append((seed, place < fits))
        until = self.time(setting, seeds)[0] if setting.equal_time and missing else None
        for run in self._simulated([(setting, seed, until, fitted) for seed, fitted in missing]):
            self._known[setting, run.seed] = run
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
        return [self._known[setting, seed] for seed in seeds]

    def time(self, setting: Setting, seeds: Sequence[int]) -> tuple[float, float]:
        """Return the mean seconds and FLOPs of the reference at a setting."""
        reference = Setting(setting.table, REFERENCE, setting.workers, setting.trials)
        runs = self.of(reference, seeds, 0)
        return float(np.mean([r.seconds for r in runs])), float(np.mean([r.flops for r in runs]))

    def _simulated(self, jobs: list[Job]) -> Iterator[Run]:
        """Yield the runs of jobs, in their order, each when those before it are there."""
        if self._processes == 1 or len(jobs) < self._processes:
            return map(_run, jobs)
        return self._pool.imap(_run, jobs)

    @cached_property
    def _pool(self) -> Pool:
        return get_context("spawn").Pool(self._processes)


def _run(job: Job) -> Run:
    setting, seed, until, fitted = job
    table = _table(setting.table)
    algorithm, maker = method_of(setting.method)
    config = sweep_config(table, setting.trials, seed, algorithm)
    replay = simulate(table, config, maker(config), setting.workers, until)
    trials = replay.record.trials.values()
    return Run(
        setting=setting,
        seed=seed,
        answers=[
            [round(a.seconds, 2), a.flops, round(regret(table, a.params), 5)]
            for a in replay.answers
        ],
        seconds=round(replay.seconds, 2),
        flops=replay.flops,
        finished=sum(trial.outcome == "finished" for trial in trials),
        driver_seconds=round(replay.driver_seconds, 4),
        asked=len(trials),
        rule=by_rule(table, replay),
        fit=by_fit(table, config, replay) if fitted else None,
    )


_table = cache(load)


def _read(facts: dict[str, Any]) -> Run:
    fit = facts["fit"]
    parts = {
        "setting": Setting(**facts["setting"]),
        "rule": SizesFound(**facts["rule"]),
        "fit": fit and Fitted(**{**fit, "sizes": SizesFound(**fit["sizes"])}),
    }
    return Run(**{**facts, **parts})
