"""When a trial is stopped early, as Tune asks for it: the search method decides."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweep.record.values import trial_number
from sweep.search.ask_tell import AskTell


class SweepStopping(FIFOScheduler):  # type: ignore[misc]  # Ray is untyped
    """Starts trials in their order, and stops those that the method does not let go on.

    Args:
        method: the session's, the one that suggests its trials.
    """

    def __init__(self, method: AskTell) -> None:
        super().__init__()
        self._method = method

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on an evaluation.

        Tune does not ask about a trial that says it is done, and of one that fails there is no
        loss: a stand-in for a loss is no evaluation.
        """
        goes_on = result["outcome"] is not None or self._method.report(
            trial_number(trial.config["name"]), result["step"], result["val_loss"]
        )
        decision: str = TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
        return decision
