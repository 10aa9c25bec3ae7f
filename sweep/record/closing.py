"""The end of a session that could not tell it itself: its driver was killed, or its Ray died."""

from sweep.record.events import EventLog
from sweep.record.results import SweepRecord


def close_session(record: SweepRecord, log: EventLog, ended: float | None = None) -> None:
    """Record that the session ended, and that what ran in it was interrupted.

    Args:
        record: what `log` holds; it must listen.
        log: where to.
        ended: Unix time of the end, seconds; None: now.
    """
    when = {} if ended is None else {"time": ended}
    for trial in record.unfinished:
        if trial.outcome is None:
            facts = {"outcome": "interrupted", "step": trial.step, "rung": None, "reason": None}
            log.append("outcome", trial=trial.name, **facts, **when)
    log.append("session_ended", completed=not record.unfinished, **when)
