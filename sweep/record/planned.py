"""What the plan of a sweep expected, as the record keeps it."""

from dataclasses import dataclass
from typing import Any

from sweep.record.values import finite, finite_or_none, of_kind


@dataclass(frozen=True)
class PlannedCost:
    """What the plan expected of all trials of the first session."""

    seconds: float | None
    """None: it was not known."""
    steps: float
    """Of all trials together, after early stopping."""
    disk_bytes: int
    """Largest expected size of the kept checkpoints."""
    standard_error: float | None
    """Of a difference of two losses on the validation windows, nats; None for one window."""


def planned(facts: dict[str, Any]) -> PlannedCost:
    """Return the cost that a record holds. Raises KeyError, TypeError, OverflowError if none."""
    return PlannedCost(
        seconds=finite_or_none(facts["seconds"]),
        steps=finite(facts["steps"]),
        disk_bytes=of_kind(int, facts["disk_bytes"]),
        standard_error=finite_or_none(facts["standard_error"]),
    )
