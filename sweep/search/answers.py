"""The last trial trains the answer: the best settings by a fit to all trials, never stopped early.

A search's own last suggestion explores, though nothing comes after it that could use what it finds;
and the trial with the lowest loss is rarely at the place where the fit expects the least.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sweep.analysis.axes import axes_of, input_axes, inputs_of
from sweep.analysis.gaussian_process import Array
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.known import Known

GRID = 61
"""Values of a field that are tried around the best of the coarse points."""
ROUNDS = 2

Expected = Callable[[Array], Array]
"""Final losses (m,) at inputs (m, d), up to a constant."""


class Answers:
    """Which trials train the answer, and where.

    It is the last of the trials that are asked for, whatever the number of workers. Of a sweep that
    is then extended the new last one is, too; the old one stays what it was (see
    TrialRecord.is_answer). None is where nothing was trained yet, where the best settings have been
    trained to the end, or where the trial is a start point. Nor is there one where the goal is the
    table of sizes: it has many answers, and the search itself knows which of them needs a trial.

    Args:
        config: the sweep.
        record: what earlier sessions did.
        known: what is known of the trials, kept up to date by the method.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord, known: Known) -> None:
        self._config, self._known = config, known
        self.numbers = {t.number for t in record.trials.values() if t.is_answer}
        """The trials that train the answer, among those that were asked for."""

    def params(self, number: int, expected: Expected | None = None) -> dict[str, Any] | None:
        """Return the parameters of a new trial if it is to train the answer, else None.

        Args:
            number: the trial.
            expected: the final losses by the method's own model; None: by a fit as reports have it.
        """
        if not self._config.has_answer or number != self._config.num_samples - 1:
            return None
        if number < len(self._config.start_points):
            return None
        found = self._best(expected)
        if found is None or self._is_trained(found):
            return None
        self.numbers.add(number)
        return found

    def _is_trained(self, params: dict[str, Any]) -> bool:
        """Say whether a trial has come to its end there: the same again would be the same bits."""
        steps = self._config.full_steps(params)
        return any(t.params == params and t.step >= steps for t in self._known.trials.values())

    def _best(self, expected: Expected | None) -> dict[str, Any] | None:
        from sweep.search.candidates import Candidates  # scipy takes a while to import
        from sweep.search.survival import Survival

        axes = axes_of(self._config.space)
        inputs_by = input_axes(self._config, self._known.older)
        expected = expected or _fitted(self._config, self._known)
        if expected is None:
            return None
        survival = Survival(inputs_by, self._known.all)

        def losses(points: list[dict[str, Any]]) -> Array:
            inputs = inputs_of(inputs_by, points)
            return np.where(survival.expected(inputs), expected(inputs), np.inf)

        candidates = Candidates(self._config, axes, inputs_by)
        best: Mapping[str, Any] = candidates.points[int(losses(candidates.points).argmin())]
        for _ in range(ROUNDS):
            for axis in axes:
                points = [{**best, axis.name: value} for value in axis.grid(GRID)]
                points.append(dict(best))
                best = points[int(losses(points).argmin())]
        return dict(best)


def _fitted(config: SweepConfig, known: Known) -> Expected | None:
    """Return the final losses by a fit to all curves; None if nothing was trained that counts."""
    from sweep.analysis.surface import Surface

    trials = [t for t in known.trials.values() if t.is_comparable and t.step > 0]
    if not trials and not any(trial.is_comparable for trial in known.older):
        return None
    return Surface(config, trials, known.older).expected_at
