"""An exported model: whole or refused, and private."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig
from stored_runs import deliver
from sweep_samples import new_sweep, run_of, session, write_events

import trainable.generate
from sweep.tracking.registry import register_model
from trainable.checkpoint.export import export_model, load_model, read_export
from trainable.common.errors import CheckpointError
from trainable.training.trainer import Trainer

FILES = {"model.safetensors", "config.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def trainer(tiny_config: MakeConfig) -> Trainer:
    return Trainer(tiny_config())


def export(folder: Path, trainer: Trainer, step: int = 1) -> Path:
    tokenizer = trainer.dataset.tokenizer_file
    export_model(folder, trainer.model, trainer.config, tokenizer, {"step": step, "loss": 1.5})
    return folder


@pytest.fixture
def exported(tmp_path: Path, trainer: Trainer) -> Path:
    return export(tmp_path / "best", trainer)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.fault
def test_a_flipped_bit_anywhere_in_an_export_is_refused(exported: Path) -> None:
    rng = np.random.default_rng(0)
    assert set(contents(exported)) == FILES
    for name, content in contents(exported).items():
        for bit in rng.choice(len(content) * 8, size=100, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (exported / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match="best"):
                load_model(exported)
        (exported / name).write_bytes(content)
    load_model(exported)


@pytest.mark.fault
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_export_gives_no_text(exported: Path, name: str) -> None:
    damage(exported / name)
    with pytest.raises(CheckpointError, match="export it again"):
        trainable.generate.main([str(exported)])


@pytest.mark.fault
def test_a_damaged_export_is_not_registered(exported: Path) -> None:
    folder, sweep = new_sweep("registered")
    write_events(folder, session(), run_of("t000", {0: 5.5, 1: 4.0}, "finished"))
    deliver(folder, sweep)
    damage(exported / "tokenizer.json")
    with pytest.raises(CheckpointError, match="export it again"):
        register_model("words", exported, folder, "t000", 1)


@pytest.mark.parametrize("name", sorted(FILES - {"model.safetensors"}))
def test_a_missing_file_of_an_export_is_told(exported: Path, name: str) -> None:
    (exported / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(exported)


def test_a_newer_export_replaces_the_older(exported: Path, trainer: Trainer) -> None:
    leftover = exported / ".exporting"  # of an export that was killed
    leftover.mkdir()
    (leftover / "config.json").write_text("half")
    (leftover / "half").write_text("half")
    export(exported, trainer, step=2)
    assert set(contents(exported)) == FILES
    assert read_export(exported).facts == {"step": 2, "loss": 1.5}


@pytest.mark.fault
def test_a_full_disk_leaves_the_older_export_whole(exported: Path, trainer: Trainer) -> None:
    before = contents(exported)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (8000, 300):  # the weights, or even the config, do not fit
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(CheckpointError, match=r"best: .*large.*make room.*--out"):
                export(exported, trainer, step=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(exported) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_is_no_folder_is_told(tmp_path: Path, trainer: Trainer, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=f"export to .*{place}") as caught:
        export(tmp_path / place, trainer)
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_is_its_owner_s_alone(tmp_path: Path, trainer: Trainer) -> None:
    """Under any umask: a sweep whose folder others can write is not resumed."""
    before = os.umask(0o002)
    try:
        folder = export(tmp_path / "open", trainer)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_an_export_without_a_tokenizer(tmp_path: Path, trainer: Trainer) -> None:
    export_model(tmp_path / "best", trainer.model, trainer.config, tmp_path / "none", {})
    assert set(contents(tmp_path / "best")) == FILES - {"tokenizer.json"}
    assert not load_model(tmp_path / "best")[1].exists()
