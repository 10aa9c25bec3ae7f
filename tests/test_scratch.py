"""Ray's temporary folders, and its processes, which end with their driver."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from live_sweeps import (
    ALONE,
    ENDLESS,
    UNTRACKED,
    descendants,
    gone,
    start_and_wait,
    wait_for,
)

from sweep.cluster.scratch import remove_stale_scratch, scratch_folder

HOLDS = """
import sys
from sweep.cluster.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""
DRIVES = """
import sys, time
from sweep.cluster.survivors import survivors_ended
with survivors_ended(sys.argv[1]) as ends_with_us:
    ends_with_us(int(sys.argv[2]))
    print("ready", flush=True)
    time.sleep(60)
"""
REMOVES = "from sweep.cluster.scratch import remove_stale_scratch; remove_stale_scratch()"


@pytest.mark.parametrize("before", [(), ("unshare", "--pid", "--fork")])
def test_only_a_folder_whose_driver_is_dead_is_stale(before, place):
    """With other process numbers, too, as in containers that share a TMPDIR."""
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("a namespace of one's own takes root")
    remove = [*before, sys.executable, "-c", REMOVES]
    foreign = place / "lm-ray-not-ours"
    foreign.symlink_to(place)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        folder = Path(holder.stdout.readline().strip())
        subprocess.run(remove, check=True)
        assert folder.exists()
        holder.kill()
    assert folder.exists()
    subprocess.run(remove, check=True)
    assert set(place.iterdir()) == {foreign}


def test_a_folder_removed_before_it_was_locked_is_made_anew(place, monkeypatch):
    flock, calls = fcntl.flock, []

    def overtaken(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            remove_stale_scratch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with scratch_folder() as folder:
        assert list(place.iterdir()) == [Path(folder)]
    assert list(place.iterdir()) == []


def test_what_is_in_the_sessions_of_a_driver_ends_with_it_and_nothing_else(place):
    """Whatever it is called, whoever its parent is, and with its process group's leader gone."""
    orphans = "trap '' TERM HUP; (exec -a 'x) S 1 1 1' sleep 60)& set -m; sleep 60 & echo $$ $!"
    with contextlib.ExitStack() as ended:

        def session(command: str) -> subprocess.Popen:
            process = ended.enter_context(
                subprocess.Popen(
                    ["bash", "-c", command], stdout=subprocess.PIPE, start_new_session=True
                )
            )
            ended.callback(process.kill)
            return process

        ours, foreign = session(f"{orphans}; wait"), session("echo; sleep 60")
        assert [process.stdout.readline() for process in (ours, foreign)]
        below = descendants(ours.pid)
        assert len(below) == 2
        scratch = place / "scratch"
        scratch.mkdir()
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVES, str(scratch), str(ours.pid)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with driver:
            assert driver.stdout.readline()
            ours.kill()
            assert not any(gone([pid]) for pid in below)
            os.killpg(driver.pid, signal.SIGKILL)
        wait_for(lambda: gone(below) and not scratch.exists(), seconds=10)
        assert foreign.poll() is None
        os.killpg(foreign.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_at_once_leaves_no_process_and_no_folder(number, tmp_path, start, place):
    """Killed, or by a second signal."""
    sweep = start_and_wait(start, tmp_path, "killed", *ENDLESS, *ALONE, *UNTRACKED, step=500)
    below = descendants(sweep.pid)
    assert len(below) > 4
    sweep.send_signal(signal.SIGINT)
    time.sleep(0.05)
    sweep.send_signal(number)
    sweep.wait(10)
    wait_for(lambda: gone(below) and not list(place.iterdir()), seconds=10)
