"""`run.py --ray-address HOST:PORT --detach head`: the driver goes on where a cluster's head is."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_nodes import Nodes, cluster_nodes
from conftest import ROOT
from live_sweeps import (
    ENDLESS,
    SLOWER,
    UNTRACKED,
    assert_whole,
    evaluated,
    events,
    gone,
    make_project,
    run,
    wait_for,
)

from sweep.record.lock import is_running
from sweep.record.results import SweepRecord
from sweep.run import _pop_detach


@pytest.mark.parametrize(
    ("typed", "where", "rest"),
    [
        (["--detach", "head", "--name", "a"], "head", ["--name", "a"]),
        (["--name", "a", "--detach=head"], "head", ["--name", "a"]),
        (["--detach", "--name", "head"], "here", ["--name", "head"]),
        (["--name", "head", "--detach"], "here", ["--name", "head"]),
        (["--name", "head"], None, ["--name", "head"]),
    ],
)
def test_where_a_driver_goes_on_is_read_from_the_flags(typed, where, rest):
    assert _pop_detach(typed) == (where, rest)


def test_without_a_cluster_there_is_no_head(project):
    done = run(project, "sweep/run.py", "--detach", "head")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --detach head: a Ray of one's own has no head; ")


@contextlib.contextmanager
def head_and_two(before: str = "true") -> Iterator[Nodes]:
    """Give a head that trains nothing, node 1 that does, and node 2, which is to go away."""
    with cluster_nodes(3, up=0) as nodes:
        nodes.start(0, before=before, cpus=0)
        nodes.wait_for(1)
        nodes.start(1)
        nodes.start(2, cpus=0)
        nodes.wait_for(3)
        yield nodes


def detach(nodes: Nodes, number: int, home: Path, *flags: str) -> subprocess.CompletedProcess:
    """Start a sweep's driver on the head, from a node."""
    joins = (*flags, "--ray-address", nodes.address, "--detach", "head")
    return run(home, "sweep/run.py", *joins, before=nodes.within(number), **nodes.driver)


def process_in(output: str) -> int:
    return int(re.search(r"as process (\d+) on the cluster's head, 10\.77\.0\.1;", output)[1])


def actors(nodes: Nodes) -> list[int]:
    """Return the processes of actors that start drivers, on the head."""
    found = []
    for pid in nodes.pids(0):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::HeadDriver"):
                found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_goes_on_when_the_machine_that_started_it_is_gone(tmp_path):
    folder = tmp_path / "results" / "away"
    flags = ("--config", str(make_project(tmp_path)), "--name", "away", *SLOWER)
    with head_and_two() as nodes:
        begun = detach(nodes, 2, tmp_path, *flags)
        assert begun.returncode == 0, begun.stderr + begun.stdout
        nodes.kill(2)
        assert events(folder)[0]["event"] == "session_started"
        pid = process_in(begun.stdout)
        assert pid in nodes.pids(0)
        assert os.getsid(pid) == pid
        assert "budget" in begun.stdout, "the plan is shown"
        assert len(actors(nodes)) == 1
        commit = json.loads((folder / "sweep.json").read_text())["identity"]["git_commit"]
        here = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        assert commit.strip("+") == subprocess.check_output(here, text=True).strip()

        following = subprocess.Popen(
            [sys.executable, ROOT / "sweep/status.py", "away", "--follow"],
            env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: evaluated(folder, 1000))
        done = run(tmp_path, "sweep/status.py", "away", "--stop")
        assert done.returncode == 0, done.stderr
        told, _ = following.communicate(timeout=60)
        assert re.search(r"^away: running: ", told)
        assert re.search(r"^away: stopped: 1 interrupted of 3 in ", told, re.MULTILINE)
        wait_for(lambda: gone([pid]) and not actors(nodes), 60)
        log = (folder / "driver-1.log").read_text()
        assert "stopped by status.py away --stop: 1 interrupted" in log

        resumed = detach(nodes, 1, tmp_path, "--resume", "away")
        assert resumed.returncode == 0, resumed.stderr + resumed.stdout
        wait_for(lambda: gone([process_in(resumed.stdout)]) and not actors(nodes))
        assert "best: " in (folder / "driver-2.log").read_text()
        assert (folder / "report.html").exists()
    assert_whole(tmp_path, "away", steps=2000, trials=3)


@pytest.mark.slow
@pytest.mark.fault
def test_a_driver_on_the_head_ends_with_the_head(tmp_path):
    folder = tmp_path / "results" / "headless"
    flags = ("--config", str(make_project(tmp_path)), "--name", "headless", *ENDLESS, *UNTRACKED)
    with head_and_two() as nodes:
        begun = detach(nodes, 2, tmp_path, *flags)
        assert begun.returncode == 0, begun.stderr + begun.stdout
        pid = process_in(begun.stdout)
        again = detach(nodes, 1, tmp_path, "--resume", "headless")
        assert again.returncode == 2
        running = r"error: sweep headless: another process is running it;.*\n"
        assert re.fullmatch(running, again.stderr)
        wait_for(lambda: evaluated(folder, 500))
        nodes.kill(0, pid)
        killed = time.monotonic()
        wait_for(lambda: gone([pid]), 60)
        assert time.monotonic() - killed < 40  # 25 on a machine that is not shared
        assert not nodes.pids(0)
    assert not is_running(folder)
    assert events(folder)[-1]["event"] == "session_ended"
    log = (folder / "driver-1.log").read_text()
    assert re.search(r"^error: .*does not answer any more.*--resume headless", log, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.fault
def test_a_head_that_does_not_see_the_project_is_refused(tmp_path):
    config = make_project(tmp_path)
    flags = ("--config", str(config), "--name", "unseen", *UNTRACKED)
    with head_and_two(before=f"mount -t tmpfs none {tmp_path}") as nodes:
        refused = detach(nodes, 2, tmp_path, *flags)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert f"on the head, {tmp_path} is not this machine's folder" in refused.stderr
        wait_for(lambda: not actors(nodes), 60)
    assert not (tmp_path / "results").exists()
    assert not list(tmp_path.glob(".nodes-*"))


@pytest.mark.slow
@pytest.mark.fault
def test_ctrl_c_before_a_sweep_on_the_head_has_begun_leaves_nothing(tmp_path, start):
    """Before the head has heard of it, while a driver starts there, and while its sweep starts."""
    folder = tmp_path / "results" / "early"
    flags = ("--config", str(make_project(tmp_path)), "--name", "early", *ENDLESS, *UNTRACKED)

    def marks() -> list[Path]:
        return [*tmp_path.glob(".nodes-*"), *tmp_path.glob("results/.nodes-*")]

    def interrupted(nodes: Nodes, at: Callable[[], object]) -> None:
        joins = (*flags, "--ray-address", nodes.address, "--detach", "head")
        sweep = start(tmp_path, *joins, before=nodes.within(2), **nodes.driver)
        wait_for(lambda: at() or sweep.poll() is not None)
        sweep.send_signal(signal.SIGINT)
        output, errors = sweep.communicate(timeout=90)
        assert sweep.returncode == 130, output + errors
        told = (output + errors).splitlines()
        assert sum(line.startswith("interrupted") for line in told) == 1, told
        assert "Traceback" not in output + errors
        wait_for(lambda: not actors(nodes) and not drivers(nodes), 30)
        assert not marks()

    with head_and_two() as nodes:
        for at in (marks, lambda: actors(nodes), lambda: drivers(nodes)):
            interrupted(nodes, at)
            assert not folder.exists()
        interrupted(nodes, at=lambda: is_running(folder))
        if folder.exists():  # its session was faster than the signal
            assert SweepRecord.read(folder).end == "interrupted"
            shutil.rmtree(folder)
        begun = detach(nodes, 2, tmp_path, *flags)
        assert begun.returncode == 0, begun.stderr + begun.stdout
        nodes.kill(0)


def drivers(nodes: Nodes) -> list[int]:
    """Return the processes on the head that are drivers, or about to become some."""
    found = []
    for pid in nodes.pids(0):
        with contextlib.suppress(OSError):
            if b"head_driver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
