"""What is left at auto is chosen once, by a probe, and kept."""

import time
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
    [(p, a) for p in ("fp32", "bf16") for a in ("products", "sdpa")],
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


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not choice._can_compile(torch.device("cpu"))
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    assert choice._can_compile(torch.device("cpu"))


def test_attention_that_would_fill_the_memory_is_left_to_torch(tiny_config: MakeConfig) -> None:
    cpu = torch.device("cpu")
    short = tiny_config(AUTO)
    long = tiny_config({**AUTO, "model.context_length": 32_768})
    assert {c.attention for c in choice._candidates(short, cpu)} == {"products", "sdpa"}
    assert {c.attention for c in choice._candidates(long, cpu)} == {"sdpa"}


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


def test_a_hopeless_choice_is_not_tried_at_full_size(
    tiny_config: MakeConfig, dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, list[int]] = {"fp32": [], "bf16": []}

    class Passes:
        def __init__(self, model: Any, config: TrainConfig, device: torch.device) -> None:
            self.precision = config.precision

        def backward(self, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
            rows[self.precision].append(len(x))
            ended = time.thread_time() + len(x) * (2e-3 if self.precision == "bf16" else 1e-4)
            while time.thread_time() < ended:
                pass
            return torch.zeros(())

    monkeypatch.setattr(choice, "build_passes", Passes)
    config = tiny_config({**AUTO, "train.batch_size": 64})
    assert resolve(config, dataset).train.precision == "fp32"
    assert max(rows["fp32"]) == 64
    assert max(rows["bf16"]) == 8, "128 tokens"


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
