"""Interruptions of the driver and of workers: real processes, real signals, then --resume."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sweep import ROOT, make_project, run

from sweep.results import SweepRecord

# Steps slow enough that a signal finds trials in their middle.
SLOWER = ("--trial.train.steps", "2000", "--trial.train.eval-every", "100", "--num-samples", "4")


@pytest.fixture
def start():
    """Return a function that starts a sweep in a process group, ended with the test."""
    started = []

    def start_sweep(home: Path, *arguments: str) -> subprocess.Popen:
        env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        env |= {"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        sweep = subprocess.Popen(
            [sys.executable, str(ROOT / "sweep/run.py"), *arguments],
            env=env,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(sweep)
        return sweep

    yield start_sweep
    for sweep in started:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
        sweep.stdout.close()
        sweep.stderr.close()


def events(folder: Path) -> list[dict]:
    """Return the whole lines of a sweep's record."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(condition, seconds: float = 120.0) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def evaluated(folder: Path, step: int, trials: int = 1) -> bool:
    """Say whether so many trials have reported so far a step."""
    seen = {
        e["trial"]
        for e in events(folder)
        if e["event"] == "evaluation" and e["metrics"]["step"] >= step
    }
    return len(seen) >= trials


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def processes(pid: int, pattern: bytes) -> list[int]:
    """Return the processes below `pid` whose command line begins with a pattern."""
    found = []
    for child in descendants(pid):
        try:
            if re.match(pattern, Path(f"/proc/{child}/cmdline").read_bytes()):
                found.append(child)
        except OSError:
            continue
    assert found
    return found


def assert_whole(home: Path, name: str, steps: int, trials: int) -> SweepRecord:
    """Every trial ended once and for all, curves are without doubled steps, MLflow agrees."""
    from mlflow import MlflowClient

    record = SweepRecord.read(home / "results" / name)
    assert sorted(record.trials) == [f"t{n:03d}" for n in range(trials)]
    assert {t.outcome for t in record.trials.values()} <= {"finished", "stopped"}
    params = [tuple(t.params.values()) for t in record.trials.values()]
    assert len(set(params)) == trials
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs(["1"], f"tags.`sweep.name` = '{name}'", max_results=1000)
    assert len(runs) == trials + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    for child in runs:
        trial = record.trials.get(child.data.tags.get("sweep.trial", ""))
        if trial is None:
            continue
        reported = [e["step"] for e in trial.evaluations]
        assert reported == sorted(set(reported))
        assert trial.step == (steps if trial.outcome == "finished" else trial.rung)
        points = client.get_metric_history(child.info.run_id, "val_loss")
        assert sorted(point.step for point in points) == reported
        assert child.data.tags["outcome"] == trial.outcome
    return record


@pytest.mark.slow
def test_a_killed_driver_is_resumed_where_it_was(tmp_path, start):
    config = make_project(tmp_path)
    folder = tmp_path / "results" / "killed"
    sweep = start(tmp_path, "--config", str(config), "--name", "killed", *SLOWER)
    wait_for(lambda: evaluated(folder, 300))
    below = descendants(sweep.pid)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    before = SweepRecord.read(folder)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    done = run(tmp_path, "sweep/run.py", "--resume", "killed")
    assert done.returncode == 0, done.stderr
    record = assert_whole(tmp_path, "killed", steps=2000, trials=4)
    for name, trial in before.trials.items():
        kept = record.trials[name]
        assert kept.params == trial.params
        assert kept.evaluations[: len(trial.evaluations)] == trial.evaluations


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sweep_gracefully(tmp_path, start, number, status):
    config = make_project(tmp_path)
    folder = tmp_path / "results" / "signalled"
    sweep = start(tmp_path, "--config", str(config), "--name", "signalled", *SLOWER)
    wait_for(lambda: evaluated(folder, 200))
    sent = time.monotonic()
    os.kill(sweep.pid, number)
    output, errors = sweep.communicate(timeout=60)
    assert time.monotonic() - sent < 15
    assert sweep.returncode == status, output + errors
    assert "--resume signalled" in output
    assert "Traceback" not in output + errors
    record = SweepRecord.read(folder)
    assert "interrupted" in {trial.outcome for trial in record.trials.values()}
    assert None not in {trial.outcome for trial in record.trials.values()}
    assert run(tmp_path, "sweep/run.py", "--resume", "signalled").returncode == 0
    assert_whole(tmp_path, "signalled", steps=2000, trials=4)


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path, start):
    config = make_project(tmp_path)
    folder = tmp_path / "results" / "worker"
    sweep = start(tmp_path, "--config", str(config), "--name", "worker", *SLOWER)
    wait_for(lambda: evaluated(folder, 300))
    os.kill(processes(sweep.pid, rb"ray::ResourceTrainable")[0], signal.SIGKILL)
    output, errors = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, output + errors
    record = assert_whole(tmp_path, "worker", steps=2000, trials=4)
    assert sum(trial.restarts for trial in record.trials.values()) == 1
    assert "died" in output


@pytest.mark.slow
def test_a_killed_ray_ends_the_sweep_with_one_line(tmp_path, start):
    config = make_project(tmp_path)
    folder = tmp_path / "results" / "headless"
    longer = ("--trial.train.steps", "12000", "--trial.train.eval-every", "3000")
    sweep = start(tmp_path, "--config", str(config), "--name", "headless", *longer)
    wait_for(lambda: evaluated(folder, 3000))
    os.kill(processes(sweep.pid, rb"\S*/raylet")[0], signal.SIGKILL)
    _, errors = sweep.communicate(timeout=90)
    assert sweep.returncode == 2, errors
    assert re.search(r"^error: .*Ray died.*--resume headless", errors, re.MULTILINE)
    assert SweepRecord.read(folder).unfinished
