"""Trials that take unlike resources, really run: on this machine, and on nodes of unlike sizes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_nodes import cluster_nodes
from cluster_sweeps import step_of
from live_sweeps import (
    ENDLESS,
    FIXED,
    ROOT,
    UNTRACKED,
    evaluated,
    events,
    make_project,
    run,
    wait_for,
)

from sweep.record.results import SweepRecord

pytestmark = pytest.mark.slow

WIDTHS = (16, 32, 16, 16)
FLAGS = ("--asha.no-enabled", *FIXED, *UNTRACKED, "--num-samples", "4")
LONG = ("--trial.train.steps", "400", "--trial.train.eval-every", "50")


def make_uneven(home: Path, cpus: int = 2, widths: tuple[int, ...] = WIDTHS) -> Path:
    """Make a project with a sweep whose wide trials take more CPUs; return its config."""
    config = make_project(home)
    points = [{"optim.lr": 1e-2 / (n + 1), "model.d_model": w} for n, w in enumerate(widths)]
    text, count = re.subn(
        r"start_points:\n.*\n", f"start_points: {json.dumps(points)}\n", config.read_text()
    )
    assert count == 1
    config.write_text(f"{text}resources:\n  model.d_model >= 32: {{cpus: {cpus}}}\n")
    return config


def threads_of(folder: Path) -> dict[str, set[int]]:
    """Return the CPU threads that trained each trial, as its checkpoints tell."""
    found: dict[str, set[int]] = {}
    for manifest in folder.glob("session-*/t*/*/checkpoint_*/manifest.json"):
        name = manifest.relative_to(folder).parts[1]
        found.setdefault(name, set()).add(json.loads(manifest.read_text())["threads"])
    return found


def spans(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return from when to when each trial ran, a session each."""
    began: dict[str, float] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for event in events(folder):
        if event["event"] == "trial_started":
            began[event["trial"]] = event["time"]
        elif event["event"] == "outcome":
            span = (began.pop(event["trial"]), event["time"])
            found.setdefault(event["trial"], []).append(span)
    assert not began
    return found


def test_a_large_trial_has_two_cores_alone_and_a_resume_keeps_that(tmp_path, start):
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip("two cores are shared out")
    config = ("--config", str(make_uneven(tmp_path)), "--name", "uneven", *FLAGS, *LONG)
    plan = json.loads(run(tmp_path, "sweep/run.py", *config, "--dry-run", "--json").stdout)
    told = [(p["condition"], p["cpus"], p["concurrent"], p["share"]) for p in plan["resources"]]
    assert told == [("model.d_model >= 32", 2, 1, 0.5), (None, 1, 2, 0.5)]
    assert plan["concurrent"] == 2
    sweep, folder = start(tmp_path, *config), tmp_path / "results" / "uneven"
    wait_for(lambda: sweep.poll() is not None or "t001" in started(folder), 600)
    since = len(events(folder))
    wait_for(lambda: sweep.poll() is not None or evaluated(folder, 50, since))
    sweep.send_signal(signal.SIGTERM)
    output, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 143, output + errors
    assert "4, up to 2 at a time\n" in output
    assert "trials with model.d_model >= 32, about 50%: 2 CPU and 0 GPU each, 1 at a time" in output
    assert started(folder) == ["t000", "t001"]
    done = run(tmp_path, "sweep/run.py", "--resume", "uneven")
    assert done.returncode == 0, done.stderr
    assert started(folder)[2] == "t001"
    assert sorted(started(folder)[3:]) == ["t002", "t003"]
    assert SweepRecord.read(folder).counts() == {"finished": 4}
    assert threads_of(folder) == {f"t{n:03d}": {1 + (w == 32)} for n, w in enumerate(WIDTHS)}
    ran = spans(folder)
    (small,), (third,), (fourth,) = (ran[f"t00{n}"] for n in (0, 2, 3))
    assert overlap(third, fourth)
    assert len(ran["t001"]) == 2
    assert not any(overlap(mine, one) for mine in ran["t001"] for one in (small, third, fourth))


def started(folder: Path) -> list[str]:
    """Return the names of trials in the order in which they began."""
    return [event["trial"] for event in events(folder) if event["event"] == "trial_started"]


def overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])


def test_large_trials_run_on_the_large_node_and_are_refused_without_one(tmp_path):
    with cluster_nodes(2, up=1) as nodes:
        config = ("--config", str(make_uneven(tmp_path)), "--name", "uneven", *FLAGS)
        command = (*config, "--ray-address", nodes.address)
        refused = run(tmp_path, "sweep/run.py", *command, before=nodes.within(0), **nodes.driver)
        assert refused.returncode == 2, refused.stdout
        told = (
            "no node has the 2 CPU and 0 GPU that trials with model.d_model >= 32 take each "
            "(10.77.0.1: 1 CPU, 0 GPU); lower resources, or let such a node join first"
        )
        assert refused.stderr == f"error: --ray-address {nodes.address}: {told}\n"
        nodes.start(1, cpus=2)
        nodes.wait_for(2)
        done = run(tmp_path, "sweep/run.py", *command, before=nodes.within(0), **nodes.driver)
        assert done.returncode == 0, done.stderr
        assert "4, up to 3 at a time\n" in done.stdout
        folder = tmp_path / "results" / "uneven"
        told = [event for event in events(folder) if event["event"] == "trial_started"]
        assert sorted(event["trial"] for event in told) == [f"t{n:03d}" for n in range(4)]
        (large,) = (event["node"] for event in told if event["params"]["model.d_model"] == 32)
        assert large == nodes.ip(1)
        assert threads_of(folder) == {f"t{n:03d}": {1 + (w == 32)} for n, w in enumerate(WIDTHS)}


@pytest.mark.fault
def test_a_large_trial_whose_node_leaves_waits_and_that_is_told_until_one_joins(tmp_path, start):
    """In the terminal, and where the sweep is followed; a signal ends it while it waits."""
    folder = tmp_path / "results" / "waits"
    config = ("--config", str(make_uneven(tmp_path, widths=(32, 16))), "--name", "waits")
    flags = (*ENDLESS, *UNTRACKED, "--num-samples", "2", "--max-failures", "4")
    takes = "2 CPU and 0 GPU"
    waits = (
        f"no node is left with the {takes} that trials with model.d_model >= 32 take each "
        "(10.77.0.1: 1 CPU, 0 GPU): they wait, and those behind them, until one joins"
    )
    goes_on = f"trials with model.d_model >= 32 go on: a node with {takes} has joined"

    def told() -> list[str]:
        texts = [event["text"] for event in events(folder) if event["event"] == "notice"]
        return [text for text in texts if text in (waits, goes_on)]

    with cluster_nodes(3, up=1) as nodes:
        nodes.start(1, cpus=2)
        nodes.wait_for(2)
        joins = ("--ray-address", nodes.address)
        sweep = start(tmp_path, *config, *flags, *joins, before=nodes.within(0), **nodes.driver)
        wait_for(lambda: step_of(folder, "t000") >= 500 or sweep.poll() is not None)
        following = subprocess.Popen(
            [sys.executable, ROOT / "sweep/status.py", "waits", "--follow"],
            env=os.environ | {"LM_SWEEP_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        nodes.kill(1)
        wait_for(lambda: told() == [waits], 90)
        before = step_of(folder, "t000")
        nodes.start(2, cpus=2)
        wait_for(lambda: told() == [waits, goes_on], 120)
        wait_for(lambda: step_of(folder, "t000") >= before + 500, 120)
        nodes.kill(2)
        wait_for(lambda: told() == [waits, goes_on, waits], 90)
        sweep.send_signal(signal.SIGTERM)
        output, errors = sweep.communicate(timeout=60)
        followed, _ = following.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    for text in (output, followed):
        assert [line for line in text.splitlines() if line in (waits, goes_on)] == told()
        assert "node 10.77.0.2 is gone" in text.splitlines()
    assert SweepRecord.read(folder).counts() == {"interrupted": 2}
