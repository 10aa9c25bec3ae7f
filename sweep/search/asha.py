"""When a trial is stopped early: Ray's ASHA, with rungs that survive a resume."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord


class ResumableAsha(ASHAScheduler):  # type: ignore[misc]  # Ray is untyped
    """Asynchronous successive halving (Li et al. 2020) over one bracket, in optimizer steps.

    At a rung a trial is stopped if its loss is above the best 1 / reduction_factor of the losses
    recorded there before it. The rungs are a function of the recorded evaluations, so a resume
    refills them from the record, and a trial never enters a rung that it has passed.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        super().__init__(
            time_attr="step",
            metric="val_loss",
            mode="min",
            max_t=config.trial.train.steps,
            grace_period=config.grace_period,
            reduction_factor=config.asha.reduction_factor,
            brackets=1,
        )
        (bracket,) = self._brackets
        self._rungs: dict[int, dict[str, float]] = {int(at): seen for at, seen in bracket._rungs}
        for trial in record.trials.values():
            for evaluation in trial.evaluations:
                if evaluation["step"] in self._rungs:
                    # Tune compares rewards: the higher, the better.
                    self._rungs[int(evaluation["step"])][trial.name] = -evaluation["val_loss"]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take a trial in; a resumed one keeps its places in the rungs."""
        super().on_trial_add(tune_controller, trial)
        for seen in self._rungs.values():
            if trial.config["name"] in seen:
                seen[trial.trial_id] = seen.pop(trial.config["name"])

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let go of a trial; the stand-in for a lost trial's loss enters no rung.

        It would: Tune tells of a last result twice, and a border is interpolated between losses.
        """
        if result.get("outcome") is None:
            super().on_trial_complete(tune_controller, trial, result)
        else:
            self.on_trial_remove(tune_controller, trial)


def build_scheduler(config: SweepConfig, record: SweepRecord) -> TrialScheduler:
    """Return the sweep's scheduler."""
    return ResumableAsha(config, record) if config.asha.enabled else FIFOScheduler()
