"""Sweeps whose driver is on the head's node of a test's cluster, and where their trials ran."""

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cluster_nodes import Nodes
from live_sweeps import WORKER, events, make_project, run, wait_for


def sweep_on(nodes: Nodes, home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Run a command of a sweep."""
    env = nodes.driver | env
    return run(home, "sweep/run.py", *arguments, before=nodes.within(0), **env)


def start_on(nodes: Nodes, start, home: Path, name: str, *flags: str) -> subprocess.Popen:
    """Start a sweep in a new project."""
    config = ("--config", str(make_project(home)), "--name", name)
    joins = ("--ray-address", nodes.address)
    return start(home, *config, *joins, *flags, before=nodes.within(0), **nodes.driver)


def started(folder: Path) -> dict[str, str]:
    """Return the address of the node on which each trial began."""
    return {e["trial"]: e["node"] for e in events(folder) if e["event"] == "trial_started"}


def step_of(folder: Path, trial: str) -> int:
    """Return the last recorded step of a trial."""
    told = [e for e in events(folder) if e["event"] == "evaluation" and e["trial"] == trial]
    return max((e["metrics"]["step"] for e in told), default=0)


def restarts(folder: Path) -> dict[str, str]:
    """Return why each trial was restarted last."""
    return {e["trial"]: e["reason"] for e in events(folder) if e["event"] == "trial_restarted"}


def whereabouts(nodes: Nodes) -> set[int]:
    """Return the numbers of the nodes on which a trial's worker runs."""
    found = set()
    for number in range(3):
        for pid in nodes.pids(number):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(WORKER):
                    found.add(number)
    return found


def gone_on_after(fault: Callable[[int], None], nodes: Nodes, folder: Path) -> tuple[float, int]:
    """Do something to a node, not the head, on which a trial runs.

    Returns:
        The seconds until the trial is evaluated again, on another node, and the node's number.
    """
    before = restarts(folder)
    number = wait_for(lambda: next(iter(whereabouts(nodes) & {1, 2}), None), 60)
    began = time.monotonic()
    fault(number)
    wait_for(lambda: restarts(folder) != before, 90)
    (trial,) = [t for t, why in restarts(folder).items() if before.get(t) != why]
    assert restarts(folder)[trial].startswith(f"node {nodes.ip(number)}: ")
    reached = step_of(folder, trial)
    wait_for(lambda: step_of(folder, trial) > reached, 90)
    return time.monotonic() - began, number
