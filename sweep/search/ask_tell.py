"""What a search method is: it is asked for the parameters of trials, and told how they ended."""

from collections.abc import Mapping
from typing import Any, Protocol

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL


class AskTell(Protocol):
    """A search method. It is built from the sweep's config and record (see `build_method`).

    What it answers is a pure function of the seed, the trial's number, and the results known by
    then, so that a resume goes on as if nothing had happened.
    """

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of trial `number`, by dotted field.

        Args:
            number: position in the order of suggestions. Unfinished trials of the record are asked
                for first, in order.
            fixed: parameters that are given: a start point's, or an unfinished trial's own.
        """

    def tell(self, number: int, loss: float | None) -> None:
        """Take in the end of a trial that was asked for.

        Args:
            number: the trial.
            loss: its last one, whether it finished or was stopped at a rung; for a lost trial
                OBJECTIVE_OF_A_LOST_TRIAL; None: it failed.
        """


def told_loss(trial: TrialRecord) -> float | None:
    """Return the loss that a method is told of a trial which ended in an earlier session.

    A stopped trial counts with its last loss, a lost one as the worst; a failed one with none, for
    that says nothing of its parameters.
    """
    if trial.outcome in ("finished", "stopped"):
        return trial.evaluations[-1]["val_loss"]
    return OBJECTIVE_OF_A_LOST_TRIAL if trial.outcome in ("diverged", "out_of_memory") else None


def build_method(config: SweepConfig, record: SweepRecord) -> AskTell:
    """Return the sweep's search method, which knows what earlier sessions found."""
    from sweep.search.optuna_search import OptunaMethod  # Optuna takes a while to import

    return OptunaMethod(config, record)
