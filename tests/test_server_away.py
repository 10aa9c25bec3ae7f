"""A tracking server that hangs, dies and comes back in the course of one real sweep."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_sweeps import (
    ALONE,
    ENDLESS,
    FIXED,
    ROOT,
    events,
    free_port,
    make_project,
    own_mount,
    run,
    start_and_wait,
    wait_for,
)
from sweep_samples import new_sweep

from sweep.record.results import SweepRecord
from sweep.tracking.delivery import STATE_FILE
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import open_client
from sweep.tracking.tracker import Tracker

pytestmark = pytest.mark.fault

# The command, with a clock at each of the doors through which MLflow could hold the driver up.
MEASURED = f"""
import sys, time
sys.path[0] = {str(ROOT)!r}
from sweep import run
from sweep.tracking.tracker import Tracker
from trainable.common.command import run_command

seconds = 0.0

def clocked(call):
    def clock(*arguments):
        global seconds
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            seconds += time.perf_counter() - began
    return clock

for door in ("start", "notice", "wait_connected"):
    setattr(Tracker, door, clocked(getattr(Tracker, door)))
try:
    run_command(run.main)
finally:
    print("held up for", seconds)
"""


def hanging(port: int) -> socket.socket:
    """Listen on a port: the system accepts connections, and nobody answers."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    return listener


def server(folder: Path, port: int) -> subprocess.Popen:
    """Start a real server."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    return subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def offset(folder: Path) -> int:
    """Return how much of the record the server has got."""
    path = folder / STATE_FILE
    return json.loads(path.read_text())["offset"] if path.exists() else 0


@pytest.mark.parametrize("answers", ["never", "no"])
def test_a_server_that_is_away_holds_no_start_up(answers, project, monkeypatch):
    port = free_port()
    listener = hanging(port) if answers == "never" else None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    tracker = Tracker(MlflowRuns(*new_sweep("away")))
    began = time.monotonic()
    tracker.start()
    assert not tracker.wait_connected()
    assert time.monotonic() - began < 1
    if listener:
        listener.close()
    assert not tracker.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("another version", "0123456789ab"),
        ("not writable", "readonly database"),
        ("in a folder not writable", "Read-only file system"),
    ],
)
def test_a_store_that_refuses_ends_a_sweep_before_any_training(tmp_path, case, why):
    config = make_project(tmp_path)
    store = tmp_path / "store"
    store.mkdir()
    address = f"sqlite:///{store / 'mlflow.db'}"
    if case == "not writable":
        open_client(address).create_experiment("lm-sweep")  # reading alone would do
    elif case == "another version":
        with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database, database:
            database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            database.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    read_only = f"mount --bind {store} {store} && mount -o remount,bind,ro {store}"
    before = () if case == "another version" else own_mount(read_only)
    flags = ("--config", str(config), "--name", "none", *FIXED)
    done = run(tmp_path, "sweep/run.py", *flags, before=before, MLFLOW_TRACKING_URI=address)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: MLflow store '{address}': ")
    assert len(done.stderr.splitlines()) == 1
    assert why in done.stderr
    assert "--tracking.no-enabled" in done.stderr
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.slow
def test_training_does_not_wait_for_a_server_which_gets_everything_later(tmp_path, start):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    store = tmp_path / "store"
    store.mkdir()
    folder = tmp_path / "results" / "served"

    def started(home, *arguments):
        program = ("-c", MEASURED)
        return start(home, *arguments, program=program, MLFLOW_TRACKING_URI=address)

    away = hanging(port)
    sweep = start_and_wait(started, tmp_path, "served", *ENDLESS, *ALONE, step=500)
    assert offset(folder) == 0
    away.close()
    running = server(store, port)
    try:  # back, in the middle
        wait_for(lambda: offset(folder) > 0)
    finally:
        kill(running)
    delivered = len(events(folder))
    wait_for(lambda: len(events(folder)) > delivered + 10)  # away again, for some reports
    sweep.send_signal(signal.SIGINT)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, output + errors
    assert "MLflow is away, training goes on" in output
    assert "status.py served --sync" in output
    assert float(output.rpartition("held up for ")[2]) < 1
    assert 0 < offset(folder) < (folder / "events.jsonl").stat().st_size

    record = SweepRecord.read(folder)
    running = server(store, port)
    try:
        sync = [sys.executable, str(ROOT / "sweep/status.py"), "served", "--sync"]
        env = os.environ | {"LM_SWEEP_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": address}
        wait_for(lambda: subprocess.run(sync, env=env, capture_output=True).returncode == 0)
        again = subprocess.run(sync, env=env, capture_output=True, text=True)
        assert "0 events delivered" in again.stdout, again.stderr
    finally:
        kill(running)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store / 'server.db'}")
    runs = client.search_runs([client.get_experiment_by_name("lm-sweep").experiment_id])
    trials = {r.data.tags["sweep.trial"]: r for r in runs if "sweep.trial" in r.data.tags}
    assert len(runs) == 2
    assert {r.info.status for r in runs} == {"KILLED"}
    assert trials.keys() == record.trials.keys()
    for name, trial in record.trials.items():
        points = client.get_metric_history(trials[name].info.run_id, "val_loss")
        curve = sorted((point.step, point.value) for point in points)
        assert curve == [(e["step"], e["val_loss"]) for e in trial.evaluations]
