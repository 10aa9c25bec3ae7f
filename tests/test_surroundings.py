"""What a sweep may find where it starts: a foreign Ray, taken ports, little shared memory."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from live_sweeps import (
    FIXED,
    UNTRACKED,
    descendants,
    free_port,
    gone,
    make_project,
    own_mount,
    run,
    wait_for,
)

from sweep.record.results import SweepRecord

pytestmark = [pytest.mark.slow, pytest.mark.fault]
# The ports that Ray, its agents and `mlflow ui` take when nobody names others.
WELL_KNOWN = (5000, 6379, 8076, 8265, 10001, 44217, 44227, 52365)


@pytest.fixture
def foreign_ray():
    """A running Ray that is none of our business."""
    home = Path(tempfile.mkdtemp(prefix="head-"))  # short: its sockets' paths are limited
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += [
        "--port",
        str(free_port()),
        "--node-ip-address",
        "127.0.0.1",
        "--temp-dir",
        str(home),
    ]
    command += ["--num-cpus", "1", "--object-store-memory", "80000000"]
    command += ["--include-dashboard", "false", "--disable-usage-stats"]
    head = subprocess.Popen(
        command,
        env=os.environ | {"HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(home.glob("session_latest/sockets/raylet")) or head.poll())
        yield head
    finally:
        below = descendants(head.pid)
        for pid in (head.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()
        wait_for(lambda: gone(below))
        shutil.rmtree(home, ignore_errors=True)


def test_a_stale_ray_cluster_and_taken_ports_are_no_matter(tmp_path, foreign_ray):
    config = make_project(tmp_path)
    flags = ("--name", "stale", "--num-samples", "1", *FIXED, *UNTRACKED)
    with contextlib.ExitStack() as taken:
        for port in WELL_KNOWN:
            listener = taken.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # taken already: as well
                listener.bind(("127.0.0.1", port))
                listener.listen()
        done = run(tmp_path, "sweep/run.py", "--config", str(config), *flags)
    assert done.returncode == 0, done.stderr
    assert SweepRecord.read(tmp_path / "results" / "stale").counts() == {"finished": 1}
    assert foreign_ray.poll() is None


def test_a_tiny_shared_memory_and_a_deep_tmpdir_are_no_matter(tmp_path):
    config = make_project(tmp_path)
    deep = tmp_path / ("deep" * 30)  # Ray's sockets cannot have names of more than 107 bytes
    deep.mkdir()
    flags = ("--name", "tiny", "--num-samples", "1", *FIXED, *UNTRACKED)
    tiny = own_mount("mount -t tmpfs -o size=1m tmpfs /dev/shm")
    done = run(
        tmp_path, "sweep/run.py", "--config", str(config), *flags, before=tiny, TMPDIR=str(deep)
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert SweepRecord.read(tmp_path / "results" / "tiny").counts() == {"finished": 1}


def test_a_tmpdir_without_room_is_one_line(tmp_path):
    config = make_project(tmp_path)
    small = tempfile.mkdtemp(prefix="s")  # short, or /tmp would be taken instead
    full = own_mount(f"mount -t tmpfs -o size=4m tmpfs {small}")
    flags = ("--config", str(config), *FIXED, *UNTRACKED)
    done = run(tmp_path, "sweep/run.py", *flags, before=full, TMPDIR=small)
    Path(small).rmdir()
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: TMPDIR: .* MiB free in .*, .* need .*\n", done.stderr)
    assert not list((tmp_path / "results").iterdir())


def test_a_ray_that_cannot_start_is_one_line(tmp_path):
    config = make_project(tmp_path)
    flags = ("--config", str(config), *FIXED, *UNTRACKED)
    done = run(tmp_path, "sweep/run.py", *flags, RAY_OVERRIDE_RESOURCES="not JSON")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: Ray did not start: ")
    assert len(done.stderr.splitlines()) == 1
    assert "TMPDIR" in done.stderr
    assert not list((tmp_path / "results").iterdir())


LIMITED = {
    "ulimit -v": ("bash", "-c", 'ulimit -v 3145728 && exec "$@"', "bash"),
    # Root has as many as it likes; another user has to read what is root's.
    "ulimit -u": (
        *("setpriv", "--reuid", "65534", "--inh-caps=+dac_override"),
        *("--ambient-caps=+dac_override", "bash", "-c", 'ulimit -u 40 && exec "$@"', "bash"),
    ),
    "PYTHONOPTIMIZE": ("env", "PYTHONOPTIMIZE=2"),
}


@pytest.mark.parametrize("limit", LIMITED)
def test_a_limit_under_which_ray_would_end_in_a_dump_is_one_line(limit, tmp_path):
    if subprocess.run([*LIMITED[limit], "true"], capture_output=True).returncode:
        pytest.skip("another user's limits take root")
    config = make_project(tmp_path)
    flags = ("--config", str(config), *FIXED, *UNTRACKED)
    done = run(tmp_path, "sweep/run.py", *flags, before=LIMITED[limit])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {limit}")
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "results").iterdir())


def test_a_home_folder_that_is_missing_or_not_ours_to_write_is_no_matter(tmp_path):
    config = make_project(tmp_path)
    flags = ("--config", str(config), "--name", "homeless", "--num-samples", "1", *FIXED)
    done = run(tmp_path, "sweep/run.py", *flags, HOME="/proc/none", XDG_CACHE_HOME="")
    assert (done.returncode, done.stderr) == (0, "")
    assert SweepRecord.read(tmp_path / "results" / "homeless").counts() == {"finished": 1}
