"""The time and the memory that a plan foretells: for trials of any size, and at once."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig, RunPython
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_samples import TRIAL, sweep_config

from sweep.cluster.place import ThisMachine, plan_on
from sweep.conduct.resume import resume_sweep
from sweep.conduct.start import start_sweep
from sweep.config.sweep import SweepConfig
from sweep.plan import probe
from sweep.plan.budget import TimeBudget
from sweep.plan.plan import make_plan
from sweep.plan.probe import Speed, expected_seconds, forecast, probe_ends, probe_speed, settled
from sweep.plan.sizes import hungriest_trial, on_own_device, trial_flops
from sweep.record.folder import SweepFile, create_sweep
from sweep.record.identity import new_identity
from trainable.common.errors import ConfigError
from trainable.config.trial import ModelConfig, TrialConfig
from trainable.data.batches import TokenDataset, open_dataset
from trainable.hardware import memory
from trainable.hardware.memory import GIB, available_bytes, least_bytes
from trainable.local import LocalConfig, train
from trainable.model.counts import held_bytes, parameter_count
from trainable.training.portion import Portion

CPU = torch.device("cpu")


@pytest.fixture
def dataset(tiny_config: MakeConfig) -> TokenDataset:
    return open_dataset(tiny_config().data, 16)


def planned(dataset: TokenDataset, model: Any = None, train: Any = None, **changes: Any) -> Any:
    """Return a small sweep over rates on the tiny dataset, with changes to its trial."""
    trial = {
        "data": {"dataset": str(dataset.folder)},
        "model": {**TRIAL["model"], **(model or {})},
        "train": {**TRIAL["train"], **(train or {})},
    }
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}
    return sweep_config(**{"space": space, "trial": trial, **changes})


def test_the_time_is_steps_and_evaluations_shared_out(dataset: TokenDataset) -> None:
    config = planned(dataset, asha={"enabled": False}, num_samples=6)
    plan = make_plan(config, dataset, 3)
    speed = Speed(step=0.5, evaluation=7.0, probed=1.0)
    # 80 steps; evaluated at 0, 10, .., 80.
    assert expected_seconds(config, plan, (speed, speed), 1) == 6 * (80 * 0.5 + 9 * 7)
    assert expected_seconds(config, plan, (speed, speed), 3) == 2 * (80 * 0.5 + 9 * 7)


def test_the_time_of_other_sizes_lies_on_a_line_through_flops(dataset: TokenDataset) -> None:
    space = {"model.n_layers": {"choice": [1, 2, 5]}}
    config = planned(dataset, space=space, asha={"enabled": False}, num_samples=1)
    plan = make_plan(config, dataset, 1)
    ends = Speed(1.0, 8.0, 1.0), Speed(5.0, 40.0, 1.0)
    # A step costs 1, 2 and 5 seconds at 1, 2 and 5 layers: the head is on top of the first.
    flops = {trial_flops(config.trial_config({"model.n_layers": n}), 257): n for n in (1, 2, 5)}
    layers = [flops[stints[0].flops] for stints in plan.workload.sweeps]
    assert set(layers) == {1, 2, 5}
    each = [n * (80 + 9 * 8) for n in layers]
    assert expected_seconds(config, plan, ends, 1) == pytest.approx(sum(each) / len(each))


def test_early_stopping_saves_its_share_of_the_time(dataset: TokenDataset) -> None:
    config = planned(dataset)
    plan = make_plan(config, dataset, 1)
    assert 0 < plan.share < 1
    assert plan.steps == pytest.approx(8 * 80 * plan.share)
    speed = Speed(step=1.0, evaluation=0.0, probed=1.0)
    assert expected_seconds(config, plan, (speed, speed), 1) == pytest.approx(plan.steps)
    speed = Speed(step=0.0, evaluation=1.0, probed=1.0)
    evaluations = 8 + plan.steps / 10
    assert expected_seconds(config, plan, (speed, speed), 1) == pytest.approx(evaluations)


def test_the_paces_are_those_of_the_ends(dataset: TokenDataset) -> None:
    space = {"model.n_layers": {"choice": [1, 4]}}
    config = planned(dataset, space=space)
    plan = plan_on(ThisMachine(config), config, dataset)
    ends = Speed(1.0, 7.0, 1.0), Speed(5.0, 9.0, 0.25)
    expected = forecast(config, dataset, plan, lambda *_: ends)
    assert expected.paces == {
        plan.smallest.flops: 80 * 1.0 + 8 * 7.0,
        plan.largest.flops: 80 * 5.0 + 8 * 9.0,
    }
    assert expected.probed == 0.25
    budget = TimeBudget(config, 257, expected.paces)
    large = config.trial_config({"model.n_layers": 4})
    assert budget.expected_seconds(large, 40) == pytest.approx((80 * 5.0 + 8 * 9.0) / 2)


def test_a_small_trial_is_measured_as_it_is(dataset: TokenDataset) -> None:
    trial = planned(dataset).trial
    speed = probe_speed(trial, 257, 8)
    assert speed.probed == 1
    assert 0 < speed.step < 10
    assert 0 < speed.evaluation < 10


def test_each_end_is_measured(dataset: TokenDataset) -> None:
    config = planned(dataset, space={"model.n_layers": {"choice": [40, 1]}})
    ends = probe_ends(config, 257, 8)
    assert ends is not None
    assert ends[1].step > 3 * ends[0].step


def test_ten_times_the_windows_take_ten_times_as_long(dataset: TokenDataset) -> None:
    trial = planned(dataset).trial
    few, many = (min(probe_speed(trial, 257, n).evaluation for _ in "123") for n in (2e3, 2e4))
    assert 4 < many / few < 25


def test_accumulated_gradients_take_as_long_as_the_whole_batch(dataset: TokenDataset) -> None:
    whole, parts = (
        planned(dataset, {"d_model": 64}, {"batch_size": 64, "grad_accumulation": n}).trial
        for n in (1, 4)
    )
    seconds = [min(probe_speed(t, 257, 8).step for _ in "123") for t in (whole, parts)]
    assert 0.5 < seconds[1] / seconds[0] < 4


def test_a_long_step_is_told_from_a_part_of_it(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = planned(dataset, {"d_model": 128, "n_layers": 8}, {"batch_size": 128}).trial
    monkeypatch.setattr(probe, "PASS_SECONDS", 0.03)
    part = probe_speed(trial, 257, 64)
    monkeypatch.setattr(probe, "PASS_SECONDS", 10.0)
    whole = probe_speed(trial, 257, 64)
    assert part.probed < 0.5
    assert whole.probed == 1
    assert 1 / 3 < part.step / whole.step < 3
    assert 1 / 3 < part.evaluation / whole.evaluation < 3


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"d_model": 1_024, "n_layers": 24, "context_length": 64}, {"batch_size": 32}),
        ({"d_model": 128, "n_layers": 1_000}, {}),
    ],
    ids=str,
)
def test_a_plan_of_large_trials_comes_at_once(
    dataset: TokenDataset,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, int],
    train: dict[str, int],
) -> None:
    monkeypatch.setattr("sweep.plan.plan.available_bytes", lambda *_: 2**50)
    auto = {"precision": "auto", "attention": "auto", "compile": "auto"}
    config = planned(dataset, model, {**auto, **train})
    began = time.thread_time()
    plan = make_plan(config, dataset, 2)
    ends = probe_ends(settled(config, dataset), 257, plan.eval_windows)
    assert time.thread_time() - began < 5, "eight seconds, with the imports"
    assert ends is not None
    assert ends[1].probed < 1
    seconds = expected_seconds(config, plan, ends, 2)
    assert seconds > 60


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    heads=st.integers(1, 64),
    head_dim=st.sampled_from([2, 16, 64]),
    layers=st.integers(1, 1_000),
    context=st.integers(1, 100_000),
    inner=st.one_of(st.none(), st.integers(1, 100_000)),
    vocab=st.integers(2, 200_000),
    rows=st.integers(1, 10_000),
)
def test_a_portion_is_a_smaller_trial_of_the_kind(
    heads: int, head_dim: int, layers: int, context: int, inner: int | None, vocab: int, rows: int
) -> None:
    model = ModelConfig(
        d_model=heads * head_dim,
        head_dim=head_dim,
        n_layers=layers,
        context_length=context,
        d_ff=inner,
    )
    whole = Portion(model, vocab, rows)
    assert whole.within(whole.flops) == whole
    part = whole.within(1e8)
    assert part.flops <= 1e8
    ModelConfig.model_validate(part.model.model_dump())
    assert part.model.head_dim == head_dim
    assert part.rows <= rows
    assert part.vocab_size <= vocab
    x, y = part.batch(CPU)
    assert x.shape == y.shape == (part.rows, part.model.context_length)
    assert int(x.max()) < part.vocab_size
    if part.flops < whole.flops:
        assert part.flops > 1e8 / 8, "as large as may be"


@pytest.mark.parametrize(
    ("model", "train", "said"),
    [
        ({"d_model": 65_536}, {}, ("model.d_model = 65536", "model.n_layers = 2", "narrower")),
        ({"d_ff": 10**6, "n_layers": 99}, {}, ("model.d_ff = 1000000",)),
        ({"n_layers": 1_000, "d_model": 8_192}, {}, ("model.n_layers = 1000", "shallower")),
        (
            {"d_ff": 8_192},
            {"batch_size": 10**6},
            ("train.batch_size = 1000000", "16,000,000 tokens at once"),
        ),
        (
            {"d_ff": 1_000_000},
            {"batch_size": 10**5, "grad_accumulation": 4},
            ("400,000 tokens at once", "raise train.grad_accumulation"),
        ),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_built(
    dataset: TokenDataset,
    project: Path,
    model: dict[str, int],
    train: dict[str, int],
    said: tuple[str, ...],
) -> None:
    config = planned(dataset, model, train)
    began = time.thread_time()
    for dry_run in (True, False):
        with pytest.raises(ConfigError) as caught:
            start_sweep(config, dry_run=dry_run)
        for words in (*said, "GiB of memory to train", "GiB are available"):
            assert words in str(caught.value)
    assert time.thread_time() - began < 2
    assert not (project / "results").exists()


def test_a_trial_by_hand_that_cannot_fit_is_refused(tiny_config: MakeConfig) -> None:
    values = tiny_config({"model.d_model": 65_536}).model_dump()
    with pytest.raises(ConfigError, match=r"model.d_model = 65536.* GiB are available"):
        train(LocalConfig.model_validate(values))


def test_a_copy_that_is_saved_takes_its_part() -> None:
    """Weights, moments and gradients are 16 bytes a parameter; a copy of the first three 12."""
    trial = TrialConfig().with_values({"train.batch_size": 1})
    count = parameter_count(trial.model, 257)
    assert least_bytes(trial, 257, copied=False) == 16 * count
    assert least_bytes(trial, 257, copied=True) == 24 * count


@pytest.mark.parametrize(
    ("train", "values"),
    [
        ({}, 2 * 128 * 2 * 640),
        ({"precision": "fp32"}, 4 * 128 * 2 * 640),
        ({"grad_accumulation": 2}, 2 * 64 * 2 * 640),
        ({"compile": "never"}, 2 * 128 * 2 * (640 + 512)),
        ({"attention": "products"}, 2 * 128 * 2 * (640 + 32)),
        ({"attention": "plain"}, 2 * 128 * 2 * (640 + 32)),
        ({"attention": "sdpa"}, 2 * 128 * (2 * 640 + 257)),
    ],
    ids=str,
)
def test_what_a_backward_pass_needs_is_counted(train: dict[str, Any], values: int) -> None:
    """128 tokens in 2 layers: of each 4 x 64 in the attention and 2 x 192 in the layer after it."""
    model = {"d_model": 64, "d_ff": 192, "n_layers": 2, "head_dim": 32, "context_length": 32}
    trial = TrialConfig.model_validate({"model": model, "train": {"batch_size": 4, **train}})
    assert held_bytes(trial, 257) == values


def test_the_trial_that_takes_most_is_looked_at_not_only_the_base(dataset: TokenDataset) -> None:
    space = {"train.batch_size": {"choice": [4, 10**6]}, "model.n_layers": {"int": [1, 2]}}
    with pytest.raises(ConfigError, match=r"train.batch_size = 1000000"):
        make_plan(planned(dataset, {"d_ff": 8_192}, space=space), dataset, 1)


def test_the_part_of_a_batch_that_is_held_at_once_may_be_searched(dataset: TokenDataset) -> None:
    train = {"batch_size": 64, "grad_accumulation": 16}
    fixed = planned(dataset, {"d_ff": 4_096}, train)
    searched = planned(
        dataset,
        {"d_ff": 4_096},
        train,
        space={"train.grad_accumulation": {"choice": [16, 1]}},
    )
    parts, whole = (make_plan(config, dataset, 1).memory_bytes for config in (fixed, searched))
    assert hungriest_trial(searched, 257).train.grad_accumulation == 1
    assert whole > parts


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [(0, "auto", "cpu"), (1, "auto", "auto"), (0.5, "auto", "auto"), (1, "cuda", "cuda")],
)
def test_a_plan_is_made_for_the_device_that_a_trial_sees(
    dataset: TokenDataset, gpus: float, device: str, expected: str
) -> None:
    config = planned(dataset, train={"device": device}, gpus_per_trial=gpus)
    assert on_own_device(config, config.trial).train.device == expected


def test_a_resume_refuses_what_does_not_fit_here(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = planned(dataset, name="moved")
    sweep = SweepFile(identity=new_identity(time.time(), dataset.digest), config=config)
    folder = create_sweep("moved", sweep)
    monkeypatch.setattr("sweep.plan.plan.available_bytes", lambda *_: 2**10)
    with pytest.raises(ConfigError, match=r"0\.0 GiB are available"):
        resume_sweep(folder, sweep, config)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_bytes(CPU)
    assert 2**20 < free < 2**50
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit,))
    for text, expected in (("max\n", False), (f"{64 * 2**20}\n", True)):
        limit.write_text(text)
        assert (available_bytes(CPU) == 64 * 2**20) == expected


def test_trials_without_a_gpu_are_forecast_without_one(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides the driver's GPUs from them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config: SweepConfig = planned(dataset, train={"device": "auto", "precision": "fp32"})
    plan = make_plan(config, dataset, 1)
    assert probe_ends(config, 257, plan.eval_windows) is not None


MEASURE = """
import sys, torch
from trainable.config.trial import TrialConfig
from trainable.hardware.memory import least_bytes
from trainable.model.transformer import Transformer
from trainable.passes.forms import build_passes
from trainable.training.optim import build_optimizer
from trainable.training.portion import Portion
values = {"model.d_model": int(sys.argv[1]), "train.batch_size": int(sys.argv[2])}
values |= {"train.precision": sys.argv[3], "train.attention": sys.argv[4]}
trial = TrialConfig().with_values({**values, "train.device": "cpu", "train.compile": "never"})
def peak():  # of this program: ru_maxrss is also of the one that started it
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

before = peak()
model = Transformer(trial.model, 257)
optimizer = build_optimizer(model, trial.optim)
passes = build_passes(model, trial.train, torch.device("cpu"))
x, y = Portion.of(trial, 257).batch(torch.device("cpu"))
for _ in range(2):
    passes.backward(x, y, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print(least_bytes(trial, 257, copied=False), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["products", "sdpa"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("width", "rows"), [(512, 1), (64, 64)])
def test_training_takes_the_memory_that_is_foretold_at_the_least(
    run_python: RunPython, width: int, rows: int, precision: str, form: str
) -> None:
    done = run_python("-c", MEASURE, width, rows, precision, form)
    assert done.returncode == 0, done.stderr
    least, peak = map(int, done.stdout.split())
    assert least <= peak < 4 * least
    assert peak < GIB
    assert least > 16 * parameter_count(ModelConfig(d_model=width), 257) * 0.99


@pytest.mark.parametrize(
    ("passes", "found", "measured"),
    [
        ([0.9, 0.04, 0.001, 0.002], 0.001, 4),
        ([0.9, 0.001, 0.04, 0.002], 0.001, 4),
        ([0.9, 0.4, 0.1], 0.4, 2),
        ([0.01, 0.1, 0.09, 0.08], 0.09, 3),
    ],
)
def test_a_hiccup_of_the_machine_is_no_pass_and_long_ones_are_measured_once(
    passes: list[float], found: float, measured: int
) -> None:
    now, left = [0.0], list(passes)

    def work() -> torch.Tensor:
        now[0] += left.pop(0)
        return torch.zeros(())

    assert probe._seconds(work, lambda: now[0]) == pytest.approx(found)
    assert len(passes) - len(left) == measured
