"""Nodes that see no dataset are sent a copy of it, once."""

import re
from pathlib import Path

import pytest
from cluster_nodes import Nodes, cluster_nodes
from cluster_sweeps import started, sweep_on
from live_sweeps import FIXED, UNTRACKED, make_project, run

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
