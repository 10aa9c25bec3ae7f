"""The plan of a sweep, made before it runs: trials, sizes, rungs, time, disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweep.config.parts import Part
from sweep.config.sweep import SweepConfig
from sweep.plan.noise import standard_error
from sweep.plan.sizes import (
    hungriest_trial,
    on_own_device,
    size_count,
    trial_ends,
    trial_flops,
)
from sweep.plan.workload import Workload, expected_workload
from sweep.record.planned import PlannedCost
from trainable.config.trial import ModelConfig, TrialConfig
from trainable.data.batches import TokenDataset, validation_starts
from trainable.hardware.device import resolve_device
from trainable.hardware.memory import available_bytes, least_bytes, require_memory
from trainable.model.counts import parameter_count, training_bytes


@dataclass(frozen=True)
class End:
    """The smallest or the largest trial."""

    model: ModelConfig
    parameters: int
    steps: int
    tokens: int
    """Tokens of a full trial."""
    flops: int
    """Floating-point operations of a full trial."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do and what it will cost."""

    sizes: int
    """Number of model sizes that can be suggested."""
    smallest: End
    largest: End
    eval_windows: int
    """Fixed validation windows of one evaluation."""
    standard_error: float | None
    """Of a difference between two trials on those windows, in nats; None for one window."""
    workload: Workload
    """What is expected to be trained, given the search and early stopping; of several parts, that
    of the one whose memory is the scarcest."""
    steps: float
    """Expected steps of all trials together."""
    share: float
    """Of the steps that all of them in full would take."""
    disk_bytes: int
    """Largest expected size of the kept checkpoints."""
    memory_bytes: int
    """What the trial that takes the most memory takes at the least."""
    available_bytes: int
    """Memory that there is for trials, on their device."""
    parts: tuple["PlannedPart", ...] = ()
    """Trials by what they take, as `resources` have it; one part where all take the same."""

    def cost(self, seconds: float | None) -> PlannedCost:
        """Return what the record keeps of it, given the seconds that are expected."""
        return PlannedCost(
            seconds=seconds,
            steps=self.steps,
            disk_bytes=self.disk_bytes,
            standard_error=self.standard_error,
        )


@dataclass(frozen=True)
class PlannedPart:
    """The plan of the trials that take the same."""

    part: Part
    concurrent: int
    """How many of them run at once, alone."""
    plan: Plan

    @property
    def weight(self) -> float:
        """Share of the trials."""
        return self.part.weight


def whole_plan(config: SweepConfig, vocab_size: int, parts: Sequence[PlannedPart]) -> Plan:
    """Return the plan of a sweep, made of those of its parts, each made where its trials run."""
    if len(parts) == 1:
        return replace(parts[0].plan, parts=tuple(parts))
    plans = [part.plan for part in parts]
    smallest, largest = trial_ends(config, vocab_size)
    scarce = max(plans, key=lambda plan: plan.memory_bytes / plan.available_bytes)
    return replace(
        scarce,
        sizes=size_count(config),
        smallest=_end(smallest, vocab_size),
        largest=_end(largest, vocab_size),
        steps=sum(part.weight * part.plan.steps for part in parts),
        share=sum(part.weight * part.plan.share for part in parts),
        disk_bytes=max(plan.disk_bytes for plan in plans),
        parts=tuple(parts),
    )


def make_plan(config: SweepConfig, dataset: TokenDataset, concurrent: int) -> Plan:
    """Return the plan of trials that all take the same: what can be known without training.

    Raises:
        ConfigError: a trial of the space cannot fit into memory, or its device is not there.
    """
    vocab = dataset.vocab_size
    smallest, largest = trial_ends(config, vocab)
    hungriest = on_own_device(config, hungriest_trial(config, vocab))
    device = resolve_device(hungriest.train)
    available = available_bytes(device, min(1.0, config.gpus_per_trial or 1.0))
    needed = least_bytes(hungriest, vocab, copied=device.type == "cpu")
    require_memory(hungriest, vocab, needed, available)
    # Each running trial keeps up to three checkpoints, and a fourth while it is copied.
    kept = min(config.keep_checkpoints, config.num_samples) + 4 * concurrent
    length = config.trial.model.context_length
    windows = validation_starts(len(dataset.val.tokens), length, config.trial.train.eval_tokens)
    workload = expected_workload(config, vocab, concurrent)
    return Plan(
        sizes=size_count(config),
        smallest=_end(smallest, vocab),
        largest=_end(largest, vocab),
        eval_windows=len(windows),
        standard_error=standard_error(dataset, config.trial),
        workload=workload,
        steps=workload.steps,
        share=workload.share,
        disk_bytes=training_bytes(largest.model, vocab) * kept,
        memory_bytes=needed,
        available_bytes=available,
    )


def _end(trial: TrialConfig, vocab_size: int) -> End:
    return End(
        model=trial.model,
        parameters=parameter_count(trial.model, vocab_size),
        steps=trial.train.steps,
        tokens=trial.tokens_per_step * trial.train.steps,
        flops=trial_flops(trial, vocab_size),
    )
