"""When a trial is stopped early: the rule of the rungs, as Tune's scheduler asks for it."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.rungs import Rungs


class ResumableAsha(FIFOScheduler):  # type: ignore[misc]  # Ray is untyped
    """Starts trials in their order, and stops those that a rung stops.

    The rungs are a function of the recorded evaluations, so a resume refills them from the record.
    They know trials by our names: one that a resume or a restart goes on with keeps its places.
    Without early stopping there are no rungs, and every trial goes on to its end.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        super().__init__()
        self._stopped: set[str] = set()
        self._rungs = Rungs(config.rungs, config.asha.reduction_factor)
        for trial in record.trials.values():
            for evaluation in trial.evaluations:
                self._rungs.arrive(int(evaluation["step"]), trial.name, evaluation["val_loss"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on an evaluation.

        Tune does not ask about a trial that says it is done: a lost one's stand-in for a loss
        enters no rung. One that was stopped stays so, where its worker died before Tune did it.
        """
        name: str = trial.config["name"]
        if not self._rungs.arrive(result["step"], name, result["val_loss"]):
            self._stopped.add(name)
        decision: str = TrialScheduler.STOP if name in self._stopped else TrialScheduler.CONTINUE
        return decision
