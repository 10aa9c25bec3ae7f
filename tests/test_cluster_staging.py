"""Nodes that see no dataset are sent a copy of it, once."""

import re
import signal
from pathlib import Path

import pytest
from cluster_nodes import Nodes, cluster_nodes
from cluster_sweeps import start_on, started, sweep_on
from live_sweeps import (
    ENDLESS,
    FIXED,
    UNTRACKED,
    evaluated,
    make_project,
    read_until,
    run,
    wait_for,
)

pytestmark = pytest.mark.slow

WIDE = ("--num-samples", "9", "--asha.no-enabled", *FIXED, *UNTRACKED)


def without_data(home: Path) -> str:
    """Return the shell command after which a node sees nothing in a project's folder for data."""
    return f"mount -t tmpfs tmpfs {home / 'data'}"


def copies(nodes: Nodes, number: int) -> list[Path]:
    """Return the copies of datasets in a node's cache."""
    return [path for path in nodes.cache(number).glob("datasets/*") if path.name[0] != "."]


def test_each_node_is_sent_the_dataset_once(tmp_path):
    config = make_project(tmp_path)
    with cluster_nodes(3, up=0) as nodes:
        nodes.start(0)
        nodes.wait_for(1)
        for number in (1, 2):
            nodes.start(number, before=without_data(tmp_path))
        nodes.wait_for(3)
        everywhere = {nodes.ip(number) for number in range(3)}
        joins = ("--config", str(config), "--ray-address", nodes.address, *WIDE)

        def sent_to(name: str) -> set[str]:
            """Return the nodes that a sweep sent the dataset to."""
            done = sweep_on(nodes, tmp_path, *joins, "--stage-data", "--name", name)
            assert done.returncode == 0, done.stderr + done.stdout
            assert set(started(tmp_path / "results" / name).values()) == everywhere
            return set(re.findall(r"node (\S+) was sent data/words in", done.stdout))

        refused = sweep_on(nodes, tmp_path, *joins)
        assert refused.returncode == 2
        assert f"{nodes.ip(1)}: the dataset is not readable" in refused.stderr
        assert sent_to("first") == everywhere
        assert sent_to("second") == set()
        (copy,) = copies(nodes, 1)
        assert {path.stat().st_mode & 0o077 for path in (copy, *copy.iterdir())} == {0}
        tokens = bytearray((copy / "train.npy").read_bytes())
        tokens[-2] ^= 1
        (copy / "train.npy").write_bytes(tokens)
        assert sent_to("third") == {nodes.ip(1)}
    best = run(tmp_path, "sweep/best.py", "third")
    assert best.returncode == 0, best.stderr + best.stdout
    assert "the same to the last bit" in best.stdout


def test_a_node_that_joins_is_sent_it_before_it_trains_and_one_without_room_is_named(
    tmp_path, start
):
    folder = tmp_path / "results" / "grows"
    with cluster_nodes(3, up=1) as nodes:
        flags = (*ENDLESS, *UNTRACKED, "--stage-data")
        sweep = start_on(nodes, start, tmp_path, "grows", *flags)
        wait_for(lambda: evaluated(folder, 500))
        nodes.start(1, before=without_data(tmp_path))
        read_until(sweep, rf"node {nodes.ip(1)} was sent data/words in")
        wait_for(lambda: nodes.ip(1) in started(folder).values())
        full = f"mount -t tmpfs -o size=16k tmpfs {nodes.cache(2).parent}"
        nodes.start(2, before=f"{without_data(tmp_path)} && {full}")
        told = rf"a node that joined trains no trials: {nodes.ip(2)}: it cannot have a copy of "
        line = read_until(sweep, told).splitlines()[-1]
        assert f"data/words ({nodes.cache(2)}/datasets: 0.0 MiB free, the dataset takes" in line
        sweep.send_signal(signal.SIGTERM)
        output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, output + errors
    assert set(started(folder).values()) == {nodes.ip(0), nodes.ip(1)}
