"""What an autoscaler is asked for: room for all the trials that a sweep may run at once."""

import contextlib
from collections.abc import Iterator

from sweep.config.parts import parts_of
from sweep.config.sweep import SweepConfig


def bundles(config: SweepConfig) -> list[dict[str, float]]:
    """Return what the trials that may run at once take, one bundle each, by Ray's names.

    Of trials that take unlike resources as many as the space has of each, and one at the least.
    """
    wanted = config.max_concurrent or config.num_samples
    asked = []
    for part in parts_of(config):
        takes = {"CPU": part.share.cpus, "GPU": part.share.gpus}
        bundle = {name: amount for name, amount in takes.items() if amount}
        asked += [bundle] * max(1, round(wanted * part.weight))
    return asked


@contextlib.contextmanager
def room_requested(config: SweepConfig) -> Iterator[None]:
    """Ask the autoscaler of a cluster, if it has one, for what the sweep needs meanwhile."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles(config))
    try:
        yield
    finally:
        request_resources(bundles=[])
