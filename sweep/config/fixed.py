"""Fields of the trial that are fixed by hand, and so no longer searched."""

from typing import Any


def without_fixed(values: dict[str, Any], fixed: set[str]) -> dict[str, Any]:
    """Take fields, e.g. "optim.lr", out of the space and the start points of a sweep's settings."""
    if isinstance(values.get("space"), dict):
        values["space"] = {n: d for n, d in values["space"].items() if n not in fixed}
    points = values.get("start_points")
    if isinstance(points, list) and fixed:
        values["start_points"] = [
            {n: v for n, v in point.items() if n not in fixed} if isinstance(point, dict) else point
            for point in points
        ]
    return values
