"""What is left at auto is chosen once, by a probe, and kept."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig, RunPython
from sweep_samples import TRIAL, sweep_config

from sweep.plan.probe import settled
from trainable.checkpoint.folder import read_manifest
from trainable.config.trial import TrainConfig, TrialConfig
from trainable.data.batches import TokenDataset, open_dataset
from trainable.model.counts import flops_per_token
from trainable.training import choice
from trainable.training.choice import as_chosen, resolve
from trainable.training.trainer import Trainer

AUTO = {"train.precision": "auto", "train.attention": "auto", "train.compile": "auto"}


@pytest.fixture
def dataset(tiny_config: MakeConfig) -> TokenDataset:
    return open_dataset(tiny_config().data, 16)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, str], float]) -> None:
    """Let the probe find these seconds a step, by precision and attention."""
    monkeypatch.setattr(
        choice,
        "_measured",
        lambda config, dataset, choices, device: {
            c: seconds[c.precision, c.attention] for c in choices
        },
    )


EVEN = dict.fromkeys(
    [(p, a) for p in ("fp32", "bf16") for a in ("products", "plain", "sdpa")],
    1.0,
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, ("fp32", "products")),
        ({("bf16", "products"): 0.95}, ("fp32", "products")),  # within a probe's noise
        ({("bf16", "products"): 0.5}, ("bf16", "products")),
        ({("bf16", "sdpa"): 0.5, ("bf16", "products"): 0.8}, ("bf16", "sdpa")),
        ({("fp32", "sdpa"): 0.7, ("bf16", "products"): 0.69}, ("fp32", "sdpa")),
        ({("bf16", "plain"): 0.5, ("bf16", "products"): 0.8}, ("bf16", "plain")),
        ({("bf16", "plain"): 0.5, ("bf16", "products"): 0.52}, ("bf16", "products")),
        ({("fp32", "sdpa"): 0.7, ("fp32", "plain"): 0.69}, ("fp32", "plain")),
    ],
)
def test_the_clearly_fastest_is_chosen(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[tuple[str, str], float],
    expected: tuple[str, str],
) -> None:
    timed(monkeypatch, {**EVEN, **found})
    train = resolve(tiny_config(AUTO), dataset).train
    assert (train.precision, train.attention, train.compile) == (*expected, "never")


def test_of_two_the_faster_is_chosen(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {**EVEN, ("bf16", "sdpa"): 0.5})
    config = tiny_config({**AUTO, "train.attention": "sdpa", "train.compile": "never"})
    assert resolve(config, dataset).train.precision == "bf16"


@pytest.mark.parametrize(
    "fixed",
    [{"train.precision": "bf16"}, {"train.attention": "sdpa"}, {"train.compile": "always"}],
    ids=str,
)
def test_what_is_fixed_stays(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    monkeypatch: pytest.MonkeyPatch,
    fixed: dict[str, Any],
) -> None:
    timed(monkeypatch, EVEN)
    config = tiny_config({**AUTO, **fixed})
    resolved = resolve(config, dataset)
    for path, value in fixed.items():
        assert getattr(resolved.train, path.partition(".")[2]) == value
    assert "auto" not in (getattr(resolved.train, name) for name in choice.CHOSEN)
    assert resolved.model_copy(update={"train": config.train}) == config  # nothing else changed


def test_without_an_auto_nothing_is_probed(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {})
    config = tiny_config(
        {"train.precision": "fp32", "train.attention": "sdpa", "train.compile": "never"}
    )
    assert resolve(config, dataset) is config


def test_compiling_must_be_repaid_and_possible(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, EVEN)  # a second a step
    monkeypatch.setattr(choice, "_can_compile", lambda device: True)
    for steps, expected in ((100, "never"), (100_000, "always")):
        assert resolve(tiny_config({**AUTO, "train.steps": steps}), dataset).train.compile == (
            expected
        )
    monkeypatch.setattr(choice, "_can_compile", lambda device: False)
    assert resolve(tiny_config({**AUTO, "train.steps": 10**6}), dataset).train.compile == "never"


@pytest.mark.parametrize(
    ("device", "seconds", "expected"),
    [
        ("cpu", 1_799.0, "never"),
        ("cpu", 1_800.0, "always"),
        ("cuda", 299.0, "never"),
        ("cuda", 300.0, "always"),
        ("mps", 1e9, "never"),
    ],
)
def test_compiling_is_repaid_sooner_on_a_gpu(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    seconds: float,
    expected: str,
) -> None:
    """Also where only compilation is left to choose."""
    fixed = {"train.precision": "fp32", "train.attention": "sdpa", "train.compile": "auto"}
    timed(monkeypatch, {("fp32", "sdpa"): seconds / 1_000})
    monkeypatch.setattr(choice, "_can_compile", lambda device: True)
    monkeypatch.setattr(choice, "resolve_device", lambda train: torch.device(device))
    config = tiny_config({**fixed, "train.steps": 1_000})
    assert resolve(config, dataset).train.compile == expected


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")], ids=repr)
def test_a_block_that_does_not_fit_leaves_the_plainest_choice(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(choice, "_measured", fail)
    train = resolve(tiny_config(AUTO), dataset).train
    assert (train.precision, train.attention, train.compile) == ("fp32", "products", "never")


def test_another_error_of_the_probe_is_not_swallowed(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(choice, "_measured", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        resolve(tiny_config(AUTO), dataset)


@pytest.mark.parametrize("name", ["g++", "clang++", "own"])
def test_a_compiler_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not choice._can_compile(torch.device("cpu"))
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    if name == "own":
        monkeypatch.setenv("CXX", name)
    assert choice._can_compile(torch.device("cpu"))
    for found in (None, object()):  # a GPU needs Triton, too
        monkeypatch.setattr(importlib.util, "find_spec", lambda package, found=found: found)
        assert choice._can_compile(torch.device("cuda")) == (found is not None)


@pytest.mark.parametrize(
    ("context", "values", "forms"),
    [
        (16, {}, ["products", "plain", "sdpa"]),
        # 2 layers of 4 rows of 2 heads: 16 scores a pair of positions
        (4_729, {}, ["products", "plain", "sdpa"]),
        (4_730, {}, ["products", "sdpa"]),  # 6 bytes a score are more than 2 GiB
        (8_192, {}, ["products", "sdpa"]),
        (8_193, {}, ["sdpa"]),  # 2 bytes are
        (8_193, {"train.grad_accumulation": 2}, ["products", "sdpa"]),
        (8_193, {"train.attention": "plain"}, ["plain"]),
    ],
)
def test_attention_that_would_fill_the_memory_is_left_to_torch(
    tiny_config: MakeConfig, context: int, values: dict[str, Any], forms: list[str]
) -> None:
    config = tiny_config({**AUTO, "model.context_length": context, **values})
    found = choice._candidates(config, torch.device("cpu"))
    assert [(c.precision, c.attention) for c in found] == [
        (precision, form) for precision in ("fp32", "bf16") for form in forms
    ]


@pytest.mark.parametrize(
    ("device", "bf16", "expected"),
    [
        ("cuda", True, [(p, f) for p in ("fp32", "bf16") for f in ("sdpa", "plain", "products")]),
        ("cuda", False, [("fp32", "sdpa"), ("fp32", "plain"), ("fp32", "products")]),
        ("mps", True, [("fp32", "sdpa")]),
    ],
)
def test_on_a_gpu_torch_s_kernels_come_first(
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    bf16: bool,
    expected: list[tuple[str, str]],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    found = choice._candidates(tiny_config(AUTO), torch.device(device))
    assert [(c.precision, c.attention) for c in found] == expected


def test_the_probe_itself_is_short_and_leaves_numbers_alone(
    tiny_config: MakeConfig, dataset: TokenDataset
) -> None:
    wide = tiny_config({**AUTO, "model.d_model": 192, "model.n_layers": 4, "train.batch_size": 64})
    before = torch.get_rng_state()
    started = time.thread_time()
    resolved = resolve(wide, dataset)
    assert time.thread_time() - started < 2
    assert torch.equal(torch.get_rng_state(), before)
    assert resolved.train.compile == "never"
    assert resolved.train.precision in ("fp32", "bf16")


Calls = list[tuple[str, int]]


@pytest.fixture
def passes_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], Calls]:
    """Return a function that lets a row take so many seconds by precision; it lists the passes."""
    now = [0.0]
    made: Calls = []

    def slow(seconds: dict[str, float]) -> Calls:
        class Passes:
            def __init__(self, model: Any, config: TrainConfig, device: torch.device) -> None:
                assert config.compile == "never", "that would take minutes"
                self.precision = config.precision

            def backward(self, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
                made.append((self.precision, len(x)))
                now[0] += len(x) * seconds[self.precision]
                return torch.zeros(())

        monkeypatch.setattr(choice, "build_passes", Passes)
        monkeypatch.setattr(choice, "probe_clock", lambda device, threads: lambda: now[0])
        return made

    return slow


@pytest.mark.parametrize(
    ("bf16", "sizes"),
    [
        (4.1e-4, [8, 8]),  # 128 tokens, and again: hopeless
        (3.9e-4, [8, 64, 64]),  # behind after two rounds
        (1.6e-4, [8, 64, 64]),
        (1.4e-4, [8, 64, 64, 64, 64]),
    ],
)
def test_slow_choices_are_not_tried_further(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    passes_of: Callable[[dict[str, float]], Calls],
    bf16: float,
    sizes: list[int],
) -> None:
    made = passes_of({"fp32": 1e-4, "bf16": bf16})
    config = tiny_config({**AUTO, "train.attention": "plain", "train.batch_size": 64})
    assert resolve(config, dataset).train.precision == "fp32"
    assert [size for precision, size in made if precision == "bf16"] == sizes
    assert [size for precision, size in made if precision == "fp32"] == [8, 64, 64, 64, 64]


def test_the_least_of_the_full_rounds_counts(
    tiny_config: MakeConfig, dataset: TokenDataset, passes_of: Callable[[dict[str, float]], Calls]
) -> None:
    """Neither the few rows at the beginning nor a round that was disturbed."""
    a_row = iter([1e-4, 9e-4, 3e-4, 2e-4, 4e-4])

    class Scripted(dict[str, float]):
        def __getitem__(self, precision: str) -> float:
            return next(a_row)

    passes_of(Scripted())
    config = tiny_config({**AUTO, "train.batch_size": 64, "model.n_layers": 1})
    one = choice._Choice("fp32", "products")
    measured = choice._measured(config, dataset, [one], torch.device("cpu"))
    assert measured == {one: pytest.approx(64 * 2e-4)}


def test_no_round_begins_when_the_time_is_over(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    passes_of: Callable[[dict[str, float]], Calls],
) -> None:
    made = passes_of({"fp32": 0.01, "bf16": 0.01})  # 0.64 s a pass, 1.28 s a round
    config = tiny_config({**AUTO, "train.attention": "plain", "train.batch_size": 64})
    resolve(config, dataset)
    assert [size for _, size in made] == [8, 8, 64, 64, 64, 64]


def test_the_planned_time_is_that_of_the_whole_batch_and_depth(
    tiny_config: MakeConfig,
    dataset: TokenDataset,
    passes_of: Callable[[dict[str, float]], Calls],
) -> None:
    passes_of({"fp32": 1e-3})
    values = {"train.batch_size": 4_096, "model.n_layers": 3, "train.grad_accumulation": 4}
    config = tiny_config({**AUTO, **values})
    one = choice._Choice("fp32", "products")
    measured = choice._measured(config, dataset, [one], torch.device("cpu"))
    block = config.model.model_copy(update={"n_layers": 1})
    depth = flops_per_token(config.model, 257) / flops_per_token(block, 257)
    assert measured == {one: pytest.approx(4_096 * 1e-3 * depth)}
    assert 1 < depth < 3


def test_a_resume_takes_what_was_chosen(tiny_config: MakeConfig) -> None:
    before = TrainConfig(precision="bf16", attention="sdpa", compile="never")
    free = as_chosen(tiny_config(AUTO), before).train
    assert (free.precision, free.attention, free.compile) == ("bf16", "sdpa", "never")
    fixed = as_chosen(tiny_config({**AUTO, "train.precision": "fp32"}), before).train
    assert (fixed.precision, fixed.attention) == ("fp32", "sdpa")


def test_local_says_and_stores_what_it_chose(
    tiny_config: MakeConfig, tmp_path: Path, run_python: RunPython
) -> None:
    root = Path(__file__).resolve().parents[1]
    config = tiny_config()
    flags = [
        *("--data.dataset", config.data.dataset, "--model.d-model", "32", "--model.n-layers", "1"),
        *("--model.context-length", "16", "--train.batch-size", "4", "--train.eval-every", "2"),
        *("--train.eval-tokens", "64", "--checkpoint", tmp_path / "c"),
    ]
    first = run_python(root / "trainable/local.py", *flags, "--train.steps", "2")
    assert first.returncode == 0, first.stderr
    stored = read_manifest(tmp_path / "c").config.train
    assert stored.computed_in in first.stdout
    assert "auto" not in stored.computed_in
    again = run_python(
        root / "trainable/local.py", *flags, "--train.steps", "4", "--resume", tmp_path / "c"
    )
    assert again.returncode == 0, again.stderr
    assert stored.computed_in in again.stdout


def test_the_largest_size_of_a_sweep_decides_for_all(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrialConfig] = []

    def chosen(config: TrialConfig, _: TokenDataset) -> TrialConfig:
        seen.append(config)
        return as_chosen(
            config, TrainConfig(precision="bf16", attention="products", compile="never")
        )

    monkeypatch.setattr("sweep.plan.probe.resolve", chosen)
    auto = {name.partition(".")[2]: "auto" for name in AUTO}
    train = {**TRIAL["train"], **auto, "device": "auto"}
    trial = {**TRIAL, "train": train, "data": {"dataset": str(dataset.folder)}}
    config = sweep_config(trial=trial, space={"model.d_model": {"choice": [32, 64, 48]}})
    result = settled(config, dataset)
    assert [c.model.d_model for c in seen] == [64]
    assert seen[0].train.device == "cpu", "trials without a GPU do not see one"
    assert result.trial.train.computed_in == "bf16, attention by matrix products, not compiled"
    assert result.trial.model == config.trial.model
    assert Trainer(result.trial_config({"model.d_model": 32}), dataset).precision == "bf16"


def test_auto_without_a_probe_is_the_plain_choice(tiny_config: MakeConfig) -> None:
    assert Trainer(tiny_config(AUTO)).precision == "fp32"
