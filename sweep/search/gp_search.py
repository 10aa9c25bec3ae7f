"""The search method of one Gaussian process over learning curves, which suggests and stops.

First come the start points, of which the first is trained to its end: an answer early on, and the
level that all predictions lack. Then quasi-random probes, which are stopped after the grace period.
Then, in turn, the best point of a posterior draw (Thompson 1933), and that of a draw within the
size whose present answer has the largest expected regret; the latter alone, where the goal is the
table of sizes. A trial is stopped where it is unlikely to end below the best by the model, of all
or of its size. The last one trains the answer, where there is one.
"""

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from sweep.analysis.axes import axes_of, input_axes, point_at
from sweep.analysis.gaussian_process import Array, GaussianProcess
from sweep.common.blas import on_one_thread
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.answers import Answers
from sweep.search.candidates import Candidates, sobol
from sweep.search.gp_model import Model
from sweep.search.known import Known
from sweep.search.probes import probes_of, trains_first_in_full
from sweep.search.survival import Survival

HOPE = 0.35
"""Probability of ending below the model's best, below which a trial is stopped."""
HOPE_OF_TABLE, USUAL_OF_TABLE = 0.15, 0.6
"""The same, and USUAL, where all trials are for the table of sizes: that needs ends in each."""
INDIFFERENT = 0.35
"""By how much worse than the best a trial may be expected to end, in deviations of the noise
between two trials."""
USUAL, DEARER = 0.3, 5.0
"""Share of all steps beyond which that margin shrinks, and by how much: close to the best all
trials are alike, and each would be trained to its end."""
GENERATIONS = 3.0
"""Trials to come for each that runs, below which one stops less and draws less widely: what is
saved by a stop is of no use to a sweep whose trials have all begun."""
NARROW = 0.5
"""What the deviation of draws shrinks to by the last trial, as a share; HOPE shrinks to 0."""
TURN = 2
"""After the probes one trial of so many is for the table of sizes."""
DRAWS = 64
"""Draws that tell the expected regret of a size's present answer."""
CROWDING = 0.5
"""What that regret counts for each trial that runs at the size already."""
JITTER = 1e-6


class GpMethod:
    """A search method (see AskTell) by a Gaussian process.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        self._config, self._goal = config, config.search.goal
        self._known = Known(config, record)
        self._answers = Answers(config, record, self._known)
        self._axes = axes_of(config.space)
        self._inputs = input_axes(config, record.older)
        begin = len(config.start_points)
        self._probes = range(begin, begin + probes_of(config))
        first, full_steps = max(4, self._probes.stop), self._known.full_steps
        self._model = Model(self._inputs, full_steps, first, record.older)
        self._candidates = Candidates(config, self._axes, self._inputs)
        self._stopped: set[int] = set()

    @property
    def answers(self) -> Container[int]:
        """Numbers of the trials that train the answer."""
        return self._answers.numbers

    @on_one_thread
    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of trial `number`, those of `fixed` as they are there."""
        if number not in self._known.trials:
            suggested = {} if len(fixed) == len(self._axes) else self._suggested(number)
            params = {**suggested, **fixed}
            self._known.begins(number, {name: params[name] for name in self._config.space})
        return dict(self._known.trials[number].params)

    @on_one_thread
    def report(self, number: int, step: int, loss: float) -> bool:
        """Take in an evaluation; return whether the trial goes on."""
        if self._known.hears(number, step, loss) and not self._goes_on(number):
            self._stopped.add(number)
        return number not in self._stopped

    def tell(self, number: int, loss: float | None) -> None:
        """Take in the end of a trial."""
        self._known.ends(number, loss)

    def _suggested(self, number: int) -> dict[str, Any]:
        process = None if number in self._probes else self._process(believing=True)
        if process is None:
            return point_at(
                self._axes, sobol(len(self._axes), number + 1, self._config.seed)[number]
            )
        answer = self._answers.params(number, lambda inputs: self._now().final_mean(inputs))
        if answer is not None:
            return answer
        points, size, inputs = self._here()
        mean, covariance = process.final(inputs)
        factor = np.linalg.cholesky(covariance + JITTER * np.eye(len(mean)))
        rng = np.random.default_rng([self._config.seed, number])
        wide = NARROW + (1 - NARROW) * self._early()
        draws: Array = mean + wide * rng.standard_normal((DRAWS, len(mean))) @ factor.T
        among = np.arange(len(mean))
        if self._is_for_a_size(number) and (self._goal == "table" or self._early() == 1.0):
            among = np.flatnonzero(size == self._least_known(mean, draws, size))
        return self._candidates.near(points[among[draws[0, among].argmin()]], rng)

    def _goes_on(self, number: int) -> bool:
        """Judge a running trial by what is known now."""
        trial = self._known.trials[number]
        at = self._known.plan_step(trial)
        if not 0 < at < self._config.trial.train.steps or number in self.answers:
            return True
        if not self._config.asha.enabled or at < self._config.grace_period:
            return True
        if number == 0 and trains_first_in_full(self._config, self._known.older):
            return True
        early = self._early()
        if number in self._probes and early == 1.0:
            return False
        inputs = self._candidates.inputs
        if self._is_for_a_size(number):
            own = self._candidates.size_of(trial.params)
            if own is not None:
                inputs = inputs[self._candidates.size == own]
        process = self._now()
        best = inputs[int(process.final_mean(inputs).argmin())]
        (mine, least), covariance = process.final(np.array([self._model.inputs(trial), best]))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        ahead = least - mine + self._margin() * process.training_noise
        hope = early * (HOPE_OF_TABLE if self._goal == "table" else HOPE)
        return bool(variance <= 0 or ndtr(ahead / math.sqrt(variance)) >= hope)

    def _margin(self) -> float:
        """Return how much worse than the best a trial may be, in deviations of the noise."""
        known = self._known
        share = known.plan_steps / (self._config.trial.train.steps * len(known.trials))
        usual = USUAL_OF_TABLE if self._goal == "table" else USUAL
        return INDIFFERENT - DEARER * max(0.0, share - usual)

    def _early(self) -> float:
        """Return how much of a sweep is to come for what runs now: 1 at first, 0 at the end."""
        to_come = self._config.num_samples - len(self._known.trials)
        return min(1.0, to_come / (GENERATIONS * max(1, len(self._known.running))))

    def _is_for_a_size(self, number: int) -> bool:
        """Say whether a trial is for the table of sizes: all are by that goal, else in turn.

        Those that are serve the best of all, too: without them it comes out worse.
        """
        if len(self._candidates.sizes) < 2 or self._goal == "table":
            return self._goal == "table"
        after = number - self._probes.stop
        return after >= 0 and after % TURN == TURN - 1

    def _least_known(self, mean: Array, draws: Array, size: npt.NDArray[np.int64]) -> int:
        """Return the size whose present answer has the largest expected regret."""
        running = [self._candidates.size_of(trial.params) for trial in self._known.running]
        regrets: dict[int, float] = {}
        for place in np.unique(size).tolist():
            at = np.flatnonzero(size == place)
            own = draws[:, at]
            regret = float((own[:, mean[at].argmin()] - own.min(axis=1)).mean())
            regrets[place] = regret * CROWDING ** running.count(place)
        return max(regrets, key=lambda place: regrets[place])

    def _here(self) -> tuple[list[dict[str, Any]], npt.NDArray[np.int64], Array]:
        """Return the candidates where trials survive, their sizes and their inputs."""
        found = self._candidates
        alive = Survival(self._inputs, self._known.all).expected(found.inputs)
        if alive.all() or not alive.any():
            return found.points, found.size, found.inputs
        points = [point for point, lives in zip(found.points, alive, strict=True) if lives]
        return points, found.size[alive], found.inputs[alive]

    def _now(self) -> GaussianProcess:
        process = self._process()
        assert process is not None
        return process

    def _process(self, *, believing: bool = False) -> GaussianProcess | None:
        """Return the model of all trials so far; None if none was trained.

        Args:
            believing: take what runs to end as expected, so that a draw looks elsewhere.
        """
        trials = list(self._known.trials.values())
        rows = self._model.rows(trials)
        if rows is None:
            return None
        ended = [self._known.trials[number] for number in self._known.ended]
        process = self._model.posterior(rows, ended)
        running = self._known.running if believing else []
        return self._model.believing(process, rows, running) if running else process
