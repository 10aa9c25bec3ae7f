"""A driver on a cluster's node, for the part `cluster`: ours, or bare Tune's.

`python benchmarks/cluster_driver.py ours|bare HOST:PORT` joins the cluster and prints a line. Then
for each line of standard input, two numbers, it runs as many trials that report as many losses
each, and prints the seconds of a result, by the clock and of its own CPU. Starting workers is no
part of them: Ray has some ready for who sends no code along. Nor is our fit to all trials for the
settings of the last one, once a sweep: `search` times it.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.driver import bare, idle_sweep, run_idle

DATASET = {"dataset": "data/words"}
"""Of the project that the sweeps belong to: nodes are compared by it."""

LAST = 4
"""Results that are not counted: the fit may have been made while they came, on three nodes."""

Side = Callable[[int, int, Callable[[], None]], None]
"""Runs so many trials of so many results, and calls back at each."""


@contextlib.contextmanager
def ours(address: str) -> Iterator[Side]:
    """Join as a sweep does."""
    from sweep.cluster.joined import joined_cluster
    from sweep.record.storage import base_of
    from trainable.data.batches import open_dataset

    most = idle_sweep(100, data=DATASET)
    with joined_cluster(most, address) as cluster:
        storage = base_of(most)
        cluster.admit(open_dataset(most.trial.data, most.trial.model.context_length), storage)

        def run(trials: int, results: int, reported: Callable[[], None]) -> None:
            with cluster.starting(lambda: 1):
                run_idle(idle_sweep(trials, results, data=DATASET), cluster, reported)

        yield run


@contextlib.contextmanager
def tune_alone(address: str) -> Iterator[Side]:
    """Join as Ray's manual says, and as quietly as ours."""
    from sweep.cluster.quiet import keep_quiet, quiet

    keep_quiet()
    with quiet():
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
        yield lambda trials, results, reported: bare("random", trials, results, reported)
        ray.shutdown()


def main(side: str, address: str) -> None:
    """Join, and do what standard input asks for."""
    os.umask(0o077)
    with {"ours": ours, "bare": tune_alone}[side](address) as run:
        print("joined", flush=True)
        for line in sys.stdin:
            trials, results = map(int, line.split())
            ends: list[tuple[float, float]] = []

            def reported(ends: list[tuple[float, float]] = ends) -> None:
                ends.append((time.perf_counter(), time.process_time()))

            run(trials, results, reported)
            counted = ends[: len(ends) - LAST]
            (clock, cpu), (last_clock, last_cpu) = counted[0], counted[-1]
            each = len(counted) - 1
            print((last_clock - clock) / each, (last_cpu - cpu) / each, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
