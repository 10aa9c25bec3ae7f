"""Tune's controller, mended: what it would lose of a trial when a worker dies or a session ends.

Tune resets a reused worker while the trial is PENDING, but recovers RUNNING trials only. It tells
of one death twice, as the worker's and as the reset's: the second gives up a trial that the first
had queued again. Nor does it forget that the trial was being reset, and would wait for that. And
where all trials are to be stopped, it lets go of checkpoints that are just being saved.
"""

import time
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

SAVING_SECONDS = 5.0
"""How long the end of a session waits for checkpoints that are just being saved."""


class ForgivingController(TuneController):  # type: ignore[misc]  # Ray is untyped
    """Tune's own, that recovers such a trial once for each death, and ends no save half way."""

    patient = False
    """Whether no trial is suggested while one waits for room: where trials take unlike resources,
    smaller ones would take what comes free, again and again."""

    _waits_until: float | None = None
    """Until when the end waits for saves; None: it has not come."""

    def _actor_failed(self, tracked_actor: Any, exception: Exception) -> None:
        self._resetting_trials.discard(self._actor_to_trial[tracked_actor])
        super()._actor_failed(tracked_actor, exception)

    def _trial_task_failure(self, trial: Trial, exception: Exception) -> None:
        if trial.status == Trial.PENDING:
            if trial not in self._resetting_trials:
                return  # told before: it is queued again
            self._resetting_trials.discard(trial)
            self._unstage_trial_with_resources(trial)
            self._set_trial_status(trial, Trial.RUNNING)  # as Tune does where a new worker dies
        super()._trial_task_failure(trial, exception)

    def _schedule_trial_stop(self, trial: Trial, exception: Exception | None = None) -> None:
        if exception is None and trial.is_saving and self._stopper.stop_all():
            self._waits_until = self._waits_until or time.monotonic() + SAVING_SECONDS
            if time.monotonic() < self._waits_until:
                return  # Tune asks at each of its steps: the next one may find it saved
        super()._schedule_trial_stop(trial, exception)

    def _maybe_update_trial_queue(self) -> None:
        if not (self.patient and self._actor_manager.num_pending_actors):
            super()._maybe_update_trial_queue()


USED = (
    *("_maybe_update_trial_queue", "_actor_failed", "_trial_task_failure", "_schedule_trial_stop"),
    *("_unstage_trial_with_resources", "_set_trial_status"),
    "_maybe_reuse_cached_actor",
)
"""What the controllers need of Tune's: private, so that it may go with the next version."""


class Witness(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Sees to it that the trials are conducted by a controller of ours: Tune calls it before."""

    def __init__(self) -> None:
        self.made = False
        """Whether such a controller was made."""

    def setup(self, **_: Any) -> None:
        """Look, before the first trial."""
        assert self.made, "Tune made a controller of its own, and ours was to take its place"
