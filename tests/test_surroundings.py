"""What a sweep may find where it starts: a foreign Ray, taken ports, little shared memory."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from live_sweeps import ROOT, UNTRACKED, descendants, free_port, gone, make_project, run, wait_for

from sweep.results import SweepRecord

pytestmark = [pytest.mark.slow, pytest.mark.fault]
# The ports that Ray, its agents and `mlflow ui` take when nobody names others.
WELL_KNOWN = (5000, 6379, 8076, 8265, 10001, 44217, 44227, 52365)


@pytest.fixture
def foreign_ray():
    """The address of a running Ray that is none of our business, with a name that it answers to."""
    home = Path(tempfile.mkdtemp(prefix="head-"))  # short: its sockets' paths are limited
    port = free_port()
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += ["--port", str(port), "--node-ip-address", "127.0.0.1", "--temp-dir", str(home)]
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
        yield head, f"127.0.0.1:{port}"
    finally:
        below = descendants(head.pid)
        for pid in (head.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()
        wait_for(lambda: gone(below))
        shutil.rmtree(home, ignore_errors=True)


def test_a_stale_ray_cluster_and_taken_ports_are_no_matter(tmp_path, foreign_ray, monkeypatch):
    head, address = foreign_ray
    monkeypatch.setenv("RAY_ADDRESS", address)
    config = make_project(tmp_path)
    flags = ("--name", "stale", "--num-samples", "1", *UNTRACKED)
    with contextlib.ExitStack() as taken:
        for port in WELL_KNOWN:
            listener = taken.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # taken already: as well
                listener.bind(("127.0.0.1", port))
                listener.listen()
        done = run(tmp_path, "sweep/run.py", "--config", str(config), *flags)
    assert done.returncode == 0, done.stderr
    assert SweepRecord.read(tmp_path / "results" / "stale").counts() == {"finished": 1}
    assert head.poll() is None


def test_a_tiny_shared_memory_is_enough(tmp_path):
    own = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && "$@"')
    if subprocess.run([*own, "sh", "true"], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of one's own takes root")
    sweep = [sys.executable, str(ROOT / "sweep/run.py"), "--config", str(make_project(tmp_path))]
    done = subprocess.run(
        [*own, "sh", *sweep, "--name", "tiny", "--num-samples", "1", *UNTRACKED],
        env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert SweepRecord.read(tmp_path / "results" / "tiny").counts() == {"finished": 1}


def test_a_ray_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    config = make_project(tmp_path)
    deep = tmp_path / ("deep" * 30)  # Ray's sockets cannot have names of more than 107 bytes
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    done = run(tmp_path, "sweep/run.py", "--config", str(config), "--name", "deep", *UNTRACKED)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: Ray did not start: ")
    assert len(done.stderr.splitlines()) == 1
    assert "TMPDIR" in done.stderr
    assert not list((tmp_path / "results").iterdir())
    assert not list(deep.glob("lm-sweep-*"))
