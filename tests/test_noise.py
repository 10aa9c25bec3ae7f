"""The standard error of a difference between two trials, as the plan tells it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeConfig

from sweep.plan.noise import standard_error
from trainable.data.batches import open_dataset, validation_starts, windows
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
    real = float(np.std(losses[0] - losses[1])) / math.sqrt(len(starts))
    told = standard_error(dataset, tiny_config(values))
    assert told is not None
    assert 1 / 6 < told / real < 6
