"""The sweep's events as MLflow runs: one parent, one child run a trial.

Delivering an event twice changes nothing. How far the record is delivered is kept in mlflow.json
beside it, so what a dead server missed can be delivered later.
"""

import contextlib
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.record.events import read_events_from, sync_events
from sweep.record.folder import SweepFile
from sweep.record.results import SweepRecord
from sweep.tracking.calls import PARENT, Translator
from sweep.tracking.delivery import (
    fits_record,
    read_delivery,
    require_same_store,
    save_delivery,
)
from sweep.tracking.executor import Executor
from sweep.tracking.page import page_calls
from sweep.tracking.store import (
    is_away,
    open_client,
    refused,
    require_writable,
    tracking_uri,
    tune_sqlite,
)
from sweep.tracking.system import machine_watched
from trainable.common.errors import DataError
from trainable.common.paths import in_project, project_folder
from trainable.data.meta import DatasetMeta


class MlflowRuns:
    """Delivers a sweep's events to MLflow, in order, in calls that wait for the store.

    Args:
        folder: the sweep's folder.
        sweep: its config and identity.
    """

    def __init__(self, folder: Path, sweep: SweepFile) -> None:
        self._folder = folder
        self._sweep = sweep
        self._executor: Executor | None = None
        self._translator: Translator | None = None
        """None where the store may know more than we do, or less."""
        self._offset = 0
        """Bytes of the sweep's record that are delivered."""

    @property
    def experiment_id(self) -> str | None:
        """The experiment that holds the runs; None until connected."""
        return self._executor.experiment_id if self._executor else None

    @property
    def parent(self) -> str | None:
        """The id of the sweep's own run; None until connected."""
        return self._executor.runs.get(PARENT) if self._executor else None

    def connect(self) -> None:
        """Open the store, find or make the experiment and the parent run, and find child runs.

        Raises:
            SweepError: the store is of another version, refuses to be written, or is another one
                than this sweep began with; the experiment was deleted.
            Exception: the store cannot be reached now; try again later.
        """
        require_same_store(self._folder)
        uri = tracking_uri()
        try:
            client = open_client(uri)
            experiment_id = _find_experiment(client, self._sweep.config.tracking.experiment)
            require_writable(uri)
        except SweepError:
            raise
        except Exception as error:
            if is_away(uri, error):
                raise  # worth another try
            raise refused(uri, error) from error
        tune_sqlite(uri, "PRAGMA journal_mode=WAL")  # readers and the writer do not block
        executor = Executor(client, experiment_id, self._folder.name, self._sweep)
        state = read_delivery(self._folder)
        # All is delivered again where the record has lost its end.
        self._offset = state.offset if state and fits_record(state, self._folder) else 0
        self._find_runs(executor)
        self._executor = executor
        self._save_state()

    def deliver_new(self) -> int:
        """Deliver the events recorded since the last delivery, and remember that they are.

        Raises:
            Exception: the store failed; the events count as not delivered and are given again.

        Returns:
            The number of events delivered.
        """
        assert self._executor is not None
        translator, self._translator = self._translator, None  # until all of them are delivered
        if translator is None:
            self._find_runs(self._executor)  # a failed call may have made one
            known, _ = read_events_from(self._folder, 0, self._offset)
            vocab_size = _vocab_size(self._sweep)
            translator = Translator(self._folder.name, self._sweep, vocab_size, known)
        events, end = read_events_from(self._folder, self._offset)
        if events:
            sync_events(self._folder)  # after a power cut MLflow must not know more than the record
        for call in translator.calls(events):
            self._executor.make(call)
        self._translator = translator
        if end != self._offset:
            self._offset = end
            self._save_state()
        return len(events)

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Return what records the machine's metrics while it is open, if that was asked for."""
        if not self._sweep.config.tracking.system_metrics:
            return contextlib.nullcontext()
        assert self._executor is not None
        return machine_watched(self._executor.runs[PARENT])

    def finish(self) -> None:
        """Complete the sweep's page, and make sorted queries fast, once a session has ended.

        Of a sweep that ended before its first session had begun nothing is left.

        Raises:
            Exception: the store failed; done again, it changes nothing that was done.
        """
        assert self._executor is not None
        record = SweepRecord.read(self._folder)
        if not record.sessions and set(self._executor.runs) <= {PARENT}:  # no record that was lost
            self._executor.withdraw()
            return
        parent = self._executor.runs[PARENT]
        for call in page_calls(
            self._folder, self._sweep, record, self._executor.experiment_id, parent
        ):
            self._executor.make(call)
        self._executor.describe_experiment()
        tune_sqlite(tracking_uri(), "ANALYZE")

    def _find_runs(self, executor: Executor) -> None:
        """Find the runs by their tags: what was noted may be late, or of runs that were deleted.

        Without its parent all is delivered again.
        """
        executor.find_runs()
        if PARENT not in executor.runs:
            self._offset = 0
        executor.require_parent()

    def _save_state(self) -> None:
        assert self._executor is not None
        trials = dict(self._executor.runs)
        parent = trials.pop(PARENT)
        save_delivery(self._folder, self._executor.experiment_id, parent, trials, self._offset)


def _find_experiment(client: Any, name: str) -> str:
    """Return the id of the experiment called `name`; make it if there is none."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise SweepError(
                f"--tracking.experiment {name}: it was deleted in MLflow; `mlflow experiments "
                f"restore -x {found.experiment_id}` brings it back, or give another name"
            )
        return str(found.experiment_id)
    # For a local store MLflow's default is ./mlruns, wherever that is: say where.
    local = tracking_uri().startswith("sqlite")
    location = (project_folder() / "mlruns" / name).as_uri() if local else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except Exception:
        found = client.get_experiment_by_name(name)  # another sweep may have made it meanwhile
        if found is None:
            raise
        return str(found.experiment_id)


def _vocab_size(sweep: SweepFile) -> int | None:
    """Return the number of token ids; None if the dataset is no longer where it was."""
    data = sweep.config.trial.data
    if data.raw_vocab_size is not None:
        return data.raw_vocab_size
    try:
        return DatasetMeta.read(in_project(data.dataset)).vocab_size
    except DataError:
        return None  # a sweep is delivered although its dataset is gone
