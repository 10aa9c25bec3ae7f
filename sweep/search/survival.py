"""Where trials survive: what diverged or ran out of memory tells of the places around it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from sweep.analysis.axes import Axis, inputs_of
from sweep.analysis.gaussian_process import Array
from sweep.record.results import TrialRecord

LENGTH = 0.3
"""How far a lost trial is known by, in widths of the space."""
NOISE = 0.3
"""Deviation of a label: a trial may be lost by ill luck."""
MOST = 300
"""Survivors that count, of more an even choice."""


class Survival:
    """A classifier: least squares on labels by a Gaussian process (Rasmussen and Williams, 6.5).

    Lost trials have no loss that a fit to losses could use: they say where none is to be had. Far
    from all trials one is expected to survive.

    Args:
        axes: the inputs.
        trials: all there are; those that diverged or ran out of memory are lost.
    """

    def __init__(self, axes: Sequence[Axis], trials: Sequence[TrialRecord]) -> None:
        lost = [t for t in trials if t.outcome in ("diverged", "out_of_memory")]
        sound = [t for t in trials if t.is_comparable and t.step > 0]
        if len(sound) > MOST:
            sound = [sound[n] for n in np.linspace(0, len(sound) - 1, MOST).astype(int)]
        self._any = bool(lost)
        if self._any:
            self._inputs = inputs_of(axes, [t.params for t in (*lost, *sound)])
            labels = np.array([-2.0] * len(lost) + [0.0] * len(sound))
            kernel = _kernel(self._inputs, self._inputs) + NOISE**2 * np.eye(len(labels))
            self._weights: Array = cho_solve(cho_factor(kernel, lower=True), labels)

    def expected(self, inputs: Array) -> npt.NDArray[np.bool_]:
        """Say of inputs (m, d) whether trials there (m,) more likely survive than not."""
        if not self._any:
            return np.ones(len(inputs), dtype=bool)
        survive: npt.NDArray[np.bool_] = 1.0 + _kernel(inputs, self._inputs) @ self._weights > 0
        return survive


def _kernel(x: Array, y: Array) -> Array:
    squares = ((x[:, None, :] - y[None, :, :]) ** 2).sum(2)
    shape: Array = np.exp(-0.5 * squares / LENGTH**2)
    return shape
