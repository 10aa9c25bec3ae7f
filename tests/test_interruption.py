"""Signals, a terminal that closes, a reader that goes away: what ends a sweep, and how."""

import contextlib
import os
import pty
import signal
import subprocess
import sys

import pytest
from conftest import SWEEP_RUN
from live_sweeps import (
    ALONE,
    ENDLESS,
    FIXED,
    ROOT,
    UNTRACKED,
    evaluated,
    events,
    make_project,
    wait_for,
)

from sweep.record.results import SweepRecord

WAITS = """
import hashlib, sys
from sweep.control.interruption import Interruption
with Interruption() as interruption:
    print("ready", flush=True)
    if "busy" in sys.argv:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C
    while interruption.signal is None:
        pass
    print(interruption.signal, flush=True)
    sys.stdin.read()  # an end that takes for ever
"""


def hears_all_but(ignored: signal.Signals | None) -> None:
    """Set what a child inherits: the tests may themselves run under nohup, deaf to SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)


def in_terminal(end: int) -> None:
    hears_all_but(None)
    os.login_tty(end)


@pytest.fixture
def waiting():
    """Return a function that starts a process which notes signals; it is ended with the test."""
    with contextlib.ExitStack() as ended:

        def start(*words: str, ignores: signal.Signals | None = None) -> subprocess.Popen:
            process = ended.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WAITS, *words],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=lambda: hears_all_but(ignores),
                )
            )
            ended.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_ends_at_once(waiting, second):
    process = waiting()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"{signal.SIGTERM:d}\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(second)
    assert process.wait(10) == 128 + second


def test_a_second_signal_ends_a_process_that_is_deep_in_a_library(waiting):
    process = waiting("busy")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_with_nohup_a_closed_terminal_is_no_signal(waiting):
    process = waiting(ignores=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"{signal.SIGTERM:d}\n"


def test_a_mistake_that_nobody_can_be_told_of_has_its_status_all_the_same():
    command = [sys.executable, SWEEP_RUN, "--config", "none.yaml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
        assert process.wait(60) == 2


@pytest.mark.slow
@pytest.mark.fault
def test_a_reader_that_goes_away_is_no_matter(tmp_path, start):
    """As `| head -1` does; the sweep prints its plan, a line for each trial, and a table."""
    flags = ("--config", str(make_project(tmp_path)), "--name", "piped", *FIXED, *UNTRACKED)
    sweep = start(tmp_path, *flags, "--num-samples", "2")
    assert sweep.stdout.readline()
    sweep.stdout.close()
    assert sweep.wait(120) == 0, sweep.stderr.read()
    assert sweep.stderr.read() == ""
    assert not SweepRecord.read(tmp_path / "results" / "piped").unfinished


@pytest.mark.slow
@pytest.mark.fault
def test_a_closed_terminal_ends_the_sweep_gracefully(tmp_path):
    """Its SIGHUP goes to all that run in it, and nothing can be printed to it any more."""
    folder = tmp_path / "results" / "closed"
    ours, theirs = pty.openpty()
    flags = ("--config", str(make_project(tmp_path)), "--name", "closed", *ENDLESS, *ALONE)
    sweep = subprocess.Popen(
        [sys.executable, SWEEP_RUN, *flags, *UNTRACKED],
        env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
        preexec_fn=lambda: in_terminal(theirs),
    )
    os.close(theirs)
    try:
        wait_for(lambda: os.read(ours, 65536) and evaluated(folder, 500))
        os.close(ours)
        assert sweep.wait(60) == 129
    finally:
        sweep.kill()
        sweep.wait()
    record = SweepRecord.read(folder)
    assert {trial.outcome for trial in record.trials.values()} == {"interrupted"}
    assert events(folder)[-1]["event"] == "session_ended"
    (trial,) = record.trials.values()
    assert trial.checkpoints[-1].step == trial.step
