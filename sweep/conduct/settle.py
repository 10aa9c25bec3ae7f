"""What a killed driver left open is closed, and delivered to MLflow."""

import contextlib
from pathlib import Path

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.config.sweep import SweepConfig
from sweep.engine.closing import close_session, end_decided
from sweep.engine.failures import room_for
from sweep.record.events import EventLog
from sweep.record.folder import SweepFile
from sweep.record.results import SweepRecord
from trainable.common.errors import UserError, first_line


def settle(folder: Path, sweep: SweepFile) -> int:
    """Close what a killed driver left open, and deliver everything to MLflow.

    The sweep's lock must be held.

    Returns:
        The number of events delivered.

    Raises:
        SweepError: the store refuses, or is away.
    """
    settle_record(folder, sweep.config)
    if not sweep.config.tracking.enabled:
        return 0
    from sweep.tracking.runs import MlflowRuns  # MLflow takes seconds to import

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


def settle_record(folder: Path, config: SweepConfig) -> None:
    """Close what a killed driver left open; end trials that had come to their end in a session.

    The sweep's lock must be held.

    Raises:
        SweepError: the record is damaged, or the disk is full.
    """
    record = SweepRecord.read(folder)
    if record.session_started is None and not record.unfinished:
        return
    with room_for(folder), contextlib.closing(EventLog(folder)) as log:
        log.listen(record.apply)
        if record.session_started is not None or end_decided(folder, config, record, log):
            close_session(folder, config, record, log, record.updated)
