"""What a trial runs on: resources per trial, and refusing what the machine does not have."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from sweep.config.sweep import SweepConfig
from trainable.common.errors import ConfigError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Machine:
    """Resources that trials may use."""

    cpus: int
    gpus: int


def local_machine(config: SweepConfig) -> Machine:
    """Return this machine's cores, as the scheduler and a container's limit grant them, and GPUs.

    GPUs are counted only for a sweep that asks for them: it takes importing torch.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        if quota != "max":
            cpus = max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such limit here
    gpus = 0
    if config.gpus_per_trial:
        import torch

        gpus = torch.cuda.device_count()
    return Machine(cpus, gpus)


def needed(config: SweepConfig, machine: Machine, concurrent: int) -> Machine:
    """Return what so many trials take: Ray starts a process for each CPU that it is given."""
    return Machine(math.ceil(concurrent * config.cpus_per_trial), machine.gpus)


def concurrency(config: SweepConfig, machine: Machine) -> int:
    """Return how many trials run at once.

    Raises:
        ConfigError: one trial alone asks for more than there is; Ray would wait for ever.
    """
    if config.cpus_per_trial > machine.cpus:
        raise ConfigError(
            f"cpus_per_trial {config.cpus_per_trial:g}: there are {machine.cpus} CPUs; "
            f"take at most {machine.cpus}"
        )
    if config.gpus_per_trial > machine.gpus:
        raise ConfigError(
            f"gpus_per_trial {config.gpus_per_trial:g}: there are {machine.gpus} GPUs; "
            f"take at most {machine.gpus}"
        )
    return at_once(config, trials_that_fit(config, machine))


def at_once(config: SweepConfig, fits: int) -> int:
    """Return how many trials run at once where so many fit."""
    return max(1, min(fits, config.max_concurrent or fits, config.num_samples))


def trials_that_fit(config: SweepConfig, machine: Machine) -> int:
    """Return how many trials the resources of one machine hold side by side."""
    by_cpus = int(machine.cpus / config.cpus_per_trial + 1e-9)
    share = config.gpus_per_trial
    if not share:
        return by_cpus
    by_gpus = machine.gpus * int(1 / share + 1e-9) if share < 1 else machine.gpus // int(share)
    return min(by_cpus, by_gpus)
