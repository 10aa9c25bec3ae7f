"""How trials and a session end that could not tell it themselves.

A signal came, the driver was killed, or its Ray died: between what decides on a trial and the word
of it lie a save and a message. What is on record tells the decision, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.config.sweep import SweepConfig
from sweep.record.events import EventLog, read_events
from sweep.record.results import EndedBy, Outcome, SweepRecord, TrialRecord
from sweep.record.retention import prune
from sweep.record.storage import store_of
from sweep.search.ask_tell import stopped_on_record


def close_session(
    folder: Path,
    config: SweepConfig,
    record: SweepRecord,
    log: EventLog,
    ended: float | None = None,
    ended_by: EndedBy | None = None,
) -> None:
    """Record that the session ended, and how the trials did that ran in it.

    Args:
        folder: the sweep's.
        config: its settings.
        record: what `log` holds; it must listen.
        log: where to.
        ended: Unix time of the end, seconds; None: now.
        ended_by: what ended it early, but for a signal or a crash.
    """
    when = {} if ended is None else {"time": ended}
    end_decided(folder, config, record, log, **when)
    for trial in record.unfinished:
        if trial.outcome is None:
            _end(log, trial, "interrupted", None, when)
    early = ended_by is not None and not record.complete
    why = {"ended_by": ended_by} if early else {}
    log.append("session_ended", completed=record.complete, **why, **when)


def end_decided(
    folder: Path, config: SweepConfig, record: SweepRecord, log: EventLog, **when: float
) -> bool:
    """Record the end of unfinished trials that had come to it; say whether there were any.

    One is finished once its last evaluation and the checkpoint of that step are on record, and
    stopped where the search method did not let it go on from its last evaluation.
    """
    ended = list(_decided(folder, config, record))
    for trial, outcome, rung in ended:
        _end(log, trial, outcome, rung, when)
    if ended:
        prune(store_of(folder), record, config.keep_checkpoints)
    return bool(ended)


def _decided(
    folder: Path, config: SweepConfig, record: SweepRecord
) -> Iterator[tuple[TrialRecord, Outcome, int | None]]:
    stopped = stopped_on_record(config, record, read_events(folder))
    for trial in record.unfinished:
        saved = any(checkpoint.step == trial.step for checkpoint in trial.checkpoints)
        if trial.step >= config.full_steps(trial.params) and saved:
            yield trial, "finished", None
        elif trial.name in stopped:
            yield trial, "stopped", trial.step


def _end(
    log: EventLog, trial: TrialRecord, outcome: Outcome, rung: int | None, when: dict[str, Any]
) -> None:
    facts = {"outcome": outcome, "step": trial.step, "rung": rung, "reason": None}
    log.append("outcome", trial=trial.name, **facts, **when)
