"""The best learning rate as a power law of a model's size, with what is not known of it.

    ln rate = level + slopes . ln x + residual

Each posterior draw of the sizes' best rates has a law of its own, so that slopes and predictions
come as distributions. Rates that go as a power of the width are what Yang et al. 2022 expect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.analysis.gaussian_process import Array

Band = tuple[float, float, float]
"""The 10 %, 50 % and 90 % quantiles of a number."""


@dataclass(frozen=True)
class PowerLaw:
    """Laws through joint draws of the best rates of n sizes, each of k numbers above 0."""

    centre: Array
    """(k,), mean ln x of the sizes."""
    levels: Array
    """(d,), ln rate at the centre, by draw."""
    slopes: Array
    """(d, k)."""
    residuals: Array
    """(d,), standard deviation of the sizes' ln rates from a draw's law."""

    def rate(self, x: Sequence[float]) -> Band:
        """Return the best rate of a size x (k,): the law's, and a size's deviation from it."""
        away = np.log(np.array(x, dtype=np.float64)) - self.centre
        # The same deviates for every size: along a line the band has no noise of its own.
        deviates = np.random.default_rng(0).standard_normal(len(self.levels))
        return band(np.exp(self.levels + self.slopes @ away + self.residuals * deviates))

    @property
    def exponents(self) -> list[Band]:
        """The k slopes."""
        return [band(slope) for slope in self.slopes.T]

    @property
    def residual(self) -> float:
        """Typical deviation of a size's ln rate from the law."""
        return float(np.median(self.residuals))


def fewest_sizes(numbers: int) -> int:
    """Return how many sizes a law of so many numbers needs: one more than it could go through."""
    return numbers + 2


def fit_power_law(x: Sequence[Sequence[float]], rates: Array) -> PowerLaw | None:
    """Return the laws through draws of best rates; None if the sizes are too few or too alike.

    Args:
        x: (n, k), the sizes, each of k numbers above 0.
        rates: (d, n), joint draws of their best rates.
    """
    logs = np.log(np.array(x, dtype=np.float64))
    count, numbers = logs.shape
    centre = logs.mean(axis=0)
    design = np.column_stack([np.ones(count), logs - centre])
    if count < fewest_sizes(numbers) or np.linalg.matrix_rank(design) <= numbers:
        return None
    found, *_ = np.linalg.lstsq(design, np.log(rates).T, rcond=None)
    misses = np.log(rates).T - design @ found
    freedom = count - numbers - 1
    return PowerLaw(centre, found[0], found[1:].T, np.sqrt((misses**2).sum(axis=0) / freedom))


def band(values: Array) -> Band:
    """Return the 10 %, 50 % and 90 % quantiles."""
    low, middle, high = (float(value) for value in np.quantile(values, [0.1, 0.5, 0.9]))
    return low, middle, high
