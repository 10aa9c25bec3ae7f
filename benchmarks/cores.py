"""Cores: two trials of one thread beside one trial of two, and what a loaded machine costs.

Each side is processes of its own, on the same two cores, that train for the same seconds; counted
are their steps. Threads that spun while they waited would take the cores from each other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Row, ratio

CORES = 2


def rows(short: bool) -> Iterator[Row]:
    """Yield throughput on two cores; none where there are fewer."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < CORES:
        return
    seconds, rounds = (2.0, 2) if short else (5.0, 5)
    cases = {"two trials of one thread": [1, 1], "one of two": [2], "two of two": [2, 2]}
    steps: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, threads in cases.items():
            steps[name].append(steps_of(threads, seconds))
    yield Row(
        "cores",
        "two trials of one thread",
        *ratio(steps["two trials of one thread"], steps["one of two"]),
        unit="x the steps of one trial of two threads",
        bar=Bar(at_least=1.0),
    )
    yield Row(
        "cores",
        "twice as many threads as cores",
        *ratio(steps["two of two"], steps["one of two"]),
        unit="x the steps of as many threads as cores",
        bar=Bar(at_least=0.7),
        note="spinning threads would lose a multiple",
    )


def steps_of(threads: list[int], seconds: float) -> float:
    """Return the steps that trials of so many threads each make together in `seconds`."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    command = [sys.executable, __file__]
    trials = [
        subprocess.Popen(
            [*command, str(count), str(seconds), *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
        )
        for count in threads
    ]
    for trial in trials:
        assert trial.stdout is not None
        trial.stdout.readline()  # it is ready
    for trial in trials:
        assert trial.stdin is not None
        trial.stdin.write("go\n")
        trial.stdin.flush()
    return sum(float(trial.communicate()[0]) for trial in trials)


def main(threads: int, seconds: float, cores: set[int]) -> None:
    """Train with so many threads for some seconds, once told to; print the steps made."""
    os.sched_setaffinity(0, cores)
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.samples import trial

    trainer = trial({"train.threads": threads})
    for step in range(1, 4):
        trainer.train_step(step)
    print("ready", flush=True)
    sys.stdin.readline()
    deadline = time.perf_counter() + seconds
    step = 3
    while time.perf_counter() < deadline:
        step += 1
        trainer.train_step(step % 300 + 1)
    print(step - 3)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), set(map(int, sys.argv[3:])))
