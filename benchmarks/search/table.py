"""A table of real learning curves: its file, and the world that the simulator makes of it.

A table is a file of JSON lines. The first says what was trained: the text, the trial, the searched
fields and their domains, the steps that losses stand for. Each further line is one trained trial:

    {"at": [64, 2, 0.003], "seed": 0, "loss": [5.81, ...], "seconds": 4.1, "flops": 956694528}

`at` has the values of the fields, `loss` nats per token on the fixed validation windows, `seconds`
the CPU time of all training steps and evaluations, `flops` those of a step.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
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
COMMON, OWN = 0.015, 0.01
"""What is taken for the deviation of a training seed in a size, and of each of its trials; nats."""
FREE = 30.0
"""Prior deviation of a parabola's coefficients: as good as free."""
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


@dataclass(frozen=True)
class Luck:
    """Real deviations of trials from what is expected of them."""

    common: Array
    """(n, steps), nats: what all trials of a training seed have in common within a size."""
    own: Array
    """(m, steps): what each has beside that."""


class Table:
    """Trained curves as a world: an expected curve everywhere, and real deviations from it.

    Within a size the expected loss at each step is a Gaussian process' mean along the logarithms of
    the other fields: a free parabola, smooth deviations from it and an offset of each training
    seed, so that curves at one place and its neighbours are averaged, and so are the seeds. Outside
    the trained values a field is clamped to the nearest one.

    Args:
        head: the file's first line.
        curves: its others.
        luck: what training seeds change; None: what they do in these curves.
    """

    def __init__(
        self, head: Mapping[str, Any], curves: list[Curve], luck: Luck | None = None
    ) -> None:
        self.head, self.curves = head, curves
        self.name: str = head["name"]
        self.fields: list[str] = head["fields"]
        self.steps: list[int] = head["steps"]
        self._sized = sum(name.startswith("model.") for name in self.fields)
        self._by_size: dict[Size, list[Curve]] = {}
        for curve in sorted(curves, key=lambda curve: curve.at[: self._sized]):
            self._by_size.setdefault(curve.at[: self._sized], []).append(curve)
        self._valleys = {size: _Valley(self._sized, own) for size, own in self._by_size.items()}
        self._luck = luck

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
        """Return the world of one size, where the other fields alone are searched.

        Its luck is the whole table's: that of one size is of three seeds.
        """
        fixed = {name: {"choice": [v]} for name, v in zip(self.fields, size, strict=False)}
        head = {**self.head, "space": {**self.head["space"], **fixed}}
        return Table(head, self._by_size[size], self.luck)

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
    def luck(self) -> Luck:
        """What training seeds change.

        Two seeds' losses at one place differ by nothing else, so their difference over the root of
        two is as far off as one of them. Its mean over the places of a size is what the two seeds'
        trials there have in common, less what is left of each one's own.
        """
        if self._luck is not None:
            return self._luck
        common, own, shares = [], [], []
        for curves in self._by_size.values():
            seeds: dict[int, dict[tuple[Any, ...], Array]] = {}
            for curve in curves:
                seeds.setdefault(curve.seed, {})[curve.at] = np.array(curve.loss)
            for one, other in combinations(seeds.values(), 2):
                pairs = [losses - other[at] for at, losses in one.items() if at in other]
                if len(pairs) > 1:
                    apart = np.array(pairs) / math.sqrt(2)
                    common.append(apart.mean(0))
                    own.extend((apart - apart.mean(0)) / math.sqrt(1 - 1 / len(pairs)))
                    shares.append(1 / len(pairs))
        whole, left = (float(np.square(rows).mean()) for rows in (common, own))
        share = max(0.0, 1 - float(np.mean(shares)) * left / max(whole, 1e-12))
        return Luck(math.sqrt(share) * np.array(common), np.array(own))

    def seconds_per_step(self, size: Size) -> float:
        """Return CPU seconds of a step, with its share of the evaluations: the curves' median."""
        return float(np.median([c.seconds for c in self._by_size[size]])) / self.steps[-1]

    def flops_per_step(self, size: Size) -> int:
        """Return the FLOPs of a step."""
        return self._by_size[size][0].flops


class _Valley:
    """The losses of one size along the other fields."""

    def __init__(self, sized: int, curves: list[Curve]) -> None:
        self.places = np.log(np.array([curve.at[sized:] for curve in curves], dtype=np.float64))
        """(n, free), natural logarithms."""
        self._middle = self.places.mean(0)
        losses = np.array([curve.loss for curve in curves])
        self._mean = losses.mean(0)
        seeds = np.array([curve.seed for curve in curves])
        luck = COMMON**2 * np.equal.outer(seeds, seeds) + OWN**2 * np.eye(len(seeds))
        covariance = self._kernel(self.places, self.places) + luck
        self._weights = np.linalg.solve(covariance, losses - self._mean)

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
