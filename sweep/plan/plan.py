"""The plan of a sweep, made before it runs: trials, sizes, rungs, time, disk."""

import itertools
from dataclasses import dataclass

from sweep.config.sweep import SweepConfig
from sweep.plan.noise import standard_error
from sweep.plan.share import expected_share
from trainable.config.trial import ModelConfig
from trainable.data.batches import TokenDataset, validation_starts
from trainable.model.counts import flops_per_token, parameter_count, training_bytes


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


def model_sizes(config: SweepConfig) -> list[ModelConfig]:
    """Return the distinct model sizes that the space can suggest (at most 4,096 are looked at)."""
    searched = {n: d.extremes() for n, d in config.space.items() if n.startswith("model.")}
    sizes: dict[str, ModelConfig] = {}
    for values in itertools.islice(itertools.product(*searched.values()), 4_096):
        model = config.trial.with_values(dict(zip(searched, values, strict=True))).model
        sizes[model.model_dump_json()] = model
    return list(sizes.values())
