"""The Trainable without a cluster: a reused worker keeps nothing of its last trial."""

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from live_sweeps import bytes_read

from trainable.checkpoint.folder import Snapshot, read_manifest
from trainable.common.errors import ConfigError
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL
from trainable.config.trial import TrialConfig
from trainable.training.trainer import Trainer
from trainable.tune_trainable import LanguageModelTrial

# Ray's own start-up files and loops, none of which the tests can close.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def tune_config(tiny_config, tmp_path):
    """Return a function that makes the Tune config of a trial."""

    def make(name="t000", **values):
        trial: TrialConfig = tiny_config().with_values(values)
        return {
            "name": name,
            "params": {},
            "trial": trial.model_dump(),
            "store": str(tmp_path),
            "place": f"session-1/{name}",
            "resume_from": [],
            "takes": {"CPU": 1.0, "GPU": 0.0},
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


def test_a_worker_holds_one_copy_of_the_state_at_a_time(
    tune_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is as large as weights and optimizer state: a second one would be a third more."""
    others: list[int] = []
    copy = Trainer.snapshot

    def copied(trainer: Trainer) -> Snapshot:
        others.append(sum(type(o) is Snapshot for o in gc.get_objects()))
        return copy(trainer)

    monkeypatch.setattr(Trainer, "snapshot", copied)
    trial = LanguageModelTrial(tune_config())
    results(trial)
    assert set(others) == {0}
    assert len(others) > 1
    trial.stop()


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
    name = trial.save().checkpoint.path
    (state,) = (tmp_path / name).glob("state-*.pt")
    resumed = LanguageModelTrial({**config, "resume_from": [name]})
    before = bytes_read()
    assert resumed.train()["done"]
    assert state.stat().st_size < bytes_read() - before < 1.5 * state.stat().st_size


@pytest.fixture
def saved(tune_config):
    """Checkpoints of a trial at steps 0, 5, 10, 15 and 20, as Tune knows them."""
    trial = LanguageModelTrial(tune_config())
    found = []
    for number in range(5):
        result = trial.train()
        assert result["should_checkpoint"] == (number > 0), "an untrained model is not saved"
        found.append(trial.save())
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
        names = [checkpoint.checkpoint.path for checkpoint in reversed(saved)]
        return LanguageModelTrial({**tune_config(), "resume_from": names})
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
    newest = tmp_path / saved[3].checkpoint.path
    ruin(newest)
    result = gone_on(tune_config, saved[:4], who).train()
    assert result["step"] == 15
    assert told.format(newest) in result["notice"]


@pytest.mark.fault
@WHO
def test_a_trial_without_a_usable_checkpoint_begins_anew_and_says_so(
    tune_config, saved, tmp_path, who
):
    for checkpoint in saved:
        flip_a_bit(tmp_path / checkpoint.checkpoint.path)
    result = gone_on(tune_config, saved, who).train()
    assert result["step"] == 0
    for checkpoint in saved:
        assert checkpoint.checkpoint.path in result["notice"]
    assert "begins anew" in result["notice"]


@pytest.mark.fault
@WHO
def test_a_trial_at_its_last_step_says_so_again(tune_config, saved, tmp_path, who):
    trial = gone_on(tune_config, saved, who)
    result = trial.train()
    assert (result["step"], result["outcome"], result["done"]) == (20, None, True)
    assert result["val_loss"] == saved[-1].metrics["val_loss"]
    assert result["should_checkpoint"]
    again = trial.save().checkpoint.path
    assert again != saved[-1].checkpoint.path
    assert read_manifest(tmp_path / again).iteration == 20


@pytest.mark.fault
def test_the_next_worker_takes_no_later_checkpoint_than_was_told(tune_config, saved):
    """The worker before may have died while it wrote one."""
    trial = LanguageModelTrial(tune_config())
    trial.restore(saved[2])
    result = trial.train()
    assert (result["step"], result["notice"]) == (15, None)


@pytest.mark.fault
def test_the_next_worker_misses_no_checkpoint_of_an_earlier_session(tune_config, saved, tmp_path):
    """The session began with one that may have been removed since, when newer ones came."""
    removed, kept = "session-1/t000/a-0/checkpoint_000007", saved[1].checkpoint.path
    trial = LanguageModelTrial({**tune_config(), "resume_from": [removed, kept]})
    lone = "session-2/t000/a-1/checkpoint_000010"
    shutil.copytree(tmp_path / saved[2].checkpoint.path, tmp_path / lone)
    flip_a_bit(tmp_path / lone)
    saved[2].checkpoint.path = lone
    trial.restore(saved[2])
    result = trial.train()
    assert result["step"] == 10
    assert lone in result["notice"]
    assert removed not in result["notice"]


def test_the_next_worker_knows_what_all_before_it_saved(tune_config, saved, tmp_path):
    """Two workers died; the second's one checkpoint is damaged, so the first's newest counts."""
    second = LanguageModelTrial(tune_config())
    second.restore(saved[2])
    second.train()
    newest = second.save()
    assert Path(newest.checkpoint.path).parent != Path(saved[3].checkpoint.path).parent
    flip_a_bit(tmp_path / newest.checkpoint.path)
    third = LanguageModelTrial(tune_config())
    third.restore(newest)
    result = third.train()
    assert (result["step"], newest.checkpoint.path in result["notice"]) == (15, True)


@pytest.mark.fault
def test_a_worker_taken_for_dead_overwrites_nothing(tune_config, saved, tmp_path):
    """Its successor is at the same step already when it wakes up and saves after all."""
    zombie, successor = LanguageModelTrial(tune_config()), LanguageModelTrial(tune_config())
    for trial in (zombie, successor):
        trial.restore(saved[2])
        assert trial.train()["step"] == 15
    told = tmp_path / successor.save().checkpoint.path
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in told.iterdir()}
    late = tmp_path / zombie.save().checkpoint.path
    assert late.parent != told.parent
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in told.iterdir()}
    assert after == before


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
