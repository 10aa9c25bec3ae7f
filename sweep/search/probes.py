"""How a search by gp begins, before it has a model: start points and quasi-random probes."""

from collections.abc import Sequence

from sweep.config.sweep import SweepConfig
from sweep.record.results import TrialRecord

EACH = 2
"""Probes for each searched field and one more."""
MOST = 3 / 8
"""Share of the trials that may be probes."""


def trains_first_in_full(config: SweepConfig, older: Sequence[TrialRecord]) -> bool:
    """Say whether the first trial, a start point, is trained to its end whatever its losses.

    Not where trials of older sweeps tell of ends already.
    """
    return bool(config.start_points) and not older


def probes_of(config: SweepConfig) -> int:
    """Return how many probes a sweep begins with, after its start points.

    None where it knows the trials of older sweeps.
    """
    if config.search.warm_start:
        return 0
    searched = sum(not domain.is_fixed for domain in config.space.values())
    probes = EACH * (searched + 1)
    return min(probes, int(config.num_samples * MOST))
