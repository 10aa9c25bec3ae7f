"""A project's first sweep makes MLflow's store: killed at any moment, or together with another."""

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import RunPython
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sweep_samples import new_sweep

from sweep.common.errors import SweepError
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import open_client

pytestmark = pytest.mark.fault

# Children that begin together, each with all that takes long imported.
SCRIPT = f"""
import os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from sweep_samples import new_sweep
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import open_client
import mlflow, mlflow.store.tracking.sqlalchemy_store, mlflow.tracking.client

def child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
KILLED = """
store = sys.argv[1]
for part in sys.argv[2:]:
    pid = child(lambda: open_client(f"sqlite:///{store}"))
    time.sleep(float(part))
    os.kill(pid, signal.SIGKILL)
    ended(pid)
print(ended(child(lambda: open_client(f"sqlite:///{store}").create_experiment("lm-sweep"))))
"""
TOGETHER = """
names = ["one", "two", "three"]
sweeps = {name: new_sweep(name) for name in names}
pids = [child(MlflowRuns(*sweeps[name]).connect) for name in names]
print(*map(ended, pids))
"""


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_anew(project: Path, run_python: RunPython) -> None:
    draw = random.Random(7)
    moments = [f"{draw.uniform(0.0, 1.5):.3f}" for _ in range(8)]
    done = run_python("-c", SCRIPT + KILLED, project / "mlflow.db", *moments)
    assert done.stdout == "0\n", done.stderr
    assert not list(project.glob(".mlflow.db.new*"))
    assert (project / "mlflow.db").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_first_sweeps_at_once_share_one_store(project: Path, run_python: RunPython) -> None:
    done = run_python("-c", SCRIPT + TOGETHER)
    assert done.stdout == "0 0 0\n", done.stderr
    client = open_client(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lm-sweep")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["one", "three", "two"]


def test_a_dataset_that_two_sweeps_record_at_once_is_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs, tries = MlflowClient.log_inputs, []

    def collides_once(*arguments: Any, **more: Any) -> None:
        tries.append(arguments)
        if len(tries) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.digest")
        log_inputs(*arguments, **more)

    monkeypatch.setattr(MlflowClient, "log_inputs", collides_once)
    MlflowRuns(*new_sweep("one")).connect()
    client = open_client(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("lm-sweep").experiment_id])
    assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.parametrize("left", [[], ["CREATE TABLE experiments (experiment_id INTEGER)"]])
def test_a_half_made_store_is_told_with_its_remedy(project: Path, left: list[str]) -> None:
    """MLflow itself makes a store in place: a killed `mlflow ui` leaves such a file."""
    store = project / "mlflow.db"
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        for statement in ["CREATE TABLE latest_metrics (step INTEGER)", *left]:
            database.execute(statement)
    with pytest.raises(SweepError, match="half made") as caught:
        MlflowRuns(*new_sweep("half")).connect()
    text = str(caught.value)
    assert f"delete {store} and start again" in text
    assert "--tracking.no-enabled" in text
    assert len(text.splitlines()) == 1
