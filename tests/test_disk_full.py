"""A full disk: a small tmpfs that the test mounts, filled for real."""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from live_sweeps import ALONE, SLOWER, assert_whole, make_project, run, start_and_wait

from sweep.record.results import SweepRecord
from sweep.record.retention import existing
from trainable.checkpoint.folder import read_verified
from trainable.storage.folder import FolderStore

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 64 MiB, mounted for the test."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all the room there is."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 2**16)
    return filler


def test_a_sweep_that_cannot_fit_is_refused_beforehand(small_disk):
    config = make_project(small_disk)
    big = ("--trial.model.n-layers", "400")
    done = run(small_disk, "sweep/run.py", "--config", str(config), *big)
    assert done.returncode == 2
    assert re.search(r"^error: disk: \d+ MiB free .* may need", done.stderr)
    assert not list((small_disk / "results").glob("*/sweep.json"))


def test_a_disk_that_fills_up_loses_nothing(small_disk, start):
    folder = small_disk / "results" / "full"
    sweep = start_and_wait(start, small_disk, "full", *SLOWER, *ALONE, step=200)
    filler = fill(small_disk)
    output, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 2, output + errors
    assert re.search(r"^error: .*the disk is full.*--resume full", errors, re.MULTILINE)
    assert "Traceback" not in output + errors
    record = SweepRecord.read(folder)
    for trial in record.trials.values():
        for checkpoint in existing(FolderStore(folder), trial)[-1:]:
            read_verified(folder / checkpoint.path)
    fill(small_disk)  # to the last byte, again
    again = run(small_disk, "sweep/run.py", "--resume", "full")
    assert again.returncode == 2
    assert re.fullmatch(r"error: sweep full: the disk is full .*--resume full`\n", again.stderr)
    filler.unlink()
    assert shutil.disk_usage(small_disk).free > 10 * 2**20
    again = run(small_disk, "sweep/run.py", "--resume", "full")
    assert again.returncode == 0, again.stderr + again.stdout
    assert_whole(small_disk, "full", steps=2000, trials=3)
