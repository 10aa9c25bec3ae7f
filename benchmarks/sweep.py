"""The default sweep: how its workers spend their time, and the same with Ray's stock pieces.

What a worker does is read from the sweep's own record: each evaluation tells the seconds spent in
training steps so far, and each event has its time.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Row, middle
from benchmarks.samples import own_environment

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("--num-samples", "6", "--trial.train.steps", "100", "--trial.train.eval-every", "25")


def rows(short: bool) -> Iterator[Row]:
    """Yield the timeline's rows, and the ratio to the stock pieces."""
    from sweep.record.folder import read_sweep
    from sweep.record.results import SweepRecord

    with tempfile.TemporaryDirectory(prefix="b") as scratch:
        home = Path(scratch)
        environment = own_environment(home)
        command = [sys.executable, str(ROOT / "sweep/run.py"), "--name", "ours"]
        subprocess.run(
            [*command, *(SHORT if short else ())],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        folder = home / "results" / "ours"
        record = SweepRecord.read(folder)
        yield from timeline(folder, concurrent=min(2, len(os.sched_getaffinity(0))))
        (home / "stock").mkdir()
        stock = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/stock_sweep.py"), folder, home / "stock"],
            env=environment
            | {
                "PYTHONPATH": str(ROOT),
                "RAY_AIR_NEW_OUTPUT": "0",
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        theirs = json.loads(stock.stdout.splitlines()[-1])
        shutil.rmtree(home / "stock", ignore_errors=True)
        steps = sum(trial.step for trial in record.trials.values())
        best = record.best
        assert best is not None
        precision = read_sweep(folder).config.trial.train.precision
        figure = record.seconds / theirs["seconds"]
        yield Row(
            "sweep",
            f"{len(record.trials)} trials, {precision}",
            figure,
            figure,
            figure,
            unit="x the time with Ray's stock pieces",
            bar=Bar(at_most=0.5),
            margin=None if short else 0.35,
            note=f"ours {record.seconds:.0f} s, {steps:,} steps, best {best.best_val_loss:.3f}; "
            f"stock {theirs['seconds']:.0f} s, {theirs['steps']:,} steps, {theirs['best']:.3f}",
        )


def timeline(folder: Path, concurrent: int) -> Iterator[Row]:
    """Yield how the workers of a finished sweep spent their time after the first report."""
    from sweep.record.events import read_events

    events = read_events(folder)
    reports = [e for e in events if e["event"] == "evaluation"]
    first = reports[0]["time"]
    trained = {e["trial"]: e["metrics"]["seconds"] for e in reports}  # the last of each counts
    ended = sorted(e["time"] for e in events if e["event"] == "outcome")
    # Each worker is there until no trial is left for it.
    workers = sum(ended[-count] - first for count in range(1, concurrent + 1))
    share = 100 * sum(trained.values()) / workers
    yield Row(
        "sweep",
        "workers' time inside training steps",
        share,
        share,
        share,
        unit="%",
        bar=Bar(at_least=90),
        margin=0.15,
    )
    gaps = []
    begun = {e["trial"]: e["time"] for e in reversed(reports)}  # step 0 of each
    for end in ended[:-concurrent]:
        later = [time for time in begun.values() if time > end]
        gaps.append(min(later) - end)
    if gaps:
        yield Row(
            "sweep",
            "from a trial's end to the next one's first step",
            *middle(gaps),
            unit="s, model building and the evaluation of step 0 included",
            bar=Bar(at_most=0.5),
            margin=None,
        )
