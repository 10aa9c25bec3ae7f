"""A soak: sweeps under random kills of workers and of the driver, resumed until they end.

`python tests/soak.py --minutes 30 --seed 0` runs sweep after sweep, each the first one of a project
of its own, and resumes it after each kill. It kills a worker or the driver every few seconds, the
driver within the first five seconds of a first session, and either of them right after a trial's
last checkpoint. At the end it accounts for every trial, and exits with 1 if a trial is lost, failed
or ended twice, a run is left RUNNING, or a process or temporary folder is left over.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from live_sweeps import ROOT, WORKER, descendants, events, make_project, processes

from sweep.record.results import SweepRecord

NAME = "soak"
TRIALS = 6
LONGEST_END_SECONDS = 180.0
"""How long the processes of a killed Ray may take to end by themselves."""
DRIVER_SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
Process = tuple[int, str]
"""A pid and the moment of its start, since pids are used again."""


def steps_of(project: Path) -> int:
    """Return the steps of a project's trials; few where none is stopped early."""
    return 10_000 if stops_early(project) else 2_000


def stops_early(project: Path) -> bool:
    """Say whether trials may be stopped; in every second project each has a last checkpoint."""
    return int(project.name) % 2 == 0


def first_flags(project: Path) -> list[str]:
    """Return the flags with which a project's sweep is started."""
    flags = ["--config", str(project / "sweep.yaml"), "--name", NAME, "--num-samples", str(TRIALS)]
    flags += ["--max-failures", "50", "--trial.train.eval-every", "100"]
    flags += ["--trial.train.steps", str(steps_of(project))]
    return flags if stops_early(project) else [*flags, "--asha.no-enabled"]


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


class Soak:
    """Runs and kills sweeps, and counts what it did."""

    def __init__(self, home: Path, rng: random.Random, deadline: float) -> None:
        self.home, self.rng, self.deadline = home, rng, deadline
        self.kills: Counter[str] = Counter()
        self.seen: set[Process] = set()
        """All processes that ran below a driver."""

    def run_session(self, project: Path) -> bool:
        """Start or resume a project's sweep and kill parts of it; say whether it ended."""
        folder = project / "results" / NAME
        if (folder / "sweep.json").exists():
            what = ["--resume", NAME, "--num-samples", str(TRIALS)]
        else:
            what = first_flags(project)
        before, steps = len(events(folder)), steps_of(project)
        with (project / "output.txt").open("a") as output:
            sweep = subprocess.Popen(
                [sys.executable, str(ROOT / "sweep/run.py"), *what],
                env=environment(project),
                cwd=project,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if before == 0 and self.rng.random() < 0.7:
            self._watch(sweep, lambda: False, self.rng.uniform(0.0, 5.0))
            if self._may_kill(sweep):
                self._end_driver(sweep, "in its first five seconds")
                return False
        while sweep.poll() is None:
            known = len(events(folder))

            def last_saved(known: int = known) -> bool:
                told = events(folder)[known:]
                return any(e["event"] == "checkpoint" and e["step"] == steps for e in told)

            saved = self._watch(sweep, last_saved, self.rng.uniform(3.0, 9.0))
            if not self._may_kill(sweep):
                continue  # no more kills: let it end
            when = "after a last checkpoint" if saved else "at random"
            if saved:
                time.sleep(self.rng.choice([0.0, 0.0, self.rng.uniform(0.0, 0.05)]))
            if self.rng.random() < (0.5 if saved else 0.3):
                self._end_driver(sweep, when)
                return False
            victims = processes(sweep.pid, WORKER)
            if victims:  # else none has started yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.rng.choice(victims), signal.SIGKILL)
                    self.kills[f"worker {when}"] += 1
        if sweep.returncode not in (0, 1):
            self.kills[f"exit {sweep.returncode}"] += 1
        if not (folder / "sweep.json").exists():
            return False
        record = SweepRecord.read(folder)
        return len(record.trials) == TRIALS and not record.unfinished

    def _watch(
        self, sweep: subprocess.Popen, condition: Callable[[], bool], seconds: float
    ) -> bool:
        """Wait for a condition, some seconds, or the end; say whether it was the condition."""
        strike = time.monotonic() + seconds
        look = 0.0
        while (now := time.monotonic()) < strike and sweep.poll() is None:
            if condition():
                return True
            if (
                now > look
            ):  # seldom: it takes longer than a sweep does from its last save to its end
                self.seen.update(filter(None, map(begun, descendants(sweep.pid))))
                look = time.monotonic() + 0.5
            time.sleep(0.005)
        return False

    def _may_kill(self, sweep: subprocess.Popen) -> bool:
        return time.monotonic() < self.deadline and sweep.poll() is None

    def _end_driver(self, sweep: subprocess.Popen, when: str) -> None:
        number = self.rng.choice(DRIVER_SIGNALS)
        self.seen.update(filter(None, map(begun, descendants(sweep.pid))))
        os.kill(sweep.pid, number)
        sweep.wait()
        self.kills[f"driver {when}"] += 1


def faults_of(project: Path) -> list[str]:
    """Return what is wrong with a project's finished sweep, in words."""
    from mlflow import MlflowClient

    faults = []
    folder = project / "results" / NAME
    ended = Counter(
        e["trial"]
        for e in events(folder)
        if e["event"] == "outcome" and e["outcome"] != "interrupted"
    )
    record = SweepRecord.read(folder)
    if sorted(ended) != [f"t{n:03d}" for n in range(TRIALS)] or set(ended.values()) != {1}:
        faults.append(f"outcomes {dict(ended)}")
    params = {tuple(trial.params.values()) for trial in record.trials.values()}
    if len(params) != TRIALS:
        faults.append("a configuration was suggested twice")
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs(["1"], max_results=1000)
    if len(runs) != TRIALS + 1 or {run.info.status for run in runs} != {"FINISHED"}:
        faults.append(f"{len(runs)} runs, {[run.info.status for run in runs]}")
    for trial in record.trials.values():
        if trial.outcome == "failed":  # kills alone must not fail a trial
            faults.append(f"{trial.name}: failed: {trial.reason}")
        steps = [e["step"] for e in trial.evaluations]
        if steps != sorted(set(steps)):
            faults.append(f"{trial.name}: doubled steps")
        if trial.step == steps_of(project) and trial.outcome != "finished":
            faults.append(f"{trial.name}: at its last step, but {trial.outcome}")
    left = [p.name for p in (project / "t").iterdir() if not p.name.startswith("torchinductor_")]
    if left:
        faults.append(f"temporary files left: {left}")
    return [f"{project.name}: {fault}" for fault in faults]


def wait_for_end(seen: set[Process]) -> list[Process]:
    """Wait until the processes of a killed Ray are gone, and return those that stay."""
    limit = time.monotonic() + LONGEST_END_SECONDS
    while (left := [p for p in seen if begun(p[0]) == p]) and time.monotonic() < limit:
        time.sleep(0.2)
    return left


def main() -> int:
    """Soak, then tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="s"))
    deadline = time.monotonic() + 60 * arguments.minutes
    soak = Soak(home, random.Random(arguments.seed), deadline)
    projects: list[Path] = []
    outcomes: Counter[str | None] = Counter()
    while time.monotonic() < deadline:
        project = home / f"{len(projects):03d}"
        projects.append(project)
        make_project(project)
        while not soak.run_session(project):
            pass
        record = SweepRecord.read(project / "results" / NAME)
        outcomes.update(trial.outcome for trial in record.trials.values())
        print(f"{project.name}: {record.sessions} sessions, {record.counts()}", flush=True)
    left = wait_for_end(soak.seen)
    faults = [fault for project in projects for fault in faults_of(project)]
    if left:
        faults.append(f"processes left: {sorted(pid for pid, _ in left)}")
    print(f"{len(projects)} first sweeps of {TRIALS} trials each: {dict(outcomes)}")
    print(f"kills: {dict(soak.kills)}")
    for fault in faults:
        print(f"FAULT {fault}")
    total = f"{sum(outcomes.values())} trials, {sum(soak.kills.values())} kills"
    counts = f"{total}, {len(soak.seen)} processes"
    print(f"{counts}: " + ("sound" if not faults else f"{len(faults)} faults; see {home}"))
    if not faults:
        shutil.rmtree(home)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
