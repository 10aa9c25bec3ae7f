"""How many quasi-random probes a search by gp begins with: no model is needed to plan them."""

from sweep.config.sweep import SweepConfig

EACH = 2
"""Probes for each searched field and one more."""
MOST = 3 / 8
"""Share of the trials that may be probes."""


def probes_of(config: SweepConfig) -> int:
    """Return how many probes a sweep begins with, after its start points.

    None where it knows the trials of older sweeps.
    """
    if config.search.warm_start:
        return 0
    probes = EACH * (len(config.space) + 1)
    return min(probes, int(config.num_samples * MOST))
