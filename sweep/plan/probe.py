"""What a trial costs on this machine, measured before the first one runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan, model_sizes
from trainable.config.trial import ModelConfig
from trainable.data.batches import TokenDataset
from trainable.hardware.device import OUT_OF_MEMORY, probe_clock, require_out_of_memory
from trainable.model.counts import parameter_count
from trainable.training.choice import as_chosen, is_chosen, resolve

PROBE_STEPS = 3

LONG_STEP_SECONDS = 1.0
"""A step that takes so long is measured once: the plan must not wait for more."""


@dataclass(frozen=True)
class Speed:
    """What one size costs on this machine, as probed: seconds."""

    step: float
    evaluation: float


def settled(config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
    """Return `config` with precision, attention form and compilation chosen where left at auto.

    The largest size decides for all trials: losses in different precisions are not compared.

    Raises:
        ConfigError: the device is not there.
    """
    if is_chosen(config.trial.train):
        return config
    vocab = dataset.vocab_size
    largest = max(model_sizes(config), key=lambda size: parameter_count(size, vocab))
    values = _as_values(largest)
    if config.trial.train.device == "auto" and not config.gpus_per_trial:
        values["train.device"] = "cpu"  # Ray hides the GPUs from such trials
    chosen = resolve(config.trial_config(values), dataset)
    trial = as_chosen(config.trial, chosen.train)
    return config.model_copy(update={"trial": trial})


def _as_values(size: ModelConfig) -> dict[str, Any]:
    """Return a size as settings of a trial."""
    return {f"model.{name}": value for name, value in size.model_dump().items()}


def expected_seconds(
    config: SweepConfig, dataset: TokenDataset, plan: Plan, concurrent: int
) -> float | None:
    """Return the expected seconds of all trials; None if a size does not fit into memory.

    The smallest and the largest size are probed, a line through FLOPs gives those between.
    """
    train, share, flops = config.trial.train, plan.share, plan.flops_per_trial
    evaluations = 1 + share * train.steps / train.eval_interval
    ends = []
    for size in (plan.sizes[0], plan.sizes[-1]):
        try:
            speed = probe_speed(config, dataset, size)
        except OUT_OF_MEMORY as error:
            require_out_of_memory(error)
            return None
        ends.append(share * train.steps * speed.step + evaluations * speed.evaluation)
    same = flops[0] == flops[-1]
    per_trial = ends if same else np.interp(flops, [flops[0], flops[-1]], ends)
    return float(np.mean(per_trial)) * config.num_samples / concurrent


def probe_speed(config: SweepConfig, dataset: TokenDataset, size: ModelConfig) -> Speed:
    """Measure a part of an evaluation and a few steps, but for the optimizer's share of them."""
    from trainable.training.trainer import EVAL_BATCH_TOKENS, Trainer

    eval_tokens = config.trial.train.eval_tokens
    probed = min(eval_tokens, max(EVAL_BATCH_TOKENS, size.context_length))
    values = _as_values(size) | {"train.compile": "never", "train.eval_tokens": probed}
    trainer = Trainer(config.trial_config(values), dataset)
    clock = probe_clock(trainer.device, config.trial.train.threads)  # Ray may be starting meanwhile

    def seconds(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return clock() - started

    def steps(first: int, last: int) -> None:
        for step in range(first, last + 1):
            float(trainer.add_gradients(step))  # waits for the device
            trainer.model.zero_grad(set_to_none=True)

    step = seconds(lambda: steps(1, 1))  # pays for allocations, which a long step hardly notices
    if step < LONG_STEP_SECONDS:
        step = seconds(lambda: steps(2, 1 + PROBE_STEPS)) / PROBE_STEPS
    return Speed(step, seconds(trainer.evaluate) * eval_tokens / probed)
