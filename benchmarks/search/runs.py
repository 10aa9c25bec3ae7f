"""Simulated sweeps as rows of data: run once, kept in a file of JSON lines, and read again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.measures import SizesFound, by_fit, by_rule, regret
from benchmarks.search.methods import REFERENCE, method_of
from benchmarks.search.simulator import simulate, sweep_config
from benchmarks.search.table import Table, load

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
    fit: SizesFound | None
    held: float | None
    """Share of final losses within the fit's intervals of 80 %."""

    def regret_at(self, place: int, most: float) -> float:
        """Return the regret of the answer at so many seconds (place 0) or FLOPs (place 1)."""
        known = [answer for answer in self.answers if answer[place] <= most]
        return (known or self.answers[:1])[-1][2]


def fewer(seeds: Sequence[int], trials: int) -> Sequence[int]:
    """Return the first of the seeds, so that sweeps of more than USUAL trials cost no more."""
    return seeds[: max(1, len(seeds) * USUAL // max(USUAL, trials))]


class Runs:
    """The runs of a file, which grows by what is missing.

    Args:
        path: of JSON lines; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[Setting, int], Run] = {}
        self._tables: dict[str, Table] = {}
        if path is not None and path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # a killed process left the rest
            path.write_bytes(whole)
            for line in whole.splitlines():
                run = _read(json.loads(line))
                self._known[run.setting, run.seed] = run

    def of(self, setting: Setting, seeds: Sequence[int], fits: int) -> list[Run]:
        """Return a setting's runs, one a seed; the first `fits` of them with the product's fit."""
        found = []
        for place, seed in enumerate(seeds):
            run = self._known.get((setting, seed))
            if run is None or (place < fits and run.fit is None and run.held is None):
                run = self._run(setting, seed, seeds, fitted=place < fits)
                self._known[setting, seed] = run
                if self._path is not None:
                    with self._path.open("a") as file:
                        file.write(json.dumps(asdict(run)) + "\n")
            found.append(run)
        return found

    def time(self, setting: Setting, seeds: Sequence[int]) -> tuple[float, float]:
        """Return the mean seconds and FLOPs of the reference at a setting."""
        reference = Setting(setting.table, REFERENCE, setting.workers, setting.trials)
        runs = self.of(reference, seeds, 0)
        return float(np.mean([r.seconds for r in runs])), float(np.mean([r.flops for r in runs]))

    def _run(self, setting: Setting, seed: int, seeds: Sequence[int], *, fitted: bool) -> Run:
        table = self._tables.setdefault(setting.table, load(setting.table))
        until = self.time(setting, seeds)[0] if setting.equal_time else None
        algorithm, maker = method_of(setting.method)
        config = sweep_config(table, setting.trials, seed, algorithm)
        replay = simulate(table, config, maker(config), setting.workers, until)
        fit, held = by_fit(table, config, replay) if fitted else (None, None)
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
            fit=fit,
            held=held,
        )


def _read(facts: dict[str, Any]) -> Run:
    parts = {name: SizesFound(**facts[name]) if facts[name] else None for name in ("rule", "fit")}
    return Run(**{**facts, **parts, "setting": Setting(**facts["setting"])})
