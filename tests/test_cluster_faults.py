"""Nodes of a cluster that come late, differ, die, or are cut off; and a head that is lost."""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from cluster_nodes import cluster_nodes
from cluster_sweeps import gone_on_after, start_on, started, step_of
from conftest import ROOT
from live_sweeps import (
    ENDLESS,
    REPORT,
    SLOWER,
    UNTRACKED,
    assert_whole,
    evaluated,
    make_project,
    promised,
    read_until,
    run,
    wait_for,
)

from sweep.record.results import SweepRecord

pytestmark = [pytest.mark.slow, pytest.mark.fault]

SHADOW = """
import sys
sys.path.insert(0, {shadow!r})
"""


def make_unlike(folder: Path) -> str:
    """Make a folder for a node's PYTHONPATH that gives it other code and another numpy."""
    shadow = folder / "shadow"
    shutil.copytree(ROOT / "trainable", shadow / "trainable")
    with (shadow / "trainable" / "training" / "optim.py").open("a") as file:
        file.write("\n# other code\n")
    info = shadow / "numpy-1.26.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.0\n")
    (folder / "sitecustomize.py").write_text(SHADOW.format(shadow=str(shadow)))
    return str(folder)


def test_nodes_unlike_the_driver_are_named_and_refused(tmp_path):
    home = tmp_path / "home"
    config = make_project(home)
    other = tmp_path / "other"
    make_project(other)
    tokens = other / "data" / "words" / "meta.json"
    tokens.unlink()
    unlike = tmp_path / "unlike"
    unlike.mkdir()
    with cluster_nodes(4, up=1) as nodes:
        nodes.start(1, PYTHONPATH=make_unlike(unlike))
        data = home / "data" / "words"
        nodes.start(2, before=f"mount --bind {other / 'data' / 'words'} {data}")
        results = home / "results"
        results.mkdir()
        nodes.start(3, before=f"mount -t tmpfs none {results}")
        nodes.wait_for(4)
        joins = ("--ray-address", nodes.address, "--config", str(config))
        refused = run(home, "sweep/run.py", *joins, before=nodes.within(0), **nodes.driver)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert re.search(
        rf"{nodes.ip(1)}: the code in trainable/ is \w+, on the driver", refused.stderr
    )
    assert "numpy is 1.26.0, on the driver" in refused.stderr
    assert re.search(rf"{nodes.ip(2)}: the dataset is not readable", refused.stderr)
    assert f"{nodes.ip(3)}: {results} is not the driver's folder" in refused.stderr
    assert nodes.ip(0) not in refused.stderr.partition("compared: ")[2]
    assert not list(results.iterdir())


def test_a_node_that_joins_trains_and_one_unlike_the_driver_does_not(tmp_path, start):
    folder = tmp_path / "home" / "results" / "grows"
    unlike = tmp_path / "unlike"
    unlike.mkdir()
    flags = (*ENDLESS, *UNTRACKED)
    with cluster_nodes(3, up=1) as nodes:
        sweep = start_on(nodes, start, tmp_path / "home", "grows", *flags)
        wait_for(lambda: evaluated(folder, 500))
        nodes.start(1)
        nodes.wait_for(2)
        joined = time.monotonic()
        wait_for(lambda: nodes.ip(1) in started(folder).values(), 60)
        wait_for(lambda: step_of(folder, "t001") >= 500, 60)
        assert time.monotonic() - joined < promised(10)
        nodes.start(2, PYTHONPATH=make_unlike(unlike))
        told = f"a node that joined trains no trials: {nodes.ip(2)}: the code in trainable/"
        read_until(sweep, re.escape(told))
        sweep.send_signal(signal.SIGTERM)
        output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    assert set(started(folder).values()) == {nodes.ip(0), nodes.ip(1)}


def test_trials_go_on_elsewhere_when_a_node_dies_or_is_cut_off(tmp_path, start):
    folder = tmp_path / "results" / "moves"
    flags = (*ENDLESS, "--max-concurrent", "2", "--max-failures", "4", *UNTRACKED)
    with cluster_nodes(3) as nodes:
        sweep = start_on(nodes, start, tmp_path, "moves", *flags)
        wait_for(lambda: all(step_of(folder, name) >= 1000 for name in ("t000", "t001")))

        killed, number = gone_on_after(nodes.kill, nodes, folder)
        assert killed < promised(10 + REPORT)
        nodes.start(number)
        nodes.wait_for(3)
        cut, number = gone_on_after(nodes.cut, nodes, folder)
        assert cut < promised(20 + REPORT)
        nodes.heal(number)
        time.sleep(5)
        sweep.send_signal(signal.SIGTERM)
        output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    record = SweepRecord.read(folder)
    for trial in record.trials.values():
        steps = [e["step"] for e in trial.evaluations]
        assert steps == sorted(set(steps))
        assert trial.outcome == "interrupted"


def test_a_lost_head_ends_the_sweep_in_one_line_and_it_goes_on_elsewhere(tmp_path, start):
    folder = tmp_path / "results" / "headless"
    with cluster_nodes(2) as nodes:
        sweep = start_on(nodes, start, tmp_path, "headless", *SLOWER)
        wait_for(lambda: evaluated(folder, 500))
        nodes.kill(0, sweep.pid)
        began = time.monotonic()
        output, errors = sweep.communicate(timeout=60)
        assert time.monotonic() - began < promised(25)
    assert sweep.returncode == 2, output + errors
    assert errors.count("\n") == 1
    assert "does not answer any more" in errors
    assert "--resume headless" in errors
    reached = {name: trial.step for name, trial in SweepRecord.read(folder).trials.items()}
    resumed = run(tmp_path, "sweep/run.py", "--resume", "headless")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    record = assert_whole(tmp_path, "headless", steps=2000, trials=3)
    assert all(record.trials[name].step >= step for name, step in reached.items())
