"""A sweep that another process ordered: what run.py was told, as JSON."""

from typing import Any

from sweep.conduct.detach import Begun
from sweep.config.sweep import SweepConfig

Order = dict[str, Any]
"""Settings, name of a sweep to go on with or None, and options of start_sweep, all JSON values."""


def order_of(
    config: SweepConfig, resume: str | None, *, verify_data: bool, ray_address: str | None
) -> Order:
    """Return the order of a sweep with such settings, or of going on with one."""
    return {
        "config": config.model_dump(by_alias=True, mode="json"),
        "resume": resume,
        "options": {"verify_data": verify_data, "ray_address": ray_address},
    }


def run_ordered(order: Order, begun: Begun) -> int:
    """Run the sweep of an order; return the exit status.

    Raises:
        UserError: as start_sweep and resume_sweep.
    """
    config, options = SweepConfig.model_validate(order["config"]), order["options"]
    if order["resume"] is None:
        from sweep.conduct.start import start_sweep

        return start_sweep(config, **options, begun=begun)
    from sweep.conduct.resume import resume_sweep
    from sweep.record.folder import find_sweep, read_sweep

    folder = find_sweep(order["resume"])
    return resume_sweep(folder, read_sweep(folder), config, **options, begun=begun)
