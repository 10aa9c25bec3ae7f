"""A Gaussian process over learning curves: what a sweep's trials say of any configuration's end.

A row is one evaluation of a trial with inputs x at step s of S; with t = ln(S / s),

    loss = level(s) + f(x) + g(x, t) + sweep's offset + trial's noise + row's noise
    f ~ a^2 SE(x, x'),   g ~ b^2 SE(x, x') min(t, t')

SE is the squared exponential with one length an input. g is a Brownian path that leads back from
the end, where it is zero: the later an evaluation, the more it says of the end. Levels are free: no
two losses of unlike steps are compared. The offset of this sweep is 0; each older one that it
starts from has its own. The first input is the rate; its axis is sheared by learnt tilts along the
others, since the best rate moves with the size (Yang et al. 2022). Rasmussen and Williams 2006,
chapters 2 and 5; hyperparameters are those of the highest posterior.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Array = npt.NDArray[np.float64]

LEVEL_DEVIATION = 3.0
"""Prior deviation of a step's level around the mean loss, nats: as good as free."""
OFFSET_DEVIATION = 0.05
"""Prior deviation of an older sweep's losses from this one's, nats: other seeds, other code."""
SEARCH_STEPS = (0.7, 0.4, 0.25, 0.15, 0.1)
"""Step lengths of the coordinate search, in units of the priors' deviations."""


@dataclass(frozen=True)
class Rows:
    """Evaluations as numbers; n rows of d inputs."""

    inputs: Array
    """(n, d), each in [0, 1] over the space; the rate, where there is one, comes first."""
    backwards: Array
    """(n,), t = ln(S / s)."""
    trial: npt.NDArray[np.int64]
    """(n,), which trial a row is of."""
    loss: Array
    """(n,), nats per token."""
    sweep: npt.NDArray[np.int64]
    """(n,), which sweep a row is of: 0 this one, 1 and so on older ones."""


@dataclass(frozen=True)
class Scales:
    """Hyperparameters, as a point in the coordinates of their priors, all N(0, 1)."""

    point: Array
    """(4 + d + d - 1,): logs of a, b, both noises and the lengths over their medians; tilts."""

    MEDIANS = np.array([0.4, 0.15, 0.01, 0.01])
    """Medians of a, b, the trial's and the row's noise, nats.

    A sweep trains all its trials with one seed: what that changes for a whole size is no noise of
    a trial. Beside it the ends of trials differ by .007 to .011 (benchmarks/README.md, search).
    """
    LENGTH = 0.6
    """Median of a length, in widths of the space."""

    @classmethod
    def prior(cls, dimensions: int) -> "Scales":
        """Return the priors' medians for `dimensions` inputs, without tilt."""
        return cls(np.zeros(4 + 2 * dimensions - 1))

    def parts(self, dimensions: int) -> tuple[Array, Array, Array]:
        """Return a, b and the noises (4,), the lengths (d,) and the tilts (d - 1,)."""
        sizes = self.MEDIANS * np.exp(self.point[:4])
        lengths = self.LENGTH * np.exp(0.5 * self.point[4 : 4 + dimensions])
        return sizes, lengths, 0.5 * self.point[4 + dimensions :]


class GaussianProcess:
    """The posterior, given rows and hyperparameters.

    Args:
        rows: at least one evaluation.
        scales: hyperparameters, e.g. of `fit`.
    """

    def __init__(self, rows: Rows, scales: Scales) -> None:
        self._rows, self.scales = rows, scales
        self._sizes, self._lengths, self._tilts = scales.parts(rows.inputs.shape[1])
        self._warped = self._warp(rows.inputs)
        (a, b, trial, row), t = self._sizes, rows.backwards
        shape = _squared_exponential(self._warped, self._warped)
        covariance = shape * (a**2 + b**2 * np.minimum.outer(t, t))
        covariance += LEVEL_DEVIATION**2 * np.equal.outer(t, t)
        covariance += trial**2 * np.equal.outer(rows.trial, rows.trial)
        older = np.where(rows.sweep == 0, np.nan, rows.sweep)  # nothing equals nan
        covariance += OFFSET_DEVIATION**2 * np.equal.outer(older, older)
        covariance[np.diag_indices_from(covariance)] += row**2
        self._mean = float(rows.loss.mean())
        self._factor = cho_factor(covariance, lower=True)
        self._weights: Array = cho_solve(self._factor, rows.loss - self._mean)

    @property
    def log_posterior(self) -> float:
        """Log density of the losses and of the hyperparameters, up to a constant."""
        misfit = (self._rows.loss - self._mean) @ self._weights / 2
        volume = np.log(np.diag(self._factor[0])).sum()
        return float(-misfit - volume - self.scales.point @ self.scales.point / 2)

    def final(self, inputs: Array) -> tuple[Array, Array]:
        """Return mean (m,) and covariance (m, m) of the noiseless final loss at inputs (m, d)."""
        warped, across = self._warp(inputs), self._across(inputs)
        own = self._sizes[0] ** 2 * _squared_exponential(warped, warped) + LEVEL_DEVIATION**2
        mean = self._mean + across @ self._weights
        known = solve_triangular(self._factor[0], across.T, lower=True)
        return mean, own - known.T @ known

    def final_mean(self, inputs: Array) -> Array:
        """Return the mean (m,) that `final` returns, for any number of inputs (m, d)."""
        mean: Array = self._mean + self._across(inputs) @ self._weights
        return mean

    def left_out(self) -> Array:
        """Return the errors (m,) of the m final losses, each in its expected deviations.

        Each is predicted by the rows of the other trials alone (Rasmussen and Williams 2006,
        section 5.4.2, by trials in place of rows). Without a misfit they are N(0, 1).
        """
        inverse = cho_solve(self._factor, np.eye(len(self._weights)))
        errors = []
        for trial in np.unique(self._rows.trial[self._rows.backwards == 0]):
            own = np.flatnonzero(self._rows.trial == trial)
            covariance = np.linalg.inv(inverse[np.ix_(own, own)])
            (last,) = np.flatnonzero(self._rows.backwards[own] == 0)
            errors.append((covariance @ self._weights[own])[last] / covariance[last, last] ** 0.5)
        return np.array(errors)

    @property
    def training_noise(self) -> float:
        """Deviation of one trained trial's loss from the noiseless one, nats."""
        return float(np.hypot(self._sizes[2], self._sizes[3]))

    def _across(self, inputs: Array) -> Array:
        """Return the covariance (m, n) of final losses at inputs (m, d) with the rows' losses."""
        across = self._sizes[0] ** 2 * _squared_exponential(self._warp(inputs), self._warped)
        known: Array = across + LEVEL_DEVIATION**2 * (self._rows.backwards == 0)
        return known

    def _warp(self, inputs: Array) -> Array:
        warped = inputs.copy()
        warped[:, 0] -= inputs[:, 1:] @ self._tilts
        return warped / self._lengths


def fit(rows: Rows) -> GaussianProcess:
    """Return the process with the hyperparameters that a coordinate search finds the likeliest.

    The last one is kept: at a sweep's end its summary, its report and MLflow ask for the same.
    """
    parts = (rows.inputs, rows.backwards, rows.trial, rows.loss, rows.sweep)
    asked = b"".join(part.tobytes() for part in parts)
    found = _LAST.get(asked)
    if found is None:
        found = searched(rows, Scales.prior(rows.inputs.shape[1]), SEARCH_STEPS)
        _LAST.clear()
        _LAST[asked] = found
    return found


_LAST: dict[bytes, GaussianProcess] = {}
"""The last process that was fitted, by the bytes of its rows."""


def searched(rows: Rows, start: Scales, steps: Sequence[float]) -> GaussianProcess:
    """Return the likeliest process that a coordinate search finds.

    Args:
        rows: at least one evaluation.
        start: where it begins.
        steps: its step lengths, one after another, in units of the priors' deviations.
    """
    point = start.point
    best = GaussianProcess(rows, Scales(point))
    for step in steps:
        for axis in range(len(point)):
            for move in (step, -step):
                moved = point.copy()
                moved[axis] += move
                tried = GaussianProcess(rows, Scales(moved))
                if tried.log_posterior > best.log_posterior:
                    point, best = moved, tried
                    break
    return best


def _squared_exponential(x: Array, y: Array) -> Array:
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    shape: Array = np.exp(-0.5 * np.maximum(squares, 0.0))
    return shape
