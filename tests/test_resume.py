"""The driver, workers and Ray interrupted: real processes, real signals, then --resume."""

import glob
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from live_sweeps import (
    ALONE,
    ENDLESS,
    FIXED,
    SLOWER,
    UNTRACKED,
    WORKER,
    assert_whole,
    descendants,
    evaluated,
    events,
    gone,
    make_project,
    processes,
    run,
    start_and_wait,
    wait_for,
)

from sweep.record.results import SweepRecord

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def test_a_killed_driver_is_resumed_where_it_was(tmp_path, start, monkeypatch):
    folder = tmp_path / "results" / "killed"
    # Its own, or another sweep's start would clear up first; short, for the names of Ray's sockets.
    temporary = tempfile.mkdtemp(prefix="t")
    monkeypatch.setenv("TMPDIR", temporary)
    sweep = start_and_wait(start, tmp_path, "killed", *SLOWER, step=300)
    below = descendants(sweep.pid)
    sweep.kill()
    sweep.communicate()
    before = SweepRecord.read(folder)
    done = run(tmp_path, "sweep/run.py", "--resume", "killed")
    assert done.returncode == 0, done.stderr
    record = assert_whole(tmp_path, "killed", steps=2000, trials=3)
    for name, trial in before.trials.items():
        kept = record.trials[name]
        assert kept.params == trial.params
        assert kept.evaluations[: len(trial.evaluations)] == trial.evaluations
    wait_for(lambda: gone(below))
    assert not list(Path(temporary).iterdir())
    shutil.rmtree(temporary)


def test_a_signal_before_the_first_session_leaves_nothing(tmp_path, start):
    flags = ("--config", str(make_project(tmp_path)), "--name", "early", *ENDLESS, *UNTRACKED)
    sweep = start(tmp_path, *flags, *ALONE)
    scratch = f"{tempfile.gettempdir()}/lm-ray-{sweep.pid}-*"
    wait_for(lambda: glob.glob(scratch))  # Ray starts
    sweep.send_signal(signal.SIGTERM)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    assert output.endswith("interrupted before the first trial\n")
    assert errors == ""
    assert not list((tmp_path / "results").iterdir())


def test_a_signal_before_the_first_trial_ends_the_sweep_gracefully(tmp_path, start):
    folder = tmp_path / "results" / "early"
    flags = ("--config", str(make_project(tmp_path)), "--name", "early", *ENDLESS, *UNTRACKED)
    sweep = start(tmp_path, *flags, *ALONE)
    wait_for(lambda: events(folder))  # the session begins
    sweep.send_signal(signal.SIGTERM)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    assert "--resume early" in output
    assert errors == ""
    record = SweepRecord.read(folder)
    assert record.unfinished == list(record.trials.values())


def test_a_signal_ends_the_sweep_gracefully(tmp_path, start):
    folder = tmp_path / "results" / "signalled"
    flags = (*SLOWER, *ALONE)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        sweep = start_and_wait(start, tmp_path, "signalled", *flags, step=200)
        sent = time.monotonic()
        sweep.send_signal(number)
        output, errors = sweep.communicate(timeout=60)
        assert time.monotonic() - sent < 15
        assert sweep.returncode == status, output + errors
        assert "--resume signalled" in output
        assert "Traceback" not in output + errors
        record = SweepRecord.read(folder)
        assert "interrupted" in {trial.outcome for trial in record.trials.values()}
        assert None not in {trial.outcome for trial in record.trials.values()}
        flags = ()
    assert run(tmp_path, "sweep/run.py", "--resume", "signalled").returncode == 0
    assert_whole(tmp_path, "signalled", steps=2000, trials=3)


def test_a_checkpoint_that_is_being_saved_when_a_signal_comes_is_saved(tmp_path, start):
    """It is signalled at the very evaluation; a model of 3 M parameters takes a while to save."""
    folder = tmp_path / "results" / "at-once"
    large = ("--trial.model.d-model", "256", "--trial.model.n-layers", "4", "--trial.train.steps")
    flags = (*large, "4000", "--trial.train.eval-every", "10", *ALONE, *UNTRACKED)
    sweep = start_and_wait(start, tmp_path, "at-once", *flags, step=10)
    sweep.send_signal(signal.SIGTERM)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    (trial,) = SweepRecord.read(folder).trials.values()
    assert trial.outcome == "interrupted"
    assert trial.checkpoints[-1].step == trial.step >= 10


def test_a_signal_to_ray_as_well_is_no_other_end(tmp_path, start):
    """So do timeout, systemd and batch systems: they signal the whole process group."""
    folder = tmp_path / "results" / "group"
    sweep = start_and_wait(start, tmp_path, "group", *ENDLESS, *ALONE, *UNTRACKED, step=500)
    sent = time.monotonic()
    os.killpg(sweep.pid, signal.SIGTERM)
    output, errors = sweep.communicate(timeout=60)
    assert time.monotonic() - sent < 15
    assert sweep.returncode == 143, output + errors
    assert errors == ""
    assert "--resume group" in output
    assert {t.outcome for t in SweepRecord.read(folder).trials.values()} == {"interrupted"}


def test_a_second_signal_ends_at_once(tmp_path, start):
    sweep = start_and_wait(start, tmp_path, "twice", *ENDLESS, *ALONE, *UNTRACKED, step=500)
    sweep.send_signal(signal.SIGINT)
    time.sleep(0.05)
    sent = time.monotonic()
    sweep.send_signal(signal.SIGINT)
    sweep.wait(timeout=10)
    assert time.monotonic() - sent < 2
    assert sweep.returncode == 130


def two(found: list[int]) -> list[int] | None:
    """Return two processes: Ray renames its workers, and one may be without a name just then."""
    return found if len(found) == 2 else None


def test_a_killed_worker_goes_on_until_it_has_died_too_often(tmp_path, start):
    folder = tmp_path / "results" / "worker"
    flags = ("--num-samples", "2", "--max-failures", "1")
    sweep = start_and_wait(start, tmp_path, "worker", *ENDLESS, *flags, step=1000)
    workers = wait_for(lambda: two(processes(sweep.pid, WORKER)))

    def told(kind):
        return [e for e in events(folder) if e["event"] == kind]

    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: told("trial_restarted"))
    (restarted,) = told("trial_restarted")
    assert "died" in restarted["reason"]
    place = events(folder).index(restarted)
    saved = max(
        (e["step"] for e in events(folder)[:place] if e["event"] == "checkpoint"), default=0
    )
    wait_for(lambda: evaluated(folder, saved + 500, since=place))
    wait_for(lambda: workers[1] in processes(sweep.pid, WORKER))  # the other did not notice

    new = wait_for(lambda: set(processes(sweep.pid, WORKER)) - set(workers))
    os.kill(new.pop(), signal.SIGKILL)
    wait_for(lambda: told("outcome"))
    sweep.send_signal(signal.SIGINT)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, output + errors
    record = SweepRecord.read(folder)
    failed = record.trials[restarted["trial"]]
    (other,) = [trial for trial in record.trials.values() if trial is not failed]
    assert (failed.outcome, failed.restarts) == ("failed", 1)
    assert "died" in failed.reason
    assert re.search(f"{failed.name} failed: .*died", output)
    assert (other.outcome, other.restarts) == ("interrupted", 0)
    for trial in (failed, other):
        steps = [e["step"] for e in trial.evaluations]
        assert steps == list(range(0, trial.step + 1, 500))
    from mlflow import MlflowClient

    runs = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"])
    statuses = {r.data.tags.get("sweep.trial", ""): r.info.status for r in runs}
    assert statuses == {"": "KILLED", failed.name: "FAILED", other.name: "KILLED"}


def test_a_killed_worker_passes_over_a_checkpoint_that_is_gone(tmp_path, start):
    folder = tmp_path / "results" / "gone"
    sweep = start_and_wait(start, tmp_path, "gone", *ENDLESS, *ALONE, *UNTRACKED, step=1500)
    (worker,) = wait_for(lambda: processes(sweep.pid, WORKER))
    os.kill(worker, signal.SIGSTOP)
    time.sleep(0.5)  # what it had told is recorded by then
    newest = [e for e in events(folder) if e["event"] == "checkpoint"][-1]
    shutil.rmtree(folder / newest["path"])
    before = len(events(folder))
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: evaluated(folder, newest["step"] + 500, since=before))
    sweep.send_signal(signal.SIGINT)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, output + errors
    (notice,) = [e["text"] for e in events(folder) if e["event"] == "notice"]
    assert notice == f"passed over a checkpoint that is gone: {folder / newest['path']}"
    assert notice in output
    (trial,) = SweepRecord.read(folder).trials.values()
    assert (trial.outcome, trial.restarts) == ("interrupted", 1)


# The second trial is large: a worker that takes it over is at that for a second.
TAKEN_OVER = """
num_samples: 2
space:
  optim.lr: {loguniform: [1e-3, 1e-2]}
  model.d_ff: {choice: [64, 400000]}
start_points:
  - {optim.lr: 0.01, model.d_ff: 64}
  - {optim.lr: 0.01, model.d_ff: 400000}
asha: {enabled: false}
trial:
  data: {dataset: data/words}
  model: {d_model: 16, n_layers: 1, head_dim: 16, context_length: 8}
  train: {steps: 2, batch_size: 1, eval_every: 1, eval_tokens: 8}
"""


def test_a_worker_killed_while_it_takes_over_a_trial_costs_a_restart(tmp_path, start):
    folder = tmp_path / "results" / "over"
    config = make_project(tmp_path)
    config.write_text(TAKEN_OVER)
    flags = (*ALONE, *UNTRACKED, *FIXED)
    sweep = start(tmp_path, "--config", str(config), "--name", "over", *flags)
    (worker,) = wait_for(lambda: processes(sweep.pid, WORKER))
    wait_for(lambda: any(e["event"] == "outcome" for e in events(folder)))
    os.kill(worker, signal.SIGKILL)
    output, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output + errors
    trials = SweepRecord.read(folder).trials
    assert [(t.outcome, t.restarts) for t in trials.values()] == [("finished", 0), ("finished", 1)]


# What Ray needs beside the workers, by what their command lines begin with.
HELPERS = {
    "gcs_server": rb"\S*/gcs_server",
    "raylet": rb"\S*/raylet",
    "runtime_env": rb"ray::RuntimeEnvAgent",
    "dashboard_agent": rb"ray::DashboardAgent",
}
UNUSED = rb"(?s).*/(log_monitor|monitor|dashboard)\.py"


@pytest.mark.parametrize("victim", ["gcs_server", "raylet", "runtime_env", "dashboard_agent"])
def test_a_killed_ray_ends_the_sweep_with_one_line(tmp_path, start, victim):
    folder = tmp_path / "results" / "headless"
    flags = (*ENDLESS, *ALONE, *UNTRACKED)
    sweep = start_and_wait(start, tmp_path, "headless", *flags, step=500)
    below = descendants(sweep.pid)
    assert not processes(sweep.pid, UNUSED)
    os.kill(processes(sweep.pid, HELPERS[victim])[0], signal.SIGKILL)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 2, errors
    assert re.fullmatch(r"error: .*Ray died.*--resume headless`\n", errors)
    assert "(raylet)" not in output
    record = SweepRecord.read(folder)
    assert {trial.outcome for trial in record.trials.values()} == {"interrupted"}
    assert SweepRecord.read(folder).unfinished
    wait_for(lambda: gone(below), seconds=30)
    scratch = f"{tempfile.gettempdir()}/lm-ray-{sweep.pid}-*"
    wait_for(lambda: not glob.glob(scratch), seconds=10)
