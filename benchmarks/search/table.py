"""A table of real learning curves: its file, and the smooth world that the simulator makes of it.

A table is a file of JSON lines. The first says what was trained: the text, the trial, the searched
fields and their domains, the steps that losses stand for. Each further line is one trained trial:

    {"at": [64, 2, 0.003], "seed": 0, "loss": [5.81, ...], "seconds": 4.1, "flops": 956694528}

`at` has the values of the fields, `loss` nats per token on the fixed validation windows, `seconds`
the CPU time of all training steps and evaluations, `flops` those of a step.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Size = tuple[Any, ...]
"""Values of the fields of the model, in the table's order."""

FOLDER = Path(__file__).with_name("tables")
AMPLITUDE, LENGTH = 0.3, 1.2
"""Of the deviations from a parabola along the logarithm of the rate: nats, e-folds."""
NOISE = 0.02
"""What is taken for one training seed's deviation, nats."""
FREE = 30.0
"""Prior deviation of a parabola's coefficients: as good as free."""
NEAR = np.log(4.0)
"""Rates so near to a size's best one count for the noise between trials."""
GRID = 161
"""Points along the rate where the least loss is looked for; of further fields, 41."""


@dataclass(frozen=True)
class Curve:
    """One trained trial."""

    at: tuple[Any, ...]
    """(fields,)"""
    seed: int
    loss: list[float]
    """(steps,), nats per token."""
    seconds: float
    """CPU seconds of its training steps and evaluations."""
    flops: int
    """Of a training step."""


class Table:
    """Trained curves as a world: an expected curve everywhere, and real deviations from it.

    Within a size the expected loss at each step is a Gaussian process' mean along the logarithms of
    the other fields: a free parabola and smooth deviations from it, so that curves at one place and
    its neighbours are averaged. Outside the trained values a field is clamped to the nearest one.

    Args:
        head: the file's first line.
        curves: its others.
    """

    def __init__(self, head: Mapping[str, Any], curves: list[Curve]) -> None:
        self.head, self.curves = head, curves
        self.name: str = head["name"]
        self.fields: list[str] = head["fields"]
        self.steps: list[int] = head["steps"]
        self._sized = sum(name.startswith("model.") for name in self.fields)
        self._valleys: dict[Size, _Valley] = {}
        for size in sorted({curve.at[: self._sized] for curve in curves}):
            own = [curve for curve in curves if curve.at[: self._sized] == size]
            self._valleys[size] = _Valley([c.at[self._sized :] for c in own], own)

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Read a table's file; a torn last line, of a trial that was being written, counts not."""
        head, *lines = path.read_text().splitlines()
        curves = []
        for number, line in enumerate(lines, start=1):
            try:
                facts = json.loads(line)
            except ValueError:
                if number == len(lines):
                    break
                raise
            curves.append(Curve(**{**facts, "at": tuple(facts["at"])}))
        return cls(json.loads(head), curves)

    def only(self, size: Size) -> "Table":
        """Return the world of one size, where the other fields alone are searched."""
        own = [curve for curve in self.curves if curve.at[: self._sized] == size]
        fixed = {name: {"choice": [v]} for name, v in zip(self.fields, size, strict=False)}
        return Table({**self.head, "space": {**self.head["space"], **fixed}}, own)

    @property
    def sizes(self) -> list[Size]:
        """The model sizes, ascending."""
        return list(self._valleys)

    @property
    def free(self) -> list[str]:
        """The fields beside the size's."""
        return self.fields[self._sized :]

    def split(self, params: Mapping[str, Any]) -> tuple[Size, tuple[float, ...]]:
        """Return the size and the other values of a trial's parameters."""
        values = tuple(params[name] for name in self.fields)
        return values[: self._sized], values[self._sized :]

    def expected(self, params: Mapping[str, Any]) -> Array:
        """Return the expected losses (steps,) of a trial."""
        size, free = self.split(params)
        return self._valleys[size].losses(np.log([free]))[0]

    def final(self, params: Mapping[str, Any]) -> float:
        """Return the true final loss: that of the expected curve."""
        return float(self.expected(params)[-1])

    def best(self, size: Size) -> tuple[tuple[float, ...], float]:
        """Return where in the other fields a size's true final loss is least, and that loss."""
        return self._best[size]

    @cached_property
    def least(self) -> float:
        """The least true final loss of the table."""
        return min(loss for _, loss in self._best.values())

    @cached_property
    def _best(self) -> dict[Size, tuple[tuple[float, ...], float]]:
        return {size: valley.best() for size, valley in self._valleys.items()}

    @cached_property
    def deviations(self) -> Array:
        """Deviations (n, steps) of trained curves from the expected ones, near each size's best.

        Each is lengthened by what the average takes of it, since it is part of that average.
        """
        rows = []
        for size, valley in self._valleys.items():
            away = np.abs(valley.places[:, 0] - np.log(self.best(size)[0][0]))
            rows.append(valley.deviations[away <= NEAR])
        return np.concatenate(rows)

    def seconds_per_step(self, size: Size) -> float:
        """Return CPU seconds of a step, with its share of the evaluations: the curves' median."""
        own = [c.seconds for c in self.curves if c.at[: self._sized] == size]
        return float(np.median(own)) / self.steps[-1]

    def flops_per_step(self, size: Size) -> int:
        """Return the FLOPs of a step."""
        return next(c.flops for c in self.curves if c.at[: self._sized] == size)


class _Valley:
    """The losses of one size along the other fields."""

    def __init__(self, values: list[tuple[float, ...]], curves: list[Curve]) -> None:
        self.places = np.log(np.array(values, dtype=np.float64))
        """(n, free), natural logarithms."""
        self._middle = self.places.mean(0)
        losses = np.array([curve.loss for curve in curves])
        self._mean = losses.mean(0)
        covariance = self._kernel(self.places, self.places)
        gain = np.linalg.inv(covariance + NOISE**2 * np.eye(len(covariance)))
        self._weights = gain @ (losses - self._mean)
        residual = NOISE**2 * self._weights
        # A residual's deviation is the noise's times the root of one minus its leverage.
        leverage = np.diag(covariance @ gain)
        self.deviations: Array = residual / np.sqrt(1 - leverage)[:, None]

    def losses(self, places: Array) -> Array:
        """Return the expected losses (m, steps) at places (m, free), clamped to those trained."""
        within = np.clip(places, self.places.min(0), self.places.max(0))
        found: Array = self._mean + self._kernel(within, self.places) @ self._weights
        return found

    def best(self) -> tuple[tuple[float, ...], float]:
        low, high = self.places.min(0), self.places.max(0)
        axes = [np.linspace(low[n], high[n], 41 if n else GRID) for n in range(len(low))]
        places = np.array(list(product(*axes)))
        losses = self.losses(places)[:, -1]
        at = int(losses.argmin())
        return tuple(map(float, np.exp(places[at]))), float(losses[at])

    def _kernel(self, x: Array, y: Array) -> Array:
        x, y = x - self._middle, y - self._middle
        squares = ((x[:, None, :] - y[None, :, :]) ** 2).sum(2)
        parabola: Array = (1 + x @ y.T) ** 2
        smooth: Array = np.exp(-0.5 * squares / LENGTH**2)
        return FREE**2 * parabola + AMPLITUDE**2 * smooth


def load(name: str) -> Table:
    """Return a table of the benchmark, e.g. kjv; of one of its sizes, kjv:192x4."""
    stem, _, size = name.partition(":")
    table = Table.read(FOLDER / f"{stem}.jsonl")
    return table.only(tuple(map(int, size.split("x")))) if size else table


def names() -> Iterator[str]:
    """Yield the names of the benchmark's tables."""
    yield from sorted(path.stem for path in FOLDER.glob("*.jsonl"))
