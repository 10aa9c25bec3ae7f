"""The plan of a sweep, made before it runs: trials, sizes, rungs, time, disk."""

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.config import SweepConfig
from sweep.noise import standard_error
from trainable.choice import as_chosen, is_chosen, resolve
from trainable.config import ModelConfig
from trainable.counts import flops_per_token, parameter_count, training_bytes
from trainable.data import TokenDataset, validation_starts
from trainable.device import OUT_OF_MEMORY, probe_clock, require_out_of_memory

PROBE_STEPS = 3
LONG_STEP_SECONDS = 1.0
"""A step that takes so long is measured once: the plan must not wait for more."""
SIMULATED_TRIALS = 6_400
LARGEST_SIMULATED = 1_000
"""Trials of the longest sweep that is simulated: later ones survive as rarely as its last."""


@dataclass(frozen=True)
class Speed:
    """What one size costs on this machine, as probed: seconds."""

    step: float
    evaluation: float


@dataclass(frozen=True)
class Plan:
    """What a sweep will do and what it will cost."""

    sizes: list[ModelConfig]
    """Model sizes that can be suggested, by ascending parameter count."""
    parameters: list[int]
    """Parameters of each size."""
    flops_per_trial: list[int]
    """Floating-point operations of a full trial of each size."""
    tokens_per_trial: int
    """Tokens of a full trial."""
    eval_windows: int
    """Fixed validation windows of one evaluation."""
    standard_error: float | None
    """Of a difference between two trials on those windows, in nats; None for one window."""
    share: float
    """Expected share of the steps that all trials in full would take, given the rungs."""
    disk_bytes: int
    """Largest expected size of the kept checkpoints."""


def make_plan(config: SweepConfig, dataset: TokenDataset, concurrent: int) -> Plan:
    """Return the plan: what can be known without training."""
    sizes = model_sizes(config)
    vocab = dataset.vocab_size
    sizes.sort(key=lambda size: parameter_count(size, vocab))
    flops = [
        config.trial.tokens_per_step * config.trial.train.steps * flops_per_token(size, vocab)
        for size in sizes
    ]
    largest = max(training_bytes(size, vocab) for size in sizes)
    # Each running trial keeps up to three checkpoints, and a fourth while it is copied.
    kept = min(config.keep_checkpoints, config.num_samples) + 4 * concurrent
    length = config.trial.model.context_length
    windows = validation_starts(len(dataset.val.tokens), length, config.trial.train.eval_tokens)
    return Plan(
        sizes=sizes,
        parameters=[parameter_count(size, vocab) for size in sizes],
        flops_per_trial=flops,
        tokens_per_trial=config.trial.tokens_per_step * config.trial.train.steps,
        eval_windows=len(windows),
        standard_error=standard_error(dataset, config.trial),
        share=expected_share(config),
        disk_bytes=largest * kept,
    )


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


def model_sizes(config: SweepConfig) -> list[ModelConfig]:
    """Return the distinct model sizes that the space can suggest (at most 4,096 are looked at)."""
    searched = {n: d.extremes() for n, d in config.space.items() if n.startswith("model.")}
    sizes: dict[str, ModelConfig] = {}
    for values in itertools.islice(itertools.product(*searched.values()), 4_096):
        model = config.trial.with_values(dict(zip(searched, values, strict=True))).model
        sizes[model.model_dump_json()] = model
    return list(sizes.values())


def expected_share(config: SweepConfig) -> float:
    """Return the expected share of all steps that ASHA spends, by simulating its rule.

    Trials of random, constant quality arrive one after another; better suggestions and trials
    side by side let somewhat more survive.
    """
    steps, quantile = config.trial.train.steps, 1 / config.asha.reduction_factor
    trials = min(config.num_samples, LARGEST_SIMULATED)
    sweeps = max(10, SIMULATED_TRIALS // trials)
    rng = np.random.default_rng(0)
    spent = 0
    for _ in range(sweeps):
        seen: list[list[float]] = [[] for _ in config.rungs]
        for quality in rng.random(trials).tolist():
            reached = steps
            for rung, losses in zip(config.rungs, seen, strict=True):
                survives = not losses or quality <= _quantile(losses, quantile)
                bisect.insort(losses, quality)
                if not survives:
                    reached = rung
                    break
            spent += reached
    return spent / (sweeps * trials * steps)


def _quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of ascending numbers, between two of them by a straight line."""
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


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
    from trainable.trainer import EVAL_BATCH_TOKENS, Trainer

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
