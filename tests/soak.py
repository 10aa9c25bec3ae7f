"""A soak: sweeps under random kills of workers and of the driver, resumed until they end.

`python tests/soak.py --minutes 30 --seed 0` runs sweep after sweep in a temporary project, kills a
worker or the driver every few seconds, resumes, and at the end accounts for every trial. It exits
with 1 if a trial is lost, failed or ended twice, a run is left RUNNING, or a process or temporary
folder is left over.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from live_sweeps import ROOT, WORKER, descendants, make_project, processes

from sweep.record.results import SweepRecord

TRIALS = 6
STEPS = 10_000
LONGEST_END_SECONDS = 180.0
"""How long the processes of a killed Ray may take to end by themselves."""
Process = tuple[int, str]
"""A pid and the moment of its start, since pids are used again."""


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the soaked commands: all temporary files below the project."""
    (home / "t").mkdir(exist_ok=True)
    cache = {"XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home / "t")}
    return os.environ | {"LM_SWEEP_HOME": str(home)} | cache


def begun(pid: int) -> Process | None:
    """Return a running process, None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (pid, fields[19]) if fields[0] != "Z" else None


def run_once(
    home: Path,
    name: str,
    rng: random.Random,
    deadline: float,
    kills: Counter,
    seen: set[Process],
) -> bool:
    """Start or resume a sweep and kill parts of it; say whether it came to its end.

    The processes below it are added to `seen`.
    """
    exists = (home / "results" / name / "sweep.json").exists()
    what = ("--resume", name) if exists else ("--config", str(home / "sweep.yaml"), "--name", name)
    size = (
        ("--num-samples", str(TRIALS))
        if exists
        else (
            "--num-samples",
            str(TRIALS),
            "--trial.train.steps",
            str(STEPS),
            "--trial.train.eval-every",
            "100",
            "--max-failures",
            "50",
        )
    )
    with (home / "output.txt").open("a") as output:
        sweep = subprocess.Popen(
            [sys.executable, str(ROOT / "sweep/run.py"), *what, *size],
            env=environment(home),
            cwd=home,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        while sweep.poll() is None:
            strike = time.monotonic() + rng.uniform(3.0, 9.0)
            while time.monotonic() < strike and sweep.poll() is None:
                seen.update(filter(None, map(begun, descendants(sweep.pid))))
                time.sleep(0.2)
            if time.monotonic() > deadline or sweep.poll() is not None:
                continue  # no more kills: let it end
            if rng.random() < 0.3:
                number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                os.kill(sweep.pid, number)
                sweep.wait()
                kills[f"driver {number.name}"] += 1
                return False
            victims = processes(sweep.pid, WORKER)
            if victims:  # else none has started yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    kills["worker SIGKILL"] += 1
    if sweep.returncode not in (0, 1):
        kills[f"exit {sweep.returncode}"] += 1
    record = SweepRecord.read(home / "results" / name)
    return len(record.trials) == TRIALS and not record.unfinished


def wait_for_end(seen: set[Process]) -> list[Process]:
    """Wait until the processes of a killed Ray are gone, and return those that stay."""
    limit = time.monotonic() + LONGEST_END_SECONDS
    while (left := [p for p in seen if begun(p[0]) == p]) and time.monotonic() < limit:
        time.sleep(0.2)
    return left


def faults_of(home: Path, names: list[str]) -> list[str]:
    """Return what is wrong with the finished sweeps, in words."""
    from mlflow import MlflowClient

    faults = []
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    for name in names:
        lines = (home / "results" / name / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        ended = Counter(
            e["trial"] for e in events if e["event"] == "outcome" and e["outcome"] != "interrupted"
        )
        record = SweepRecord.read(home / "results" / name)
        if sorted(ended) != [f"t{n:03d}" for n in range(TRIALS)] or set(ended.values()) != {1}:
            faults.append(f"{name}: outcomes {dict(ended)}")
        params = {tuple(trial.params.values()) for trial in record.trials.values()}
        if len(params) != TRIALS:
            faults.append(f"{name}: a configuration was suggested twice")
        runs = client.search_runs(["1"], f"tags.`sweep.name` = '{name}'", max_results=1000)
        if len(runs) != TRIALS + 1 or any(run.info.status == "RUNNING" for run in runs):
            faults.append(f"{name}: {len(runs)} runs, {[run.info.status for run in runs]}")
        for trial in record.trials.values():
            if trial.outcome == "failed":  # kills alone must not fail a trial
                faults.append(f"{name} {trial.name}: failed: {trial.reason}")
            steps = [e["step"] for e in trial.evaluations]
            if steps != sorted(set(steps)):
                faults.append(f"{name} {trial.name}: doubled steps")
    left = [p.name for p in (home / "t").iterdir() if not p.name.startswith("torchinductor_")]
    if left:
        faults.append(f"temporary files left: {left}")
    return faults


def main() -> int:
    """Soak, then tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    home = Path(tempfile.mkdtemp(prefix="s"))
    make_project(home)
    deadline = time.monotonic() + 60 * arguments.minutes
    kills: Counter = Counter()
    names: list[str] = []
    outcomes: Counter = Counter()
    seen: set[Process] = set()
    while time.monotonic() < deadline:
        names.append(f"soak-{len(names):03d}")
        while not run_once(home, names[-1], rng, deadline, kills, seen):
            pass
        record = SweepRecord.read(home / "results" / names[-1])
        outcomes.update(trial.outcome for trial in record.trials.values())
        print(f"{names[-1]}: {record.sessions} sessions, {record.counts()}", flush=True)
    faults = faults_of(home, names)
    left = wait_for_end(seen)
    if left:
        faults.append(f"processes left: {sorted(pid for pid, _ in left)}")
    print(f"{len(names)} sweeps of {TRIALS} trials each: {dict(outcomes)}; kills: {dict(kills)}")
    for fault in faults:
        print(f"FAULT {fault}")
    counts = f"{sum(outcomes.values())} trials, {sum(kills.values())} kills, {len(seen)} processes"
    print(f"{counts}: " + ("sound" if not faults else f"{len(faults)} faults; see {home}"))
    if not faults:
        shutil.rmtree(home)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
