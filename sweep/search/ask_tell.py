"""What a search method is: it is asked for the parameters of trials, and which of them go on."""

from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

from sweep.config.sweep import SweepConfig
from sweep.record.lines import Event
from sweep.record.results import SweepRecord, TrialRecord
from sweep.search.rungs import Rungs, recorded
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL


class AskTell(Protocol):
    """A search method: what to try, and what to stop early. One serves a whole session.

    It is built from the sweep's config and record (see `build_method`). What it answers is a pure
    function of the seed, the trial's number, and the results known by then, so that a resume goes
    on as if nothing had happened. It knows neither Tune nor files nor a clock.

    The calls of a trial are: ask; report for each of its evaluations, in order, until it answers
    False; tell, unless it is interrupted. Those of trials side by side interleave as they happen.
    """

    @property
    def answers(self) -> Container[int]:
        """Numbers of the trials that train the answer, and are never stopped early."""

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of trial `number`, by dotted field.

        Args:
            number: position in the order of suggestions. Unfinished trials of the record are asked
                for first, in order.
            fixed: parameters that are given: a start point's, or an unfinished trial's own.
        """

    def report(self, number: int, step: int, loss: float) -> bool:
        """Take in an evaluation of a trial that was asked for; return whether the trial goes on.

        Of the last one, too, just before `tell`. After a lost checkpoint, or a resume, evaluations
        come again: such a one counts once, and a trial that was stopped stays so.

        Args:
            number: the trial.
            step: optimizer steps that it has done, of its own, 0 before the first.
            loss: on the validation windows, nats per token.
        """

    def tell(self, number: int, loss: float | None) -> None:
        """Take in the end of a trial that was asked for.

        Args:
            number: the trial.
            loss: its last one, whether it finished or was stopped early; for a lost trial
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
    if config.algorithm == "gp":
        from sweep.search.gp_search import GpMethod  # scipy takes a while to import

        return GpMethod(config, record)
    from sweep.search.optuna_search import OptunaMethod  # Optuna takes a while to import

    return OptunaMethod(config, record)


def stopped_on_record(
    config: SweepConfig, record: SweepRecord, events: Sequence[Event]
) -> set[str]:
    """Return the names of unfinished trials that the method stopped at their last evaluation.

    Between its decision and the word of the trial's end a driver may have died.

    Args:
        config: the sweep.
        record: what `events` say.
        events: of all sessions, in the order in which they were recorded.
    """
    if config.algorithm == "gp":
        return {t.name for t in record.unfinished if not _went_on(config, t, events)}
    rungs = Rungs(config.rungs, config.asha.reduction_factor)
    went_on = rungs.replay(recorded(config, events))
    return {
        t.name
        for t in record.unfinished
        if not went_on.get((t.name, config.plan_step(t.params, t.step)), True)
    }


def _went_on(config: SweepConfig, trial: TrialRecord, events: Sequence[Event]) -> bool:
    """Ask a method that knows what was known at a trial's last evaluation."""
    known = SweepRecord()
    for event in events:
        if event["event"] == "evaluation" and event["trial"] == trial.name:
            told = event["metrics"]
            if told["step"] == trial.step:
                method = build_method(config, known)
                method.ask(trial.number, trial.params)
                return method.report(trial.number, int(told["step"]), told["val_loss"])
        known.apply(event)
    return True
