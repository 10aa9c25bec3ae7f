"""The end of a session that could not tell it itself: its driver was killed, or its Ray died."""

from pathlib import Path

from sweep.errors import SweepError
from sweep.events import EventLog
from sweep.folder import SweepFile
from sweep.redact import redact
from sweep.results import SweepRecord
from trainable.errors import UserError, first_line


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


def settle(folder: Path, sweep: SweepFile) -> int:
    """Close what a killed driver left open, and deliver everything to MLflow.

    The sweep's lock must be held.

    Returns:
        The number of events delivered.

    Raises:
        SweepError: the store refuses, or is away.
    """
    record = SweepRecord.read(folder)
    if record.session_started is not None:
        log = EventLog(folder)
        log.listen(record.apply)
        close_session(record, log, record.updated)
        log.close()
    if not sweep.config.tracking.enabled:
        return 0
    from sweep.mlflow_runs import MlflowRuns  # MLflow takes seconds to import

    runs = MlflowRuns(folder, sweep)
    try:
        runs.connect()
        delivered = runs.deliver_new()
        runs.finish()
    except UserError:
        raise
    except Exception as error:  # whatever ails the store, the answer is to try again later
        raise SweepError(
            f"sweep {folder.name}: MLflow is away ({redact(first_line(error))}); when it is back: "
            f"python sweep/status.py {folder.name} --sync"
        ) from error
    return delivered
