"""How many trials run at once, and the refusal of what the machine does not have."""

import math
import os
from collections.abc import Collection
from pathlib import Path

from sweep.cluster.packing import Machine, Packing, at_most, most_that_fit, trials_that_fit
from sweep.config.parts import parts_of
from sweep.config.resources import Fits, Share
from sweep.config.sweep import SweepConfig
from trainable.common.errors import ConfigError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


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
    if any(part.share.gpus for part in parts_of(config)):
        import torch

        gpus = torch.cuda.device_count()
    return Machine(cpus, gpus)


def needed(config: SweepConfig, machine: Machine, concurrent: int) -> Machine:
    """Return what so many trials take: Ray starts a process for each CPU that it is given."""
    each = max(part.share.cpus for part in parts_of(config))
    return Machine(min(machine.cpus, math.ceil(concurrent * each)), machine.gpus)


def require_fits(config: SweepConfig, machine: Machine) -> None:
    """Refuse a sweep of which one trial alone asks for more than the machine has.

    Raises:
        ConfigError: Ray would wait for it for ever.
    """
    for part in parts_of(config):
        where = f"resources {part.condition!r}: " if part.condition else ""
        for kind, asked, there in (
            ("cpus", part.share.cpus, machine.cpus),
            ("gpus", part.share.gpus, machine.gpus),
        ):
            if asked > there:
                name = kind if part.condition else f"{kind}_per_trial"
                raise ConfigError(
                    f"{where}{name} {asked:g}: there are {there} {kind[:3].upper()}s; "
                    f"take at most {there}"
                )


class Room:
    """How many trials of a sweep run at once, and which.

    Args:
        config: the sweep.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._shares = list({part.share for part in parts_of(config)})

    def holds_one(self, machine: Machine) -> bool:
        """Say whether some trial fits on a machine."""
        return any(trials_that_fit(share, machine) for share in self._shares)

    def most(self, machines: Collection[Machine]) -> int:
        """Return how many trials run at once: those that fit on each machine, not into the sum."""
        if len(self._shares) == 1:
            return self.most_of(self._shares[0], machines)
        return self._at_once(sum(most_that_fit(self._shares, each) for each in machines))

    def most_of(self, share: Share, machines: Collection[Machine]) -> int:
        """Return how many trials run at once where all take the same."""
        return self._at_once(sum(trials_that_fit(share, each) for each in machines))

    def fits(self, machines: Collection[Machine]) -> Fits:
        """Return what says whether one more trial may begin."""
        if len(self._shares) == 1:
            return at_most(self.most(machines))
        return Packing(tuple(machines), self._config.max_concurrent)

    @property
    def is_uneven(self) -> bool:
        """Whether trials take unlike resources."""
        return len(self._shares) > 1

    def _at_once(self, fits: int) -> int:
        limit = self._config.max_concurrent or fits
        return max(1, min(fits, limit, self._config.num_samples))
