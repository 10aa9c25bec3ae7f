"""The best trial is restored, looked at as a whole, and exported, or the reason is one line."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from live_sweeps import bytes_read, own_mount, run
from sweep_samples import (
    ended,
    evaluated,
    new_sweep,
    saved,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep import best
from sweep.common.errors import SweepError
from sweep.evidence.restore import load_best
from sweep.record.lock import require_private
from trainable.checkpoint.hugging_face import read_origin
from trainable.common.errors import CheckpointError, DataError, UserError
from trainable.config.trial import TrialConfig
from trainable.training.trainer import Trainer


@pytest.fixture
def dataset(project: Path, tiny_dataset: Path) -> Path:
    """Return a dataset of the test's own, which may be spoilt."""
    return shutil.copytree(tiny_dataset, project / "data" / "own")


@pytest.fixture
def config(dataset: Path, tiny_config: MakeConfig) -> TrialConfig:
    changes = {"data.dataset": "data/own", "train.steps": 10, "model.d_model": 64}
    return tiny_config({**changes, "train.seed": 3})


@pytest.fixture
def finished(config: TrialConfig) -> Path:
    """Return the folder of a sweep of one finished trial, t000, saved at its last step."""
    folder, _ = new_sweep("mine", sweep_config(trial=config.model_dump()))
    trainer = Trainer(config)
    evaluations = list(trainer.run())
    trainer.save(folder / "session-1" / "t000" / "a-1" / "checkpoint_000010")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700)
    last = evaluations[-1]
    assert last.val_loss < evaluations[0].val_loss
    write_events(
        folder,
        session(num_samples=1),
        started("t000"),
        [evaluated("t000", e.step, e.val_loss) for e in evaluations],
        saved("t000", last.step, last.val_loss),
        ended("t000", "finished", step=last.step),
    )
    return folder


def test_the_best_comes_back_to_the_last_bit(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert best.main(["mine"]) == 0
    assert "the same to the last bit" in capsys.readouterr().out
    assert sorted(path.name for path in (finished / "best").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_the_best_for_hugging_face_is_the_same_model(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    assert best.main(["mine", "--format", "hf"]) == 0
    folder = finished / "best-hf"
    assert f'AutoModelForCausalLM.from_pretrained("{folder}")' in capsys.readouterr().out
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder), load_best(finished).trainer.model
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=1e-5, atol=1e-5)
    origin = read_origin(folder)
    assert (origin.facts["sweep"], origin.facts["trial"]) == ("mine", "t000")
    assert origin.facts["val_loss"] == load_best(finished).val_loss


@pytest.mark.fault
@pytest.mark.parametrize("name", ["train.npy", "val.npy", "tokenizer.json", "meta.json"])
def test_a_flip_in_the_data_is_found_before_anything_is_said_of_bits(
    finished: Path, dataset: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dataset / name
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=name):
        best.main(["mine"])
    assert capsys.readouterr().out == ""
    assert not (finished / "best").exists()


def test_a_sweep_exported_under_an_open_umask_is_still_the_owner_s_alone(finished: Path) -> None:
    before = os.umask(0o002)
    try:
        assert best.main(["mine"]) == 0
    finally:
        os.umask(before)
    require_private(finished)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_one_line(
    finished: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"export to .*{place}: .*--out") as caught:
        best.main(["mine", "--out", str(tmp_path / place)])
    assert "\n" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.slow
def test_a_full_disk_is_one_line(finished: Path, project: Path) -> None:
    (finished / "best").mkdir()
    before = own_mount(f"mount -t tmpfs -o size=64k tmpfs {finished}/best")
    done = run(project, "sweep/best.py", "mine", before=before)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: export to {finished}/best: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_best_loss_before_the_first_step_is_told_as_it_is(config: TrialConfig) -> None:
    folder, _ = new_sweep("mine", sweep_config(trial=config.model_dump()))
    write_events(
        folder,
        session(num_samples=1),
        started("t000"),
        evaluated("t000", 0, 5.5),
        evaluated("t000", 10, 7.0),
        saved("t000", 10, 7.0),
        ended("t000", "finished", step=10),
    )
    with pytest.raises(SweepError, match=r"5\.5000.*t000 before the first step.*learning rates"):
        load_best(folder)


def test_a_best_checkpoint_that_is_gone_is_told(finished: Path) -> None:
    shutil.rmtree(finished / "session-1")
    with pytest.raises(CheckpointError, match="t000 at step 10 is gone"):
        load_best(finished)


def test_the_state_is_read_once(finished: Path) -> None:
    load_best(finished)
    (state,) = finished.rglob("state-*.pt")
    before = bytes_read()
    load_best(finished)
    assert state.stat().st_size < bytes_read() - before < 1.5 * state.stat().st_size
