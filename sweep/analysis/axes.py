"""The searched fields as inputs of the fit: each value as numbers in [0, 1], and back.

A number outside of the space, of an older sweep, lies outside of [0, 1].
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweep.analysis.gaussian_process import Array
from sweep.config.space import RATE, Domain, value_of
from sweep.config.sweep import SweepConfig
from sweep.record.results import TrialRecord


class Axis:
    """One searched field as inputs of the process.

    Args:
        name: the field's, dotted.
        domain: its values.
        fixed: the value of points that do not name the field; None: all do.
    """

    def __init__(self, name: str, domain: Domain, fixed: Any = None) -> None:
        self.name, self.fixed, self._domain = name, fixed, domain
        values = domain.values
        self._is_number = all(isinstance(v, int | float) for v in values)
        low, high = (min(values), max(values)) if self._is_number else (0.0, 1.0)
        self._is_log = self._is_number and not domain.uniform and low > 0
        self._low: float = math.log(low) if self._is_log else low
        self._high: float = math.log(high) if self._is_log else high

    def inputs(self, value: Any) -> list[float]:
        """Return a value in [0, 1], logarithmically where that is its kind; a word as one of n."""
        if not self._is_number:
            return [float(value == choice) for choice in self._domain.values]
        width = self._high - self._low
        return [((math.log(value) if self._is_log else value) - self._low) / width if width else 0]

    def value(self, share: float) -> Any:
        """Return the value at a share, in [0, 1), of the domain."""
        if self._domain.choice is not None:
            return self._domain.choice[int(share * len(self._domain.choice))]
        value = self._low + share * (self._high - self._low)
        value = math.exp(value) if self._is_log else value
        low, high = self._domain.values
        value = min(max(value, low), high)  # a logarithm and back may end just outside
        return round(value) if self._domain.integers else value

    def grid(self, points: int) -> list[Any]:
        """Return values from one end of the domain to the other, or the choices."""
        if self._domain.choice is not None:
            return sorted(self._domain.choice)
        return [self.value(share) for share in np.linspace(0.0, 1.0, points)]

    def few(self, most: int) -> list[Any] | None:
        """Return all values, ascending, if there are at most so many."""
        if self._domain.choice is not None:
            values = self._domain.choice
        elif self._domain.integers is not None:
            low, high = self._domain.integers
            values = list(range(low, min(high, low + most) + 1))
        else:
            return None
        return values if len(values) <= most else None


def axes_of(space: Mapping[str, Domain]) -> list[Axis]:
    """Return the searched fields, the rate first."""
    return [Axis(name, space[name]) for name in sorted(space, key=lambda name: name != RATE)]


def input_axes(config: SweepConfig, older: Sequence[TrialRecord]) -> list[Axis]:
    """Return the searched fields, and those that older sweeps searched and this one fixes.

    The rate comes first. Points of this sweep need not name what it fixes.
    """
    known: dict[str, list[Any]] = {}
    for trial in older:
        for name, value in trial.params.items():
            if name not in config.space and value not in known.setdefault(name, []):
                known[name].append(value)
    axes = axes_of(config.space)
    for name, values in known.items():
        fixed = value_of(config.trial, name)
        axes.append(Axis(name, Domain(choice=sorted({*values, fixed})), fixed))
    return sorted(axes, key=lambda axis: axis.name != RATE)


def inputs_of(axes: Sequence[Axis], points: Sequence[Mapping[str, Any]]) -> Array:
    """Return the inputs (n, d) of n points, each with every field that is not fixed."""
    return np.array(
        [[x for axis in axes for x in axis.inputs(_value(axis, point))] for point in points]
    )


def _value(axis: Axis, point: Mapping[str, Any]) -> Any:
    return point[axis.name] if axis.fixed is None else point.get(axis.name, axis.fixed)


def point_at(axes: Sequence[Axis], shares: Array) -> dict[str, Any]:
    """Return the values at shares (d,), in [0, 1), of the domains."""
    return {axis.name: axis.value(x) for axis, x in zip(axes, shares, strict=True)}
