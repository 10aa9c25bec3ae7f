"""What `--warm-start` is worth: `python benchmarks/search/warm_start.py --seeds 40`.

Sweeps of 16 trials with two workers, from nothing and from an older sweep of another seed of 16 or
32 trials, on tables of real curves (see simulator.py). Prints a Markdown table of mean regrets.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from benchmarks.search.measures import interval, regrets
from benchmarks.search.simulator import Replay, simulate, sweep_config
from benchmarks.search.table import Table, load, names
from sweep.conduct.warm_start import Older, older_events, taken_over
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method

TRIALS, OLDER, WORKERS = 16, (0, 16, 32), 2
ANOTHER = 500_000
"""What is added to a seed for the older sweep's: it meets other luck."""


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(names()))
    parser.add_argument("--algorithms", default="tpe,gp")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=1_000, help="tune below 1000")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print(f"| table, algorithm | {' | '.join(f'after {n} older trials' for n in OLDER)} |")
    print(f"|{' --- |' * (1 + len(OLDER))}")
    for name in arguments.tables.split(","):
        for algorithm in arguments.algorithms.split(","):
            told = [of_seed(load(name), algorithm, seed) for seed in seeds]
            cells = [_cell([row[place] for row in told]) for place in range(len(OLDER))]
            print(f"| {name}, {algorithm} | {' | '.join(cells)} |", flush=True)


def of_seed(table: Table, algorithm: str, seed: int) -> list[tuple[float, float, float]]:
    """Return, for each of OLDER, the regrets when a cold sweep ends and at the own end; seconds."""
    found: list[tuple[float, float, float]] = []
    for trials in OLDER:
        replay = _warm(table, algorithm, seed, trials)
        cold = found[0][2] if found else replay.seconds
        at_colds, at_own = (regrets(table, replay, [1.0], s)[0] for s in (cold, replay.seconds))
        found.append((at_colds, at_own, replay.seconds))
    return found


def _warm(table: Table, algorithm: str, seed: int, trials: int) -> Replay:
    config = sweep_config(table, TRIALS, seed, algorithm)
    record = SweepRecord()
    if trials:
        before = sweep_config(table, trials, seed + ANOTHER, algorithm)
        told = simulate(table, before, build_method(before, SweepRecord()), WORKERS).record
        search = config.search.model_copy(update={"warm_start": ["older"]})
        known: Older = ("older", before, told)
        config, older = taken_over(config.model_copy(update={"search": search}), [known])
        record.apply_all(older_events(older))
    return simulate(table, config, build_method(config, record), WORKERS)


def _cell(told: list[tuple[float, float, float]]) -> str:
    at_colds, at_own, seconds = np.array(told).T
    low, high = interval(at_own)
    ends = f"{at_own.mean():.4f} [{low:.4f} .. {high:.4f}]"
    return f"{at_colds.mean():.3f} / {ends}, {seconds.mean():.0f} s"


if __name__ == "__main__":
    main()
