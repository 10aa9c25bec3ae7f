"""The standard error of a difference between two trials, as the plan tells it."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeConfig

from sweep.plan.noise import PAIRED_SHARE, standard_error
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset, open_dataset, validation_starts, windows
from trainable.model.transformer import next_token_loss
from trainable.training.trainer import Trainer


def test_four_times_the_windows_halve_it(tiny_config: MakeConfig) -> None:
    dataset = open_dataset(tiny_config().data, 16)
    few, many = (
        standard_error(dataset, tiny_config({"train.eval_tokens": 16 * count}))
        for count in (16, 64)
    )
    assert few is not None
    assert many is not None
    assert many < few
    assert few / many == pytest.approx(2, rel=0.4)  # the windows are others, too


def test_one_window_tells_nothing(tiny_config: MakeConfig) -> None:
    config = tiny_config({"train.eval_tokens": 16})
    assert standard_error(open_dataset(config.data, 16), config) is None


def raw_dataset(folder: Path, train: list[int], val: list[int]) -> TokenDataset:
    folder.mkdir()
    for name, tokens in (("train", train), ("val", val)):
        np.array(tokens, dtype="<u2").tofile(folder / f"{name}.bin")
    raw = {"data.dataset": str(folder), "data.raw_dtype": "uint16", "data.raw_vocab_size": 3}
    return open_dataset(TrialConfig().with_values(raw).data, 4)


def windows_of(windows: int) -> TrialConfig:
    values = {"model.context_length": 4, "train.eval_tokens": 4 * windows}
    return TrialConfig().with_values(values)


def test_it_is_that_of_the_windows_predicted_tokens(tmp_path: Path) -> None:
    """Two windows, one of whose targets are all frequent, the other's all rare."""
    dataset = raw_dataset(tmp_path / "two", [0] * 799 + [1] * 99, [1, *[0] * 4, *[1] * 4])
    difference = math.log(800 / 100)
    # The mean of two numbers is off by half of their difference.
    expected = PAIRED_SHARE * difference / 2
    assert standard_error(dataset, windows_of(2)) == pytest.approx(expected)


def test_tokens_that_the_training_text_lacks_count_as_rare(tmp_path: Path) -> None:
    dataset = raw_dataset(tmp_path / "unseen", [0] * 799 + [1] * 99, [0, *[0] * 4, *[2] * 4])
    expected = PAIRED_SHARE * math.log(800) / 2
    assert standard_error(dataset, windows_of(2)) == pytest.approx(expected)


def test_it_takes_no_longer_for_more_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    val = rng.choice(3, 800_001, p=[0.6, 0.3, 0.1]).tolist()
    dataset = raw_dataset(tmp_path / "long", val[:10_000], val)
    began = time.thread_time()
    all_of_them = standard_error(dataset, windows_of(2 * 10**5))
    assert time.thread_time() - began < 0.5
    some = standard_error(dataset, windows_of(2 * 10**3))
    assert some is not None
    assert all_of_them == pytest.approx(some / 10, rel=0.1)


@pytest.mark.parametrize("other", [{"optim.lr": 3e-2}, {"model.d_model": 64}, {"train.seed": 1}])
def test_it_is_of_the_size_of_the_real_one(tiny_config: MakeConfig, other: dict[str, Any]) -> None:
    values = {"optim.lr": 1e-2, "train.steps": 60, "train.eval_tokens": 16 * 64}
    dataset = open_dataset(tiny_config().data, 16)
    starts = validation_starts(len(dataset.val.tokens), 16, 16 * 64)
    losses = []
    for changed in ({}, other):
        trainer = Trainer(tiny_config({**values, **changed}), dataset)
        for _ in trainer.run():
            pass
        with torch.no_grad():
            each = [
                float(next_token_loss(trainer.model(x), y))
                for x, y in (
                    windows(dataset.val.tokens, starts[n : n + 1], 16, "cpu")
                    for n in range(len(starts))
                )
            ]
        losses.append(np.array(each))
    real = float(np.std(losses[0] - losses[1], ddof=1)) / math.sqrt(len(starts))
    told = standard_error(dataset, tiny_config(values))
    assert told is not None
    assert 1 / 6 < told / real < 6
