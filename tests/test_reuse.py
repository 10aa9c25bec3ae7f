"""The Trainable without a cluster: a reused worker keeps nothing of its last trial."""

import shutil
from pathlib import Path

import pytest
import torch
from live_sweeps import bytes_read

from trainable.checkpoint.folder import read_manifest
from trainable.common.errors import ConfigError
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL
from trainable.config.trial import TrialConfig
from trainable.tune_trainable import LanguageModelTrial

# Ray's own start-up files and loops, none of which the tests can close.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def tune_config(tiny_config):
    """Return a function that makes the Tune config of a trial."""

    def make(name="t000", **values):
        trial: TrialConfig = tiny_config().with_values(values)
        return {
            "name": name,
            "params": {},
            "trial": trial.model_dump(),
            "resume_from": [],
            "gpu_share": None,
        }

    return make


def results(trial):
    """Train to the end; return steps and losses."""
    seen = []
    while True:
        result = trial.train()
        seen.append((result["step"], result["val_loss"], result.get("train_loss")))
        if result["done"]:
            return seen


def weights(trial):
    return {name: t.clone() for name, t in trial._trainer.model.state_dict().items()}


def test_a_reused_worker_gives_the_bits_of_a_new_one(tune_config):
    first = tune_config("t000", **{"optim.lr": 1e-2, "model.d_model": 32})
    second = tune_config("t001", **{"optim.lr": 1e-3, "model.d_model": 64, "model.n_layers": 1})
    reused = LanguageModelTrial(dict(first))
    results(reused)
    assert reused.reset(dict(second))
    fresh = LanguageModelTrial(dict(second))
    assert results(reused) == results(fresh)
    left, right = weights(reused), weights(fresh)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    reused.stop()
    fresh.stop()


@pytest.mark.fault
def test_reuse_after_a_lost_trial_starts_clean(tune_config):
    lost = LanguageModelTrial(tune_config("t000"))
    with torch.no_grad():
        lost._trainer.model.head.weight.fill_(float("nan"))
    result = lost.train()
    assert result["outcome"] == "diverged"
    assert result["done"]
    assert result["val_loss"] == OBJECTIVE_OF_A_LOST_TRIAL
    assert not result["should_checkpoint"]
    assert lost.reset(tune_config("t001"))
    assert all(loss < 10 for _, loss, _ in results(lost))
    lost.stop()


def test_save_and_restore_through_the_trainable(tune_config, tmp_path):
    undisturbed = LanguageModelTrial(tune_config())
    whole = results(undisturbed)
    trial = LanguageModelTrial(tune_config())
    trial.train()
    trial.train()
    trial.save_checkpoint(str(tmp_path / "saved"))
    again = LanguageModelTrial(tune_config())
    again.load_checkpoint(str(tmp_path / "saved"))
    assert results(again) == whole[2:]


def test_a_resume_reads_the_state_once(tune_config, tmp_path):
    config = tune_config(**{"model.d_model": 256, "train.steps": 1, "train.eval_every": 1})
    trial = LanguageModelTrial(dict(config))
    results(trial)
    trial.save(str(tmp_path / "saved"))
    (state,) = (tmp_path / "saved").glob("state-*.pt")
    resumed = LanguageModelTrial({**config, "resume_from": [str(tmp_path / "saved")]})
    before = bytes_read()
    assert resumed.train()["done"]
    assert state.stat().st_size < bytes_read() - before < 1.5 * state.stat().st_size


@pytest.fixture
def saved(tune_config, tmp_path):
    """Checkpoints of a trial at steps 0, 5, 10, 15 and 20, as Tune names and knows them."""
    trial = LanguageModelTrial(tune_config())
    found = []
    for number in range(5):
        result = trial.train()
        assert result["should_checkpoint"] == (number > 0), "an untrained model is not saved"
        found.append(trial.save(str(tmp_path / f"checkpoint_{number:06d}")))
    assert result["done"]
    trial.stop()
    return found


def flip_a_bit(folder):
    (state,) = folder.glob("state-*.pt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)


def gone_on(tune_config, saved, who):
    """Return a trial that goes on as the next session's does, or as the next worker's does."""
    if who == "the next session":
        folders = [checkpoint.checkpoint.path for checkpoint in reversed(saved)]
        return LanguageModelTrial({**tune_config(), "resume_from": folders})
    trial = LanguageModelTrial(tune_config())
    trial.restore(saved[-1])
    return trial


WHO = pytest.mark.parametrize("who", ["the next session", "the next worker"])
RUIN = {
    "damaged": (flip_a_bit, "damaged checkpoint: checkpoint {}"),
    "gone": (shutil.rmtree, "checkpoint that is gone: {}"),
}


@pytest.mark.fault
@WHO
def test_a_trial_goes_on_from_its_newest_checkpoint(tune_config, saved, who):
    result = gone_on(tune_config, saved[:4], who).train()
    assert (result["step"], result["notice"]) == (20, None)


@pytest.mark.fault
@WHO
@pytest.mark.parametrize("how", RUIN)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tune_config, saved, tmp_path, who, how
):
    ruin, told = RUIN[how]
    ruin(tmp_path / "checkpoint_000003")
    result = gone_on(tune_config, saved[:4], who).train()
    assert result["step"] == 15
    assert told.format(tmp_path / "checkpoint_000003") in result["notice"]


@pytest.mark.fault
@WHO
def test_a_trial_without_a_usable_checkpoint_begins_anew_and_says_so(
    tune_config, saved, tmp_path, who
):
    for folder in tmp_path.glob("checkpoint_*"):
        flip_a_bit(folder)
    result = gone_on(tune_config, saved, who).train()
    assert result["step"] == 0
    for number in range(5):
        assert f"checkpoint_{number:06d}" in result["notice"]
    assert "begins anew" in result["notice"]


@pytest.mark.fault
@WHO
def test_a_trial_at_its_last_step_says_so_again(tune_config, saved, tmp_path, who):
    trial = gone_on(tune_config, saved, who)
    result = trial.train()
    assert (result["step"], result["outcome"], result["done"]) == (20, None, True)
    assert result["val_loss"] == saved[-1].metrics["val_loss"]
    assert result["should_checkpoint"]
    again = trial.save(str(tmp_path / "again")).checkpoint.path
    assert read_manifest(Path(again)).iteration == 20


@pytest.mark.fault
def test_the_next_worker_takes_no_unfinished_copy(tune_config, saved):
    """Tune copies a checkpoint file by file; it knows those alone that came to their end."""
    trial = LanguageModelTrial(tune_config())
    trial.restore(saved[2])
    result = trial.train()
    assert (result["step"], result["notice"]) == (15, None)


@pytest.mark.fault
def test_the_next_worker_misses_no_checkpoint_of_an_earlier_session(tune_config, saved, tmp_path):
    """The session began with one that may have been removed since, when newer ones came."""
    removed, kept = tmp_path / "removed", Path(saved[1].checkpoint.path)
    trial = LanguageModelTrial({**tune_config(), "resume_from": [str(removed), str(kept)]})
    shutil.rmtree(saved[0].checkpoint.path)
    lone = shutil.copytree(saved[2].checkpoint.path, tmp_path / "session" / "checkpoint_000000")
    flip_a_bit(lone)
    saved[2].checkpoint.path = str(lone)
    trial.restore(saved[2])
    result = trial.train()
    assert result["step"] == 10
    assert str(lone) in result["notice"]
    assert str(removed) not in result["notice"]


@pytest.mark.fault
@pytest.mark.parametrize("moment", ["built", "evaluated", "trained"])
def test_an_exception_is_reported_in_its_own_words_then_raised(tune_config, moment):
    config = tune_config(**({"train.device": "cuda:7"} if moment == "built" else {}))
    trial = LanguageModelTrial(config)
    if moment == "trained":
        trial._trainer.optimizer = None
    if moment == "evaluated":  # an error of a kind that may also tell of too little memory
        weight = trial._trainer.model.head.weight
        weight.data = weight.data[:, :-1].clone()
    result = trial.train()
    assert (result["outcome"], result["done"]) == ("failed", False)
    told, kind = {
        "built": ("train.device = 'cuda:7': this machine has no such device", ConfigError),
        "evaluated": ("RuntimeError: The size of tensor a", RuntimeError),
        "trained": ("AttributeError: 'NoneType' object has no attribute", AttributeError),
    }[moment]
    assert result["notice"].startswith(told)
    assert not result["should_checkpoint"]
    with pytest.raises(kind):
        trial.train()
    assert trial.reset(tune_config("t001"))
    assert trial.train()["outcome"] is None
    trial.stop()
