"""The points that a model-based search chooses among: a fixed set, and some around the best."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from sweep.analysis.axes import Axis, inputs_of, point_at
from sweep.analysis.gaussian_process import Array
from sweep.analysis.sizes import size_fields
from sweep.config.sweep import SweepConfig

MOST_SIZES = 24
"""Sizes that are looked at, of more an even choice."""
POINTS = 480
"""Points of the fixed set, about."""
LEAST_OF_A_SIZE = 16


class Candidates:
    """Points of the space with their inputs, grouped by size.

    Args:
        config: the sweep.
        axes: the searched fields.
        inputs: the axes of the points' inputs.
    """

    def __init__(self, config: SweepConfig, axes: Sequence[Axis], inputs: Sequence[Axis]) -> None:
        seed = config.seed
        sizes, others = size_fields(config)
        self._size_names = sizes if others else []
        by_name = {axis.name: axis for axis in axes}
        chosen = self._sizes([by_name[name] for name in self._size_names], seed)
        free = [axis for axis in axes if axis.name not in self._size_names]
        each = max(LEAST_OF_A_SIZE, POINTS // len(chosen))
        self._smooth = [axis for axis in free if axis.few(each) is None]
        self._gap = each ** (-1 / max(1, len(free)))
        """Between neighbours, as a share of an axis."""
        self.points: list[dict[str, Any]] = []
        of_size: list[int] = []
        for place, size in enumerate(chosen):
            for point in _spread(free, each, seed + place):
                self.points.append({**size, **point})
                of_size.append(place)
        self.sizes: list[tuple[Any, ...]] = [tuple(size.values()) for size in chosen]
        self.inputs: Array = inputs_of(inputs, self.points)
        self.size = np.array(of_size, dtype=np.int64)
        """Which size each point is of."""

    def near(self, point: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return a point moved by up to half a gap: the same again would be the same bits."""
        moved = dict(point)
        for axis in self._smooth:
            (share,) = axis.inputs(point[axis.name])
            share += self._gap * rng.uniform(-0.5, 0.5)
            moved[axis.name] = axis.value(min(max(share, 0.0), 1.0))
        return moved

    def size_of(self, params: Mapping[str, Any]) -> int | None:
        """Return which size a configuration is of; None: none of those looked at."""
        own = tuple(params[name] for name in self._size_names)
        return self.sizes.index(own) if own in self.sizes else None

    def _sizes(self, axes: Sequence[Axis], seed: int) -> list[dict[str, Any]]:
        if not axes:
            return [{}]
        values = [axis.few(64) for axis in axes]
        if all(v is not None for v in values):
            combined = list(itertools.product(*(v for v in values if v is not None)))
            if len(combined) > MOST_SIZES:
                even = np.linspace(0, len(combined) - 1, MOST_SIZES).astype(int)
                combined = [combined[n] for n in even]
            return [dict(zip([a.name for a in axes], one, strict=True)) for one in combined]
        return [point_at(axes, shares) for shares in sobol(len(axes), MOST_SIZES, seed)]


def sobol(dimensions: int, number: int, seed: int) -> Array:
    """Return the first points (number, dimensions) of a scrambled Sobol sequence, in [0, 1)."""
    engine = qmc.Sobol(dimensions, rng=np.random.default_rng(seed))
    points: Array = engine.random_base2(math.ceil(math.log2(max(number, 1))))[:number]
    return np.minimum(points, 1 - 1e-9)


def _spread(axes: Sequence[Axis], number: int, seed: int) -> list[dict[str, Any]]:
    if not axes:
        return [{}]
    if len(axes) == 1:
        return [{axes[0].name: value} for value in axes[0].grid(number)]
    return [point_at(axes, shares) for shares in sobol(len(axes), number, seed)]
