"""The final loss over the searched fields, fitted to all learning curves of a sweep."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.analysis.axes import Axis, axes_of, input_axes, inputs_of, point_at
from sweep.analysis.curves import FEW, evaluations_of, rows_from
from sweep.analysis.gaussian_process import Array, Rows, fit
from sweep.common.blas import on_one_thread
from sweep.config.space import RATE
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord

MAX_ROWS = 600
"""Beyond these, trials that came least far are left out: a fit costs the cube of its rows."""
GRID = 101
"""Points along the rate."""
CANDIDATES = 256
"""Points in the other free fields, where there are any."""
DRAWS = 400
CAUTION = 1.0
"""Deviations of an expected loss that are added to it where the best settings are named: those that
nothing was trained near may be expected to be good, and turn out not to be."""
AS_EXPECTED = 2
"""Final losses that are taken for as far off as expected, before any is seen."""
COARSE_GRID = 41
"""Points along the rate where many sizes are drawn together."""


@dataclass(frozen=True)
class Estimate:
    """The best values of the free fields, some being given."""

    params: dict[str, Any]
    """Every searched field."""
    loss: float | None
    """Expected final loss of a trial there, nats per token; None if no trial came to its end."""
    deviation: float
    """Standard deviation of such a trial's loss, nats."""
    rates: tuple[float, float] | None
    """Interval that holds the best rate with 80 %, the other fields as in `params`."""
    near: tuple[float, float] | None
    """The same up to halfway to the next rates that were looked at."""


@dataclass(frozen=True)
class Valley:
    """The expected final loss along the learning rate, all other fields given."""

    rates: list[float]
    """(n,), ascending."""
    loss: Array
    """(n,), nats per token."""


class Surface:
    """The final loss as a function of the searched fields (see gaussian_process.py).

    Args:
        config: the sweep.
        trials: its own. Those that diverged, failed or ran out of memory are left out: their losses
            are no numbers.
        older: those of the sweeps that it starts from.
    """

    @on_one_thread
    def __init__(
        self,
        config: SweepConfig,
        trials: Sequence[TrialRecord],
        older: Sequence[TrialRecord] = (),
    ) -> None:
        self._axes = axes_of(config.space)
        self._input_axes = input_axes(config, older)
        known = [*trials, *(trial for trial in older if trial.is_comparable)]

        def full_steps(trial: TrialRecord) -> int:
            return config.full_steps(trial.params)

        self._ended = any(trial.step == full_steps(trial) for trial in known)
        self._process = fit(rows_of(self._input_axes, full_steps, known, MAX_ROWS))
        self._wider = _wider(self._process.left_out())
        self.training_noise = self._wider * self._process.training_noise
        """Standard deviation of one trial's loss from what is expected of its settings, nats."""

    @on_one_thread
    def best(self, fixed: Mapping[str, Any]) -> Estimate:
        """Return where the final loss is best known to be low, given some fields.

        That is where its expectation plus CAUTION of its deviations is least, among the rates that
        may well be the best one.

        Args:
            fixed: values of searched fields, by dotted name.
        """
        free = [axis for axis in self._axes if axis.name not in fixed]
        points = [dict(fixed) | point for point in _points(free)]
        mean, covariance = self._final(points)
        rates = near = None
        rate = self._axes[0]
        if rate.name == RATE and rate in free:
            if len(free) > 1:  # else the points are those along the rate
                best = points[int(_cautious(mean, covariance).argmin())]
                points = self._along_rate(best, GRID)
                mean, covariance = self._final(points)
            rates, near = _interval([point[RATE] for point in points], mean, covariance)
        cautious = _cautious(mean, covariance)
        if rates is not None:
            inside = [rates[0] <= point[RATE] <= rates[1] for point in points]
            cautious = np.where(inside, cautious, np.inf)
        at = int(cautious.argmin())
        variance = max(float(covariance[at, at]), 0.0) + self.training_noise**2
        loss = float(mean[at]) if self._ended else None
        return Estimate(points[at], loss, math.sqrt(variance), rates, near)

    @on_one_thread
    def valley(self, place: Mapping[str, Any]) -> Valley | None:
        """Return the final loss along the rate; None where no trial came to its end.

        Args:
            place: every searched field; its rate does not matter.
        """
        if not self._ended:
            return None
        points = self._along_rate(place, GRID)
        return Valley([point[RATE] for point in points], self.expected(points))

    @on_one_thread
    def expected(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """Return the expected final losses (n,) at n points, each with every searched field.

        Their differences hold even while no trial has come to its end.
        """
        return self._process.final_mean(self._inputs(points))

    @on_one_thread
    def expected_at(self, inputs: Array) -> Array:
        """Return what `expected` returns, at inputs (n, d) as inputs_of has them."""
        return self._process.final_mean(inputs)

    def points(self, number: int) -> list[dict[str, Any]]:
        """Return random points of the space, each field evenly spread (Latin hypercube)."""
        orders = np.tile(np.arange(number), (len(self._axes), 1))
        shares = (np.random.default_rng(0).permuted(orders, axis=1) + 0.5) / number
        return [point_at(self._axes, column) for column in shares.T]

    def spread(self, field: str, number: int) -> list[Any]:
        """Return the middles of equal parts of a searched field's domain; of a choice, all."""
        (axis,) = [axis for axis in self._axes if axis.name == field]
        choices = axis.few(number)
        return choices or [axis.value((part + 0.5) / number) for part in range(number)]

    @on_one_thread
    def best_rates(self, places: Sequence[Mapping[str, Any]]) -> Array:
        """Return joint posterior draws (DRAWS, n) of the best rate at n places.

        Args:
            places: every searched field; their rates do not matter.
        """
        along = [self._along_rate(place, COARSE_GRID) for place in places]
        points = [point for line in along for point in line]
        draws = _drawn(*self._final(points))
        lowest = draws.reshape(len(draws), len(places), -1).argmin(axis=2)
        rates = np.array([point[RATE] for point in along[0]], dtype=np.float64)
        chosen: Array = rates[lowest]
        return chosen

    def _final(self, points: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return mean (n,) and covariance (n, n) of the noiseless final loss at n points."""
        mean, covariance = self._process.final(self._inputs(points))
        return mean, self._wider**2 * covariance

    def _along_rate(self, place: Mapping[str, Any], points: int) -> list[dict[str, Any]]:
        return [dict(place) | {RATE: value} for value in self._axes[0].grid(points)]

    def _inputs(self, points: Sequence[Mapping[str, Any]]) -> Array:
        return inputs_of(self._input_axes, points)


def rows_of(
    axes: Sequence[Axis],
    full_steps: Callable[[TrialRecord], int],
    trials: Sequence[TrialRecord],
    most: int,
) -> Rows:
    """Return the evaluations that count, at most so many: those of the trials that came furthest.

    Each model size has its turn, or a size whose trials were all stopped would have none. Those of
    older sweeps have the room that the others leave.

    Args:
        axes: the inputs.
        full_steps: steps of a trial in full.
        trials: whose losses count.
        most: rows at most.
    """
    ordered = _in_turn(trials, [axis.name for axis in axes if axis.name.startswith("model.")])
    told = [one for trial in ordered for one in evaluations_of(trial, FEW)][:most]
    return rows_from(told, inputs_of(axes, [trial.params for trial, _ in told]), full_steps)


def _in_turn(trials: Sequence[TrialRecord], size_fields: Sequence[str]) -> list[TrialRecord]:
    """Return a sweep's own trials first, of each size the one that came furthest, and so on."""
    placed, of_size = [], Counter[Any]()
    for trial in sorted(trials, key=lambda t: (-t.step, t.sweep or "", t.number)):
        size = (trial.sweep, *(trial.params.get(name) for name in size_fields))
        placed.append((trial.sweep is not None, of_size[size], trial))
        of_size[size] += 1
    return [trial for *_, trial in sorted(placed, key=lambda place: place[:2])]


def fit_surface(config: SweepConfig, record: SweepRecord) -> Surface | None:
    """Return the surface of a sweep; None if nothing was trained whose loss counts."""
    trials = [t for t in record.trials.values() if t.is_comparable and t.step > 0]
    return Surface(config, trials, record.older) if trials else None


def _points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield values of free fields: a grid for one, random points for more."""
    if not axes:
        yield {}
    elif len(axes) == 1:
        yield from ({axes[0].name: value} for value in axes[0].grid(GRID))
    else:
        for shares in np.random.default_rng(0).random((CANDIDATES, len(axes))):
            yield point_at(axes, shares)


def _wider(errors: Array) -> float:
    """Return what all deviations are multiplied by, given those of the fit's own final losses.

    The fit takes the noise for the same at all steps and settings, and learns most of it from the
    early steps, of which there are many. Where it grows to the end, final losses lie further from
    what is expected than the fit says. They never make it narrower: trials come to their ends
    since they did as expected.
    """
    squares = float(errors @ errors)
    return max(1.0, math.sqrt((AS_EXPECTED + squares) / (AS_EXPECTED + len(errors))))


def _interval(
    rates: list[float], mean: Array, covariance: Array
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the 10 % and 90 % quantiles of the best rate over draws of the loss along it.

    And the same up to halfway, logarithmically, to their neighbours among the rates.
    """
    lowest = _drawn(mean, covariance).argmin(axis=1)
    low, high = map(round, np.quantile(lowest, [0.1, 0.9]))
    below, above = rates[max(low - 1, 0)], rates[min(high + 1, len(rates) - 1)]
    near = math.sqrt(below * rates[low]), math.sqrt(rates[high] * above)
    return (rates[low], rates[high]), near


def _cautious(mean: Array, covariance: Array) -> Array:
    cautious: Array = mean + CAUTION * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return cautious


def _drawn(mean: Array, covariance: Array) -> Array:
    """Return joint draws (DRAWS, n) of the loss at n points."""
    jitter = 1e-8 * np.eye(len(mean))
    noise = np.random.default_rng(0).standard_normal((DRAWS, len(mean)))
    draws: Array = mean + noise @ np.linalg.cholesky(covariance + jitter).T
    return draws
