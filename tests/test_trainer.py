"""The training loop: when it evaluates, what it reports, and that it goes on bit for bit."""

import json
import math
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from conftest import MakeConfig, RunPython
from pydantic import ValidationError

from trainable.checkpoint.folder import read_manifest
from trainable.common.errors import CheckpointError, ConfigError, DivergedError
from trainable.config.trial import TrialConfig
from trainable.data.batches import validation_starts
from trainable.data.meta import DatasetMeta
from trainable.model.counts import flops_per_token
from trainable.model.transformer import next_token_loss
from trainable.training.evaluation import Evaluation
from trainable.training.optim import learning_rate
from trainable.training.trainer import Trainer


def results(evaluation: Evaluation) -> dict[str, Any]:
    """Return what must be the same in every run: all but the clock's numbers."""
    timed = ("seconds", "tokens_per_second")
    return {name: value for name, value in asdict(evaluation).items() if name not in timed}


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same_state(left: Trainer, right: Trainer) -> None:
    """Compare all model and optimizer tensors bit for bit."""
    assert left.iteration == right.iteration
    for name, value in left.model.state_dict().items():
        assert torch.equal(value, right.model.state_dict()[name]), name
    ours, theirs = left.optimizer.state_dict(), right.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, slots in ours["state"].items():
        assert slots.keys() == theirs["state"][index].keys()
        for name, value in slots.items():
            assert torch.equal(value, theirs["state"][index][name]), (index, name)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (20, 5, [0, 5, 10, 15, 20]),
        (12, 5, [0, 5, 10, 12]),
        (3, 3, [0, 3]),
        (1, 1, [0, 1]),
        (16, None, list(range(0, 17, 2))),
        (3, None, [0, 1, 2, 3]),
    ],
)
def test_evaluates_first_at_each_interval_and_last(
    tiny_config: MakeConfig, steps: int, every: int | None, expected: list[int]
) -> None:
    config = tiny_config({"train.steps": steps, "train.eval_every": every})
    assert [evaluation.step for evaluation in Trainer(config).run()] == expected


def test_reported_numbers_fit_together(tiny_config: MakeConfig) -> None:
    config = tiny_config({"train.batch_size": 6})
    trainer = Trainer(config)
    evaluations = list(trainer.run())
    for e in evaluations:
        assert e.tokens == e.step * 6 * 16
        assert e.flops == e.tokens * flops_per_token(config.model, 257)
        assert e.lr == learning_rate(e.step, config.optim, 20)
        bytes_per_token = trainer.dataset.bytes_per_val_token
        assert e.val_bpb == pytest.approx(e.val_loss / math.log(2) / bytes_per_token)
    first, *later = evaluations
    assert (first.seconds, first.train_loss, first.grad_norm) == (0.0, None, None)
    assert first.tokens_per_second is None
    unknown = {"train_loss", "grad_norm", "tokens_per_second"}
    assert first.metrics().keys() == asdict(first).keys() - unknown
    for before, e in zip(evaluations, later, strict=False):
        assert e.seconds > before.seconds
        speed = (e.tokens - before.tokens) / (e.seconds - before.seconds)
        assert e.tokens_per_second == pytest.approx(speed)
        assert e.metrics() == asdict(e)


def test_untrained_loss_is_near_that_of_a_guess(tiny_config: MakeConfig) -> None:
    first = next(Trainer(tiny_config()).run())
    assert first.val_loss == pytest.approx(math.log(257), abs=1.0)


def test_training_learns(tiny_config: MakeConfig) -> None:
    config = tiny_config({"train.steps": 60, "train.eval_every": 30, "optim.lr": 0.01})
    losses = [evaluation.val_loss for evaluation in Trainer(config).run()]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 3.2


def test_train_loss_is_the_mean_since_the_last_evaluation(tiny_config: MakeConfig) -> None:
    by_hand = Trainer(tiny_config())
    steps = [by_hand.train_step(step) for step in range(1, 11)]
    losses, norms = ([float(value) for value in column] for column in zip(*steps, strict=True))
    _, fifth, tenth, *_ = Trainer(tiny_config()).run()
    assert fifth.train_loss == pytest.approx(np.mean(losses[:5]))
    assert tenth.train_loss == pytest.approx(np.mean(losses[5:]))
    assert fifth.grad_norm == pytest.approx(norms[4])
    assert tenth.grad_norm == pytest.approx(norms[9])


def test_each_update_has_its_own_rate(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    trainer = Trainer(config)
    for step in (1, 2, 10, 20):
        trainer.train_step(step)
        used = {group["lr"] for group in trainer.optimizer.param_groups}
        assert used == {learning_rate(step, config.optim, 20)}


def test_gradient_norm_is_reported_before_clipping_and_clipped(tiny_config: MakeConfig) -> None:
    still = {"optim.weight_decay": 0.0, "optim.warmup_fraction": 0.0, "optim.eps": 1e-3}
    moved, norms = {}, {}
    for clip in (1e9, 1e-6):
        trainer = Trainer(tiny_config({**still, "optim.grad_clip": clip}))
        before = weights(trainer)
        norms[clip] = float(trainer.train_step(1)[1])
        moved[clip] = max(float((w - before[n]).abs().max()) for n, w in weights(trainer).items())
    assert norms[1e9] == norms[1e-6] > 0.1
    # The clipped gradient is far below eps, so that Adam's step is far below the rate.
    assert moved[1e-6] < 0.01 * moved[1e9]


def test_val_loss_is_the_mean_over_the_fixed_windows(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config({"train.eval_tokens": 500}))
    tokens = torch.from_numpy(np.array(trainer.dataset.val.tokens, dtype=np.int64))
    starts = validation_starts(len(tokens), 16, 500)
    assert len(starts) == 31
    with torch.no_grad():
        losses = [
            next_token_loss(trainer.model(tokens[None, s : s + 16]), tokens[None, s + 1 : s + 17])
            for s in starts
        ]
    assert trainer.evaluate() == pytest.approx(np.mean([float(loss) for loss in losses]), rel=1e-6)


def test_val_loss_does_not_depend_on_the_training_batch(tiny_config: MakeConfig) -> None:
    losses = {
        Trainer(
            tiny_config({"train.batch_size": size, "train.grad_accumulation": parts})
        ).evaluate()
        for size, parts in ((1, 1), (4, 1), (64, 1), (64, 16))
    }
    assert len(losses) == 1


@pytest.mark.parametrize("attention", ["sdpa", "products"])
def test_windows_longer_than_an_evaluation_batch_are_taken_one_at_a_time(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    trainer = Trainer(tiny_config({"train.attention": attention}))
    whole = trainer.evaluate()
    monkeypatch.setattr("trainable.training.trainer.EVAL_BATCH_TOKENS", 15)
    assert trainer.evaluate() == pytest.approx(whole, rel=1e-6)


def test_the_seed_decides_the_weights_and_the_order_of_batches(tiny_config: MakeConfig) -> None:
    first, other = (Trainer(tiny_config({"train.seed": seed})) for seed in (0, 1))
    assert first.evaluate() != other.evaluate()
    other.model.load_state_dict(first.model.state_dict())
    assert first.evaluate() == other.evaluate()
    assert first.train_step(1)[0] != other.train_step(1)[0]


def test_the_threads_are_those_of_the_config(tiny_config: MakeConfig) -> None:
    try:
        Trainer(tiny_config({"train.threads": 2}))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_val_loss_of_many_evaluation_batches_is_one_mean(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(tiny_config({"train.eval_tokens": 1000})).evaluate()
    # 62 windows: 8 x 7 and 6
    monkeypatch.setattr("trainable.training.trainer.EVAL_BATCH_TOKENS", 7 * 16)
    parts = Trainer(tiny_config({"train.eval_tokens": 1000})).evaluate()
    assert parts == pytest.approx(whole, rel=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny_config: MakeConfig) -> None:
    runs = []
    for parts in (1, 2, 8):
        values = {"train.batch_size": 8, "train.grad_accumulation": parts}
        trainer = Trainer(tiny_config({**values, "optim.weight_decay": 0.0}))
        steps = [trainer.train_step(step) for step in range(1, 6)]
        runs.append([float(value) for step in steps for value in step] + [trainer.evaluate()])
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)
    assert runs[2] == pytest.approx(runs[0], rel=1e-4)


def test_evaluating_changes_nothing(tiny_config: MakeConfig) -> None:
    often, seldom = (Trainer(tiny_config({"train.eval_every": every})) for every in (1, 20))
    for trainer in (often, seldom):
        for _ in trainer.run():
            pass
    assert_same_state(often, seldom)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_ends_the_trial(tiny_config: MakeConfig, value: float) -> None:
    config = tiny_config()
    trainer = Trainer(config)
    run = trainer.run()
    assert [next(run).step, next(run).step] == [0, 5]
    with torch.no_grad():
        trainer.model.head.weight[0, 0] = value
    with pytest.raises(DivergedError) as caught:
        next(run)
    error = caught.value
    rate = learning_rate(6, config.optim, 20)
    assert (error.step, error.lr) == (6, rate)
    assert not math.isfinite(error.loss)
    assert trainer.iteration == 6, "no further step is made"
    assert "step 6" in str(error)
    assert f"{rate:.4g}" in str(error)
    assert str(error.loss) in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.step, copy.lr, str(copy)) == (error.step, error.lr, str(error))


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([math.inf], 9),
        ([1.0, math.nan], 9),
        ([math.nan, math.inf, 1.0], 7),
        ([1.0, math.inf] * 2, 7),
    ],
)
def test_of_several_losses_the_first_that_is_not_finite_is_told(
    tiny_config: MakeConfig, losses: list[float], step: int
) -> None:
    """A GPU's losses are looked at some steps at a time."""
    config = tiny_config()
    trainer = Trainer(config)
    trainer.iteration = 9
    trainer._require_finite([1.0, 2.0])
    with pytest.raises(DivergedError) as caught:
        trainer._require_finite(losses)
    assert (caught.value.step, caught.value.lr) == (step, learning_rate(step, config.optim, 20))
    first = losses[step - 9 - 1]
    assert caught.value.loss == first or math.isnan(first)


def test_validation_loss_that_is_not_finite_ends_the_trial(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config())
    with torch.no_grad():
        trainer.model.head.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 0"):
        next(trainer.run())


def test_absurd_rate_diverges(tiny_config: MakeConfig) -> None:
    config = tiny_config({"optim.lr": 1e3, "optim.weight_decay": 1e3})
    with pytest.raises(DivergedError) as caught:
        list(Trainer(config).run())
    assert 1 <= caught.value.step <= 20


def test_overfits_one_batch(tiny_config: MakeConfig) -> None:
    values = {"train.steps": 150, "train.eval_every": 75, "optim.lr": 0.01}
    *_, last = Trainer(tiny_config(values), overfit_one_batch=True).run()
    assert last.train_loss is not None
    assert last.train_loss < 0.05
    *_, honest = Trainer(tiny_config(values)).run()
    assert honest.train_loss is not None
    assert honest.train_loss > 5 * last.train_loss
    assert honest.val_loss < last.val_loss


def test_same_config_gives_the_same_numbers(tiny_config: MakeConfig) -> None:
    first, second = (Trainer(tiny_config()) for _ in range(2))
    assert [results(e) for e in first.run()] == [results(e) for e in second.run()]
    assert_same_state(first, second)
    other = Trainer(tiny_config({"train.seed": 1}))
    assert [e.val_loss for e in other.run()] != [e.val_loss for e in Trainer(tiny_config()).run()]


def test_global_randomness_has_no_influence_and_is_left_alone(tiny_config: MakeConfig) -> None:
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        trainer = Trainer(tiny_config({"train.steps": 5}))
        runs.append([results(e) for e in trainer.run()])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
    assert runs[0] == runs[1]


RESUME = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from trainable.config.trial import TrialConfig
from trainable.training.trainer import Trainer

trainer = Trainer(TrialConfig.model_validate_json(sys.argv[1]))
trainer.load(Path(sys.argv[2]))
evaluations = [asdict(evaluation) for evaluation in trainer.run()]
trainer.save(Path(sys.argv[3]))
print(json.dumps(evaluations))
"""


@pytest.mark.parametrize(
    "values",
    [
        {"train.precision": "fp32"},
        {"train.precision": "bf16", "train.grad_accumulation": 2, "model.tie_embeddings": True},
    ],
    ids=["fp32", "bf16"],
)
def test_resume_in_a_new_process_is_bit_exact(
    tiny_config: MakeConfig, values: dict[str, Any], tmp_path: Path, run_python: RunPython
) -> None:
    config = tiny_config(values)
    undisturbed = Trainer(config)
    expected = [results(e) for e in undisturbed.run()]
    halfway = Trainer(config)
    for evaluation in halfway.run():
        if evaluation.step == 10:
            break
    halfway.save(tmp_path / "half")
    done = run_python("-c", RESUME, config.model_dump_json(), tmp_path / "half", tmp_path / "full")
    assert done.returncode == 0, done.stderr
    resumed = [results(Evaluation(**e)) for e in json.loads(done.stdout)]
    assert resumed == expected[3:]
    final = Trainer(config)
    final.load(tmp_path / "full")
    assert_same_state(final, undisturbed)


def test_checkpoint_can_be_taken_at_any_evaluation(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    undisturbed = Trainer(config)
    expected = []
    for evaluation in undisturbed.run():
        expected.append(results(evaluation))
        undisturbed.save(tmp_path / str(evaluation.step))
    for done in range(5):
        trainer = Trainer(config)
        manifest = trainer.load(tmp_path / str(5 * done))
        assert manifest.iteration == trainer.iteration == 5 * done
        assert manifest.val_loss == trainer.val_loss == expected[done]["val_loss"]
        assert [results(e) for e in trainer.run()] == expected[done + 1 :]
        assert_same_state(trainer, undisturbed)


def test_a_resume_uses_the_optimizer_s_settings_of_its_own_config(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    first = Trainer(tiny_config())
    first.train_step(1)
    first.save(tmp_path / "c")
    values = {"weight_decay": 0.5, "beta1": 0.7, "beta2": 0.8, "eps": 1e-4}
    resumed = Trainer(tiny_config({f"optim.{name}": value for name, value in values.items()}))
    resumed.load(tmp_path / "c")
    groups = resumed.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [(group["betas"], group["eps"]) for group in groups] == [((0.7, 0.8), 1e-4)] * 2
    saved, loaded = first.optimizer.state, resumed.optimizer.state
    for ours, theirs in zip(saved.values(), loaded.values(), strict=True):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])


def test_clock_goes_on_after_a_resume(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config()
    first = Trainer(config)
    for evaluation in first.run():
        if evaluation.step == 10:
            first.save(tmp_path / "c")
            break
    second = Trainer(config)
    assert second.load(tmp_path / "c").seconds == first.seconds > 0
    assert next(second.run()).seconds > first.seconds


def test_resume_with_another_interval_keeps_to_its_multiples(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_config())
    for evaluation in trainer.run():
        if evaluation.step == 10:
            trainer.save(tmp_path / "c")
    resumed = Trainer(tiny_config({"train.eval_every": 4}))
    resumed.load(tmp_path / "c")
    assert [e.step for e in resumed.run()] == [12, 16, 20]


def spoilt_dataset(config: TrialConfig, folder: Path) -> str:
    """Return a copy of the dataset with one token changed, as if it had been prepared so."""
    folder.mkdir()
    for file in Path(config.data.dataset).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokens = np.load(folder / "train.npy")
    tokens[100] ^= 1
    np.save(folder / "train.npy", tokens)
    facts = {"train_blake3": blake3(tokens.tobytes()).hexdigest()}
    DatasetMeta.read(folder).model_copy(update=facts).sealed().write(folder)
    return str(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"model.d_model": 48},
        {"model.n_layers": 1},
        {"model.head_dim": 8},
        {"model.rope_theta": 500.0},
        {"model.norm_eps": 1e-3},
        {"model.tie_embeddings": True},
        {"data.dataset": "changed"},
    ],
    ids=str,
)
def test_checkpoint_of_another_model_or_dataset_is_refused_untouched(
    tiny_config: MakeConfig, tmp_path: Path, values: dict[str, Any]
) -> None:
    saved = Trainer(tiny_config({"train.seed": 1}))
    saved.train_step(1)
    saved.save(tmp_path / "c")
    if "data.dataset" in values:
        values = {"data.dataset": spoilt_dataset(tiny_config(), tmp_path / "changed")}
    trainer, same = (Trainer(tiny_config(values)) for _ in range(2))
    with pytest.raises(CheckpointError):
        trainer.load(tmp_path / "c")
    assert_same_state(trainer, same)


def test_checkpoint_tells_what_it_is_of(tiny_config: MakeConfig, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config())
    *_, last = trainer.run()
    trainer.save(tmp_path / "c")
    manifest = read_manifest(tmp_path / "c")
    assert manifest.config == tiny_config()
    assert manifest.dataset_digest == trainer.dataset.digest
    assert (manifest.iteration, manifest.val_loss) == (20, last.val_loss)
    assert (manifest.vocab_size, manifest.threads) == (257, 1)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_has_two_names(tiny_config: MakeConfig, name: str) -> None:
    assert Trainer(tiny_config({"train.device": name})).device == torch.device("cpu")


@pytest.mark.parametrize("name", ["cpu:1", "gpu", "cuda:x", "cuda:-1"])
def test_a_name_of_no_device_is_refused(tiny_config: MakeConfig, name: str) -> None:
    with pytest.raises(ValidationError, match="device"):
        tiny_config({"train.device": name})


def test_device_that_is_not_there_is_a_config_error(tiny_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="cuda:63"):
        Trainer(tiny_config({"train.device": "cuda:63"}))


def test_bf16_autocast_keeps_fp32_weights_and_comes_near(tiny_config: MakeConfig) -> None:
    exact, rounded = (Trainer(tiny_config({"train.precision": p})) for p in ("fp32", "bf16"))
    exact_losses, losses = ([e.val_loss for e in trainer.run()] for trainer in (exact, rounded))
    assert losses != exact_losses
    assert losses == pytest.approx(exact_losses, rel=0.02)
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_model_gives_near_the_same_losses(
    tiny_config: MakeConfig, run_python: RunPython
) -> None:
    code = (
        "import sys; from trainable.config.trial import TrialConfig\n"
        "from trainable.training.trainer import *\n"
        "trainer = Trainer(TrialConfig.model_validate_json(sys.argv[1]))\n"
        "print(*(e.val_loss for e in trainer.run()))"
    )
    # One block, and evaluation windows in the training batch's shape: the fewest compilations.
    values = {
        "model.n_layers": 1,
        "train.steps": 3,
        "train.eval_every": 3,
        "train.eval_tokens": 64,
    }
    compiled = tiny_config({**values, "train.compile": "always"})
    done = run_python("-c", code, compiled.model_dump_json(), seconds=300)
    assert done.returncode == 0, done.stderr
    losses = [float(word) for word in done.stdout.split()]
    plain = [e.val_loss for e in Trainer(tiny_config(values)).run()]
    assert losses == pytest.approx(plain, rel=1e-4)
