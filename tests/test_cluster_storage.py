"""A sweep over three nodes that share no folder for checkpoints, but an S3-compatible server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_nodes import cluster_nodes
from live_sweeps import FIXED, ROOT, UNTRACKED, make_project, run, wait_for
from object_store import BUCKET, KEY, SECRET, environment, object_server

from sweep.record.results import SweepRecord

pytestmark = pytest.mark.slow

UP = "from trainable.storage.s3 import S3Store; S3Store('s3://sweeps/up').require_usable()"


def test_a_sweep_over_three_nodes_keeps_its_checkpoints_on_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_project(tmp_path)
    results, served = tmp_path / "results", tmp_path / "served"
    for folder in (results, served):
        folder.mkdir()
    # The keys are in each node's own environment; which server it is, the driver tells.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with cluster_nodes(3, up=0) as nodes:
        nodes.start(0)
        for number in (1, 2):  # they have the project, but not its results
            nodes.start(number, before=f"mount -t tmpfs tmpfs {results}")
        with object_server(served, nodes.ip(0), nodes.within(0)):
            reach = environment(served)
            nodes.wait_for(3)
            up = [*nodes.within(0), sys.executable, "-c", UP]
            wait_for(lambda: not subprocess.run(up, env=os.environ | reach, cwd=ROOT).returncode)
            flags = ("--config", str(config), "--name", "far", "--storage", f"{BUCKET}/three")
            joins = ("--ray-address", nodes.address, *FIXED, *UNTRACKED)
            here = {"before": nodes.within(0), **nodes.driver, **reach}
            done = run(tmp_path, "sweep/run.py", *flags, *joins, **here)
            assert done.returncode == 0, done.stderr + done.stdout
            record = SweepRecord.read(results / "far")
            assert {t.outcome for t in record.trials.values()} <= {"finished", "stopped"}
            assert not list(results.glob("**/checkpoint_*"))
            best = run(tmp_path, "sweep/best.py", "far", **here)
            assert best.returncode == 0, best.stderr + best.stdout
            assert "the same to the last bit" in best.stdout
            assert f"checkpoint {BUCKET}/three/far-" in best.stdout
