"""The plan of a sweep, made before it runs: trials, sizes, rungs, time, disk."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.config import SweepConfig
from trainable.choice import as_chosen, resolve
from trainable.config import ModelConfig
from trainable.counts import flops_per_token, parameter_count, training_bytes
from trainable.data import TokenDataset, validation_starts
from trainable.device import OUT_OF_MEMORY, require_out_of_memory

PROBE_STEPS = 3
SIMULATED_SWEEPS = 200


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
    share: float
    """Expected share of the steps that all trials in full would take, given the rungs."""
    seconds: float | None
    """Expected wall-clock time of the trials; None if the sizes could not be probed."""
    disk_bytes: int
    """Largest expected size of the kept checkpoints."""


def make_plan(
    config: SweepConfig, dataset: TokenDataset, concurrent: int, *, probe: bool = True
) -> Plan:
    """Return the plan; a probe of the smallest and the largest size takes a few seconds."""
    sizes = model_sizes(config)
    vocab = dataset.vocab_size
    sizes.sort(key=lambda size: parameter_count(size, vocab))
    flops = [
        config.trial.tokens_per_step * config.trial.train.steps * flops_per_token(size, vocab)
        for size in sizes
    ]
    share = expected_share(config)
    seconds = None
    if probe:
        per_trial = _expected_trial_seconds(config, dataset, sizes, flops, share)
        if per_trial is not None:
            seconds = per_trial * config.num_samples / concurrent
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
        share=share,
        seconds=seconds,
        disk_bytes=largest * kept,
    )


def settled(config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
    """Return `config` with precision, attention form and compilation chosen where left at auto.

    The largest size decides for all trials: losses in different precisions are not compared.

    Raises:
        ConfigError: the device is not there.
    """
    vocab = dataset.vocab_size
    largest = max(model_sizes(config), key=lambda size: parameter_count(size, vocab))
    values: dict[str, Any] = {f"model.{name}": v for name, v in largest.model_dump().items()}
    if config.trial.train.device == "auto" and not config.gpus_per_trial:
        values["train.device"] = "cpu"  # Ray hides the GPUs from such trials
    chosen = resolve(config.trial_config(values), dataset)
    trial = as_chosen(config.trial, chosen.train)
    return config.model_copy(update={"trial": trial})


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
    steps = config.trial.train.steps
    rng = np.random.default_rng(0)
    spent = 0
    for _ in range(SIMULATED_SWEEPS):
        seen: list[list[float]] = [[] for _ in config.rungs]
        for quality in rng.random(min(config.num_samples, 1_000)):
            reached = steps
            for rung, losses in zip(config.rungs, seen, strict=True):
                survives = not losses or quality <= np.quantile(
                    losses, 1 / config.asha.reduction_factor
                )
                losses.append(quality)
                if not survives:
                    reached = rung
                    break
            spent += reached
    return spent / (SIMULATED_SWEEPS * min(config.num_samples, 1_000) * steps)


def _expected_trial_seconds(
    config: SweepConfig,
    dataset: TokenDataset,
    sizes: list[ModelConfig],
    flops: list[int],
    share: float,
) -> float | None:
    """Return the mean seconds of a trial: the probed ends, and a line through FLOPs between.

    None if a size does not fit into memory.
    """
    train = config.trial.train
    evaluations = 1 + share * train.steps / train.eval_interval
    ends = []
    for size in (sizes[0], sizes[-1]):
        try:
            speed = probe_speed(config, dataset, size)
        except OUT_OF_MEMORY as error:
            require_out_of_memory(error)
            return None
        ends.append(share * train.steps * speed.step + evaluations * speed.evaluation)
    if flops[0] == flops[-1]:
        return ends[0]
    costs = np.interp(flops, [flops[0], flops[-1]], ends)
    return float(np.mean(costs))


def probe_speed(config: SweepConfig, dataset: TokenDataset, size: ModelConfig) -> Speed:
    """Measure a few steps and one evaluation of a size."""
    from trainable.trainer import Trainer

    values: dict[str, Any] = {f"model.{name}": v for name, v in size.model_dump().items()}
    trial = config.trial_config({**values, "train.compile": "never"})
    trainer = Trainer(trial, dataset)
    trainer.train_step(1)  # the first step pays for allocations
    started = time.perf_counter()
    for step in range(2, 2 + PROBE_STEPS):
        float(trainer.train_step(step)[0])  # waits for the device
    stepped = time.perf_counter()
    trainer.evaluate()
    return Speed((stepped - started) / PROBE_STEPS, time.perf_counter() - stepped)
