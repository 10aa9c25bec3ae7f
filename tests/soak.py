"""A soak: sweeps under random kills of workers and of the driver, resumed until they end.

`python tests/soak.py --minutes 30 --seed 0` runs sweep after sweep in a temporary project, kills a
worker or the driver every few seconds, resumes, and at the end accounts for every trial. It exits
with 1 if a trial is lost or ended twice, a run is left RUNNING, or anything is left over.
"""

import argparse
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

from live_sweeps import ROOT, descendants, make_project, processes

from sweep.results import SweepRecord

TRIALS = 6
STEPS = 1_500


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the soaked commands: all temporary files below the project."""
    (home / "tmp").mkdir(exist_ok=True)
    cache = {"XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home / "tmp")}
    return os.environ | {"LM_SWEEP_HOME": str(home)} | cache


def run_once(home: Path, name: str, rng: random.Random, deadline: float, kills: Counter) -> bool:
    """Start or resume a sweep and kill parts of it; say whether it came to its end."""
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
            time.sleep(rng.uniform(3.0, 9.0))
            if time.monotonic() > deadline or sweep.poll() is not None:
                continue  # no more kills: let it end
            if rng.random() < 0.3:
                below = descendants(sweep.pid)
                os.kill(sweep.pid, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                sweep.wait()
                kills["driver"] += 1
                wait_for_end(below)
                return False
            try:
                victims = processes(sweep.pid, rb"ray::ResourceTrainable")
                os.kill(rng.choice(victims), signal.SIGKILL)
                kills["worker"] += 1
            except (AssertionError, ProcessLookupError):
                continue  # none has started yet
    if sweep.returncode not in (0, 1):
        kills[f"exit {sweep.returncode}"] += 1
    record = SweepRecord.read(home / "results" / name)
    return len(record.trials) == TRIALS and not record.unfinished


def wait_for_end(pids: list[int]) -> None:
    """Wait until the processes of a killed Ray are gone; it ends them itself."""
    limit = time.monotonic() + 180
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > limit:
            raise SystemExit(f"processes left of a killed driver: {pids}")
        time.sleep(0.2)


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
            steps = [e["step"] for e in trial.evaluations]
            if steps != sorted(set(steps)):
                faults.append(f"{name} {trial.name}: doubled steps")
    left = [p.name for p in (home / "tmp").iterdir() if not p.name.startswith("torchinductor_")]
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
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    make_project(home)
    deadline = time.monotonic() + 60 * arguments.minutes
    kills: Counter = Counter()
    names: list[str] = []
    outcomes: Counter = Counter()
    while time.monotonic() < deadline:
        names.append(f"soak-{len(names):03d}")
        while not run_once(home, names[-1], rng, deadline, kills):
            pass
        record = SweepRecord.read(home / "results" / names[-1])
        outcomes.update(trial.outcome for trial in record.trials.values())
        print(f"{names[-1]}: {record.sessions} sessions, {record.counts()}", flush=True)
    faults = faults_of(home, names)
    print(f"{len(names)} sweeps of {TRIALS} trials each: {dict(outcomes)}; kills: {dict(kills)}")
    for fault in faults:
        print(f"FAULT {fault}")
    print("sound" if not faults else f"{len(faults)} faults; see {home}")
    if not faults:
        shutil.rmtree(home)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
