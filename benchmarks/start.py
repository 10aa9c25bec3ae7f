"""Start-up: from typing a command to what it is for, with a warm disk and prepared data."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Bar, Row, middle
from benchmarks.samples import own_environment

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 120.0


def rows(short: bool) -> Iterator[Row]:
    """Yield the seconds of each command, as a shell sees them."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        environment = own_environment(home)

        def command(*words: str) -> float:
            started = time.perf_counter()
            script = [sys.executable, str(ROOT / words[0]), *words[1:]]
            subprocess.run(script, env=environment, check=True, capture_output=True)
            return time.perf_counter() - started

        numbers = iter(range(1_000))

        def first_step() -> float:
            return _first_step(home, environment, f"start-{next(numbers)}")

        first_step()  # prepares the data, makes MLflow's store
        cases: list[tuple[str, Callable[[], float], float]] = [
            ("run.py --help", lambda: command("sweep/run.py", "--help"), 1.5),
            ("status.py", lambda: command("sweep/status.py"), 1.5),
            ("run.py --dry-run", lambda: command("sweep/run.py", "--dry-run"), 8.0),
            ("run.py to the first training step", first_step, 10.0),
        ]
        for case, measure, bar in cases:
            seconds = [measure() for _ in range(1 if short else 5)]
            yield Row(
                "start",
                case,
                *middle(seconds),
                unit="s",
                bar=Bar(at_most=bar),
                margin=None,
            )


def _first_step(home: Path, environment: dict[str, str], name: str) -> float:
    """Return the seconds until a sweep's first trial has its step-0 evaluation: it trains then."""
    started = time.time()
    sweep = subprocess.Popen(
        [sys.executable, str(ROOT / "sweep/run.py"), "--name", name],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    record = home / "results" / name / "events.jsonl"
    try:
        while time.time() < started + PATIENCE_SECONDS:
            lines = record.read_text().splitlines(keepends=True) if record.exists() else []
            events = [json.loads(line) for line in lines if line.endswith("\n")]
            times = [event["time"] for event in events if event["event"] == "evaluation"]
            if times:
                return float(times[0]) - started
            time.sleep(0.05)
    finally:
        sweep.send_signal(signal.SIGTERM)
        sweep.wait()
    raise TimeoutError(f"no evaluation in {PATIENCE_SECONDS} s")
