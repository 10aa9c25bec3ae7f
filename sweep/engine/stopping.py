"""When a session ends before its trials have: a signal, its time is over, it cannot go on."""

from typing import Any

from ray.tune import Stopper

from sweep.control.interruption import Interruption
from sweep.plan.budget import TimeBudget


class Stopping(Stopper):  # type: ignore[misc]  # Ray is untyped
    """Ends a session once a signal has come, its time is over, or it is asked to.

    Tune looks at every step.
    """

    def __init__(self, interruption: Interruption, budget: TimeBudget | None = None) -> None:
        self._interruption = interruption
        self._budget = budget
        self._asked = False

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune writes it down for a restore that is never made."""
        return {}

    def ask(self) -> None:
        """End the session: nothing that Tune has under way comes to its end."""
        self._asked = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial: that is the scheduler's to decide."""
        return False

    def stop_all(self) -> bool:
        """Say whether all trials are to be stopped now."""
        over = self._budget is not None and self._budget.left <= 0
        return self._asked or over or self._interruption.signal is not None
