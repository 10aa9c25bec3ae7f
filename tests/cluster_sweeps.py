"""Sweeps whose driver is on the head's node of a test's cluster, and where their trials ran."""

import subprocess
from pathlib import Path

from cluster_nodes import Nodes
from live_sweeps import events, make_project, run


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
