"""Evaluation: its share of a full trial's time, at the sizes and settings of the default sweep."""

import time
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.measure import Bar, Row, interleave, middle, precisions
from benchmarks.samples import trial
from trainable.common.paths import config_file
from trainable.config.yaml_file import read_yaml
from trainable.training.trainer import Trainer

STEPS = 5


def rows(short: bool) -> Iterator[Row]:
    """Yield the share for each width."""
    train = read_yaml(config_file("sweep.yaml"))["trial"]["train"]
    evaluations = 1 + train["steps"] // train["eval_every"]
    for width in (128,) if short else (64, 128, 192):
        trainer = trial(
            {
                "model.d_model": width,
                "train.eval_tokens": train["eval_tokens"],
                "train.precision": precisions(torch.device("cpu"))[-1],
                "train.attention": "products",
                "train.compile": "never",
            }
        )
        taken = interleave(
            {"evaluation": trainer.evaluate, "steps": partial(several_steps, trainer)},
            rounds=5 if short else 15,
            clock=time.thread_time,
        )
        shares = []
        for evaluation, several in zip(taken["evaluation"], taken["steps"], strict=True):
            evaluating = evaluations * evaluation
            shares.append(100 * evaluating / (evaluating + train["steps"] * several / STEPS))
        yield Row(
            "evaluation",
            f"d{width}, {train['eval_tokens']:,} tokens every {train['eval_every']} steps",
            *middle(shares),
            unit="% of a full trial",
            bar=Bar(at_most=10),
        )


def several_steps(trainer: Trainer) -> None:
    """Make a few training steps, always the same: they cost the same at any point of a trial."""
    for step in range(1, STEPS + 1):
        trainer.train_step(step)
