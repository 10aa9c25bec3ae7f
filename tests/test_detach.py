"""A sweep away from the terminal: `run.py --detach`, `status.py NAME --follow`."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import SWEEP_RUN
from live_sweeps import (
    ALONE,
    ENDLESS,
    ROOT,
    SLOWER,
    UNTRACKED,
    descendants,
    evaluated,
    events,
    gone,
    make_project,
    run,
    start_and_wait,
    wait_for,
)
from sweep_samples import ended, event, new_sweep, session, started, sweep_config, write_events
from sweep_samples import evaluated as evaluation

from sweep.record.lock import is_running, locked
from sweep.record.results import SweepRecord
from sweep.show import follow
from sweep.status import main as status


@pytest.fixture
def detached():
    """Return a function that finds the process in a detached start's output; ended with the test.

    It gives the process's number.
    """
    found = []

    def process_in(output: str) -> int:
        found.append(int(re.search(r"as process (\d+);", output)[1]))
        return found[-1]

    yield process_in
    for pid in found:
        if not gone([pid]):
            os.kill(pid, signal.SIGKILL)


def test_a_sweep_is_followed_to_its_end(capsys, monkeypatch):
    monkeypatch.setattr(follow, "LOOK_EVERY_SECONDS", 0.002)
    folder, _ = new_sweep("followed", sweep_config(num_samples=2))
    write_events(folder, session(num_samples=2), started("t000"), evaluation("t000", 10, 4.5))
    following = threading.Thread(target=status, args=(["followed", "--follow"],))
    with locked(folder):
        following.start()
        assert wait_for(lambda: capsys.readouterr().out, 5) == "followed: running: 1 running of 2\n"
        told = ""
        for step in (
            [ended("t000", "stopped", step=10), started("t001")],
            [event("trial_restarted", trial="t001", reason="its worker died")],
            [event("notice", text="node 10.0.0.2 is gone")],
            [evaluation("t001", 80, 3.0), ended("t001", "finished")],
        ):
            write_events(folder, step)
            told += wait_for(lambda: capsys.readouterr().out, 5)
        assert following.is_alive()
        write_events(folder, event("session_ended", completed=True, time=1_700_000_200.0))
        following.join(5)  # while MLflow gets the rest
    assert not following.is_alive()
    told += capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0].startswith("[1/2] t000 ")
    assert "t001: its worker died" in lines
    assert "node 10.0.0.2 is gone" in lines
    assert lines[-1].startswith("followed: complete: 1 finished, 1 stopped of 2 in ")


def test_a_sweep_that_does_not_run_is_not_followed(capsys):
    folder, _ = new_sweep("over")
    write_events(folder, session(num_samples=2), started("t000"))
    assert status(["over", "--follow"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("over: its driver has died: 1 running of 2 in 0 s; go on with  ")
    write_events(folder, event("session_ended", completed=False, ended_by="pause"))
    assert status(["over", "--follow"]) == 0
    assert capsys.readouterr().out.startswith("over: paused: 1 running of 2 in 0 s; go on with")


def test_a_dry_run_is_not_detached(project):
    done = run(project, "sweep/run.py", "--dry-run", "--detach")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--detach" in done.stderr


FORKS = """
import os, signal, time
from sweep.conduct.detach import run_detached
from trainable.common.command import run_command

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
run_command(lambda _: run_detached(lambda begun: time.sleep(60) or 0, print))
"""


def test_ctrl_c_just_as_the_driver_was_forked_ends_it(run_python):
    began = time.monotonic()
    done = run_python("-c", FORKS)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert time.monotonic() - began < 50


@pytest.mark.slow
@pytest.mark.fault
def test_a_detached_start_that_is_refused_is_told_and_leaves_nothing(tmp_path):
    config = make_project(tmp_path)
    text = config.read_text()
    config.write_text(text.replace("data/words", "data/none"))
    done = run(tmp_path, "sweep/run.py", "--config", str(config), "--detach")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*data/none.*\n", done.stderr)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.fault
def test_ctrl_c_before_a_detached_sweep_has_begun_ends_it(tmp_path, start):
    folder = tmp_path / "results" / "early"
    flags = ("--config", str(make_project(tmp_path)), "--name", "early", *ENDLESS, *UNTRACKED)
    sweep = start(tmp_path, *flags, "--detach")
    wait_for(lambda: is_running(folder))
    driver = descendants(sweep.pid)
    sweep.send_signal(signal.SIGINT)
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, output + errors
    assert output.endswith("interrupted before the first trial\n")
    assert errors == ""
    assert gone(driver)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("seconds", [0, 1, 2, 4, 7])
def test_ctrl_c_at_any_moment_of_a_detached_start_is_heard_once(tmp_path, start, seconds):
    """Nobody is left who trains: it ended before it began, or its log tells its end."""
    folder = tmp_path / "results" / "early"
    flags = ("--config", str(make_project(tmp_path)), "--name", "early", *ENDLESS, *UNTRACKED)
    sweep = start(tmp_path, *flags, "--detach")
    driver = wait_for(lambda: descendants(sweep.pid))
    time.sleep(seconds)
    sweep.send_signal(signal.SIGINT)
    output, errors = sweep.communicate(timeout=60)
    if sweep.returncode == 0:  # on a fast machine it had begun, and said so
        assert run(tmp_path, "sweep/status.py", "early", "--stop").returncode == 0
        return
    assert sweep.returncode == 130, output + errors
    assert (output + errors).count("interrupted") == 1, output + errors
    assert gone(driver)
    assert not folder.exists() or events(folder)[-1]["event"] == "session_ended"


@pytest.mark.slow
@pytest.mark.fault
def test_a_detached_sweep_is_followed_and_stopped(tmp_path, detached):
    config, folder = make_project(tmp_path), tmp_path / "results" / "away"
    flags = ("--config", str(config), "--name", "away", *ENDLESS, *ALONE, *UNTRACKED)
    begun = run(tmp_path, "sweep/run.py", *flags, "--detach")
    assert begun.returncode == 0, begun.stderr
    pid = detached(begun.stdout)
    assert events(folder)[0]["event"] == "session_started"
    assert os.getsid(pid) == pid
    assert "budget" in begun.stdout, "the plan is shown"
    assert "--follow" in begun.stdout

    log = (folder / "driver-1.log").read_text()
    again = run(tmp_path, "sweep/run.py", "--resume", "away", "--detach")
    assert again.returncode == 2
    assert re.fullmatch(r"error: sweep away: another process is running it;.*\n", again.stderr)
    assert (folder / "driver-1.log").read_text() == log
    assert not (folder / "driver-2.log").exists()

    following = subprocess.Popen(
        [sys.executable, ROOT / "sweep/status.py", "away", "--follow"],
        env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    left = subprocess.Popen(following.args, env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)})
    wait_for(lambda: evaluated(folder, 1000))
    left.send_signal(signal.SIGINT)
    assert left.wait(30) == 130
    assert is_running(folder)

    done = run(tmp_path, "sweep/status.py", "away", "--stop")
    assert done.returncode == 0, done.stderr
    told, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert re.search(r"^away: running: ", told)
    assert re.search(r"^away: stopped: 1 interrupted of 6 in .*--resume away", told, re.MULTILINE)
    wait_for(lambda: gone([pid]))
    log = (folder / "driver-1.log").read_text()
    assert "budget" in log
    assert "stopped by status.py away --stop: 1 interrupted" in log
    assert "--resume away" in log


@pytest.mark.slow
@pytest.mark.fault
def test_a_detached_sweep_outlives_its_terminal(tmp_path, detached, start):
    """Its first session was ended by a signal; it goes on detached, and to its end."""
    folder = tmp_path / "results" / "kept"
    flags = (*SLOWER, *ALONE, *UNTRACKED)
    sweep = start_and_wait(start, tmp_path, "kept", *flags, step=200)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 143
    ours, theirs = pty.openpty()

    def log_in() -> None:
        os.login_tty(theirs)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests below nohup inherit that it is ignored

    resume = f"{sys.executable} {SWEEP_RUN} --resume kept --detach"
    shell = subprocess.Popen(
        # What read from the terminal would end with it, and the shell then in its own time.
        ["sh", "-c", f"{resume}; echo status $?; sleep 600"],
        env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
        preexec_fn=log_in,
    )
    os.close(theirs)
    output = ""
    while not (status := re.search(r"^status (\d+)", output, re.MULTILINE)):
        output += os.read(ours, 65536).decode()
    assert status[1] == "0", output
    pid = detached(output)
    os.close(ours)  # the terminal ends: SIGHUP to all that run in it
    assert shell.wait(30) == -signal.SIGHUP
    wait_for(lambda: gone([pid]))
    record = SweepRecord.read(folder)
    assert record.complete
    assert record.sessions == 2
    log = (folder / "driver-2.log").read_text()
    assert "resuming kept" in log
    assert "best: " in log
    assert not (folder / "driver-1.log").exists()
