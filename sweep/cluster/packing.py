"""Which trials fit side by side: by whole machines, a GPU's fraction on one GPU."""

import functools
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sweep.config.resources import Fits, Share

UNIT = 10_000
"""Ray counts in ten thousandths of a CPU or GPU."""


@dataclass(frozen=True)
class Machine:
    """Resources that trials may use."""

    cpus: int
    gpus: int


def trials_that_fit(share: Share, machine: Machine) -> int:
    """Return how many trials that take the same the resources of one machine hold side by side."""
    by_cpus = int(machine.cpus / share.cpus + 1e-9)
    gpus = share.gpus
    if not gpus:
        return by_cpus
    by_gpus = machine.gpus * int(1 / gpus + 1e-9) if gpus < 1 else machine.gpus // int(gpus)
    return min(by_cpus, by_gpus)


def most_that_fit(shares: Iterable[Share], machine: Machine) -> int:
    """Return how many trials fit at the most, whichever they are: about, the small ones first."""
    free = _Free(machine)
    return sum(free.take(share, trials_that_fit(share, machine)) for share in sorted(shares))


def at_most(count: int) -> Fits:
    """Return what lets so many trials run at once, whatever they take: where all take the same."""
    return lambda running, _: len(running) < count


@dataclass(frozen=True)
class Packing:
    """Says whether one more trial fits beside those that run, where they take unlike resources.

    Args:
        machines: the nodes, with what is not others'.
        most: how many trials may run at once; None: as many as fit.
    """

    machines: tuple[Machine, ...]
    most: int | None = None

    def __call__(self, running: Collection[Share], share: Share) -> bool:
        """Say whether there is room; where nothing runs a trial may always wait for it."""
        if not running:
            return True
        if self.most is not None and len(running) >= self.most:
            return False
        return _packed(self.machines, tuple(sorted((*running, share))))


@functools.lru_cache(maxsize=256)  # Tune asks at each of its steps, and little changes between
def _packed(machines: tuple[Machine, ...], shares: tuple[Share, ...]) -> bool:
    """Say whether trials fit together: the large ones first, each where the least is left.

    Where a trial was put is Ray's to decide. If it was not so well, the next waits in Ray's queue.
    """
    free = [_Free(machine) for machine in machines]
    counted = Counter(shares)
    for share in sorted(counted, key=lambda one: (one.gpus, one.cpus), reverse=True):
        left = counted[share]
        for machine in sorted(free, key=lambda one: (sum(one.gpus), one.cpus)):
            left -= machine.take(share, left)
        if left:
            return False
    return True


class _Free:
    """What a machine has left, in Ray's units: CPUs, and each GPU."""

    def __init__(self, machine: Machine) -> None:
        self.cpus = machine.cpus * UNIT
        self.gpus = [UNIT] * machine.gpus

    def take(self, share: Share, count: int) -> int:
        """Take in up to `count` trials; return how many it were."""
        for taken in range(count):
            if not self._take(round(share.cpus * UNIT), round(share.gpus * UNIT)):
                return taken
        return count

    def _take(self, cpus: int, gpus: int) -> bool:
        whole, part = divmod(gpus, UNIT)
        fitting = [i for i, free in enumerate(self.gpus) if free >= (part or UNIT)]
        if cpus > self.cpus or len(fitting) < (1 if part else whole):
            return False
        if part:
            self.gpus[fitting[0]] -= part
        for number in fitting[:whole]:
            self.gpus[number] = 0
        self.cpus -= cpus
        return True
