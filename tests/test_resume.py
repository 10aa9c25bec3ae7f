"""Interruptions of the driver and of workers: real processes, real signals, then --resume."""

import glob
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import pytest
from live_sweeps import (
    SLOWER,
    assert_whole,
    descendants,
    evaluated,
    make_project,
    processes,
    run,
    wait_for,
)

from sweep.results import SweepRecord


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
    left = Path(tempfile.gettempdir()) / f"lm-sweep-{sweep.pid}-"
    assert glob.glob(f"{left}*")
    done = run(tmp_path, "sweep/run.py", "--resume", "killed")
    assert done.returncode == 0, done.stderr
    assert not glob.glob(f"{left}*")
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
