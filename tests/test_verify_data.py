"""`--verify-data`: each command that trains finds what changed behind a file's size and time."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeConfig
from sweep_samples import SPACE

from sweep import run
from sweep.config.sweep import SweepConfig
from sweep.record.folder import SweepFile, create_sweep
from sweep.record.identity import new_identity
from trainable import local
from trainable.common.errors import DataError
from trainable.config.explain import validate
from trainable.config.trial import TrialConfig
from trainable.data.batches import open_dataset


@pytest.fixture
def trial(project: Path, tiny_dataset: Path, tiny_config: MakeConfig) -> TrialConfig:
    """Return a trial whose dataset was looked at, and damaged since."""
    folder = shutil.copytree(tiny_dataset, project / "data" / "own")
    config = tiny_config({"data.dataset": "data/own"})
    open_dataset(config.data, config.model.context_length)
    path = folder / "train.npy"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return config


def start(trial: TrialConfig, project: Path) -> int:
    file = project / "sweep.yaml"
    file.write_text(json.dumps({"space": SPACE, "trial": trial.model_dump()}))  # JSON is YAML
    return run.main(["--config", str(file), "--verify-data"])


def resume(trial: TrialConfig, project: Path) -> int:
    values = {"space": SPACE, "trial": trial.model_dump(), "num_samples": 2}
    dataset = open_dataset(trial.data, trial.model.context_length)
    sweep = SweepFile(
        identity=new_identity(0.0, dataset.digest), config=validate(SweepConfig, values, "sample")
    )
    create_sweep("mine", sweep)
    return run.main(["--resume", "mine", "--verify-data"])


def train_here(trial: TrialConfig, project: Path) -> int:
    file = project / "trial.yaml"
    file.write_text(json.dumps(trial.model_dump()))
    return local.main(["--config", str(file), "--verify-data"])


@pytest.mark.fault
@pytest.mark.parametrize("command", [start, resume, train_here])
def test_a_flip_behind_size_and_time_is_refused(
    command: Callable[[TrialConfig, Path], int], trial: TrialConfig, project: Path
) -> None:
    open_dataset(trial.data, trial.model.context_length)  # without it, nothing is noticed
    with pytest.raises(DataError, match=r"train\.npy: .*digest.*prepare the dataset again"):
        command(trial, project)
