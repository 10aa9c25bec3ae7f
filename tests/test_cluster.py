"""A sweep on a Ray cluster of several nodes, each in a network namespace of its own."""

import re
import subprocess
import sys
import time

import pytest
from cluster_nodes import cluster_nodes
from cluster_sweeps import started, sweep_on
from live_sweeps import (
    FIXED,
    UNTRACKED,
    make_project,
    promised,
    run,
)

from sweep.record.results import SweepRecord

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    """Three nodes of one CPU each, for tests that leave them as they are."""
    with cluster_nodes(3) as three:
        yield three


def test_a_sweep_over_three_nodes_finds_what_one_machine_finds(nodes, tmp_path):
    config = ("--config", str(make_project(tmp_path)))
    alone = (*FIXED, "--max-concurrent", "1", *UNTRACKED)
    here = run(tmp_path, "sweep/run.py", *config, *alone, "--name", "here")
    assert here.returncode == 0, here.stderr
    joins = ("--ray-address", nodes.address)
    there = sweep_on(nodes, tmp_path, *config, *joins, *alone, "--name", "there")
    assert there.returncode == 0, there.stderr + there.stdout
    one, three = (SweepRecord.read(tmp_path / "results" / name) for name in ("here", "there"))
    assert three.best.params == one.best.params
    assert three.best.best_val_loss == one.best.best_val_loss
    assert {n: (t.params, t.outcome) for n, t in three.trials.items()} == {
        n: (t.params, t.outcome) for n, t in one.trials.items()
    }
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "results" / "there").rglob("*")}
    assert modes == {0}
    best = run(tmp_path, "sweep/best.py", "there")
    assert best.returncode == 0, best.stderr


def test_trials_run_side_by_side_on_all_nodes(nodes, tmp_path):
    flags = ("--num-samples", "9", *UNTRACKED, "--asha.no-enabled", "--name", "wide")
    config = ("--config", str(make_project(tmp_path)))
    done = sweep_on(nodes, tmp_path, *config, *flags, RAY_ADDRESS="auto")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "9, 3 at a time" in done.stdout
    assert set(started(tmp_path / "results" / "wide").values()) == {nodes.ip(n) for n in range(3)}
    assert not list((tmp_path / "results").glob(".nodes-*"))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("told", "environment", "address"),
    [
        ("does not take this token", {"RAY_AUTH_TOKEN_PATH": "{other}"}, "{head}"),
        ("nobody answers there", {}, "10.77.0.1:1"),
        ("nobody answers there", {}, "10.77.0.9:6399"),
        ("must be HOST:PORT", {}, "10.77.0.1"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_refused_at_once(
    nodes, tmp_path, told, environment, address
):
    other = tmp_path / "token"
    other.write_text("0" * 64)
    env = {name: value.format(other=other) for name, value in environment.items()}
    config = ("--config", str(make_project(tmp_path)))
    joins = (*config, "--ray-address", address.format(head=nodes.address))
    began = time.monotonic()
    refused = sweep_on(nodes, tmp_path, *joins, **env)
    assert time.monotonic() - began < promised(10)
    assert refused.returncode == 2
    assert re.fullmatch(rf"error: --ray-address .*{told}.*\n", refused.stderr)
    assert not (tmp_path / "results").exists()


@pytest.mark.fault
def test_a_cluster_of_another_version_is_refused(nodes, tmp_path):
    code = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
kept = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster"))
changed = json.dumps(kept | {"ray_version": sys.argv[2]}).encode()
client.internal_kv_put(b"CLUSTER_METADATA", changed, True, namespace=b"cluster")
print(kept["ray_version"])
"""

    def claim(version: str) -> str:
        return subprocess.run(
            [*nodes.within(0), sys.executable, "-c", code, nodes.address, version],
            env=nodes.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    own = claim("2.9.1")
    try:
        config = ("--config", str(make_project(tmp_path)))
        refused = sweep_on(nodes, tmp_path, *config, "--ray-address", nodes.address)
    finally:
        claim(own)
    assert refused.returncode == 2
    assert f"the cluster runs Ray 2.9.1, this is Ray {own}" in refused.stderr
