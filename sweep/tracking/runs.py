"""The sweep's events as MLflow runs: one parent, one child run a trial.

Delivering an event twice changes nothing: a run is found by its tags before it is made, and a
metric's row is identified by key, step and the event's own time. How far the record is delivered is
kept in mlflow.json beside it, so what a dead server missed can be delivered later.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.analysis.words import show_value
from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.record.events import Event, read_events_from
from sweep.record.folder import SweepFile
from sweep.record.results import Outcome, SweepRecord, TrialRecord
from sweep.tracking.delivery import read_delivery, save_delivery
from sweep.tracking.parent import common_tags, complete_parent, create_parent, describe_parent
from sweep.tracking.store import (
    is_away,
    open_client,
    refused,
    require_writable,
    tracking_uri,
    tune_sqlite,
)
from sweep.tracking.view import run_name
from trainable.common.paths import in_project, project_folder
from trainable.data.meta import DatasetMeta
from trainable.model.counts import parameter_count

LARGEST_BATCH = 1_000
"""Metrics in one log_batch call: the server's limit."""

RUN_STATUS: dict[Outcome, str] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "diverged": "FINISHED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status of a trial; it draws KILLED and FAILED as errors, so they are kept for those."""


class MlflowRuns:
    """Delivers a sweep's events to MLflow, in order, in calls that wait for the store.

    Args:
        folder: the sweep's folder.
        sweep: its config and identity.
    """

    def __init__(self, folder: Path, sweep: SweepFile) -> None:
        self.experiment_id: str | None = None
        self.parent: str | None = None
        self._folder = folder
        self._sweep = sweep
        self._runs: dict[str, str] = {}
        self._client: Any = None
        self._offset = 0
        """Bytes of the sweep's record that are delivered."""
        self._record = SweepRecord()
        """The sweep as the store knows it."""
        self._stale = True

    def connect(self) -> None:
        """Open the store, find or make the experiment and the parent run, and find child runs.

        Raises:
            SweepError: the store is of another version, refuses to be written, or is another one
                than this sweep began with.
            Exception: the store cannot be reached now; try again later.
        """
        uri = tracking_uri()
        state = read_delivery(self._folder)
        if state and state["tracking_uri"] != redact(uri):
            raise SweepError(
                f"MLFLOW_TRACKING_URI {redact(uri)!r}: the sweep began in "
                f"{state['tracking_uri']!r}; "
                "set that address again"
            )
        try:
            self._client = open_client(uri)
            self.experiment_id = self._find_experiment()
            require_writable(uri)
        except Exception as error:
            if is_away(uri, error):
                raise  # worth another try
            raise refused(uri, error) from error
        tune_sqlite(uri, "PRAGMA journal_mode=WAL")  # readers and the writer do not block
        self._runs = dict(state["runs"]) if state else {}
        self.parent = state["parent"] if state else None
        self._offset = state["offset"] if state else 0
        self._find_runs()  # also those made by a process that was killed before it noted them
        if self.parent is None:
            self.parent = create_parent(
                self._client, self.experiment_id, self._folder.name, self._sweep
            )
        complete_parent(
            self._client, self.experiment_id, self.parent, self._folder.name, self._sweep
        )
        self._save_state()

    def deliver_new(self) -> int:
        """Deliver the events recorded since the last delivery, and remember that they are.

        Raises:
            Exception: the store failed; the events count as not delivered and are given again.

        Returns:
            The number of events delivered.
        """
        if self._stale:
            self._record = SweepRecord()
            self._record.apply_all(read_events_from(self._folder, 0, self._offset)[0])
            self._find_runs()  # a call that failed may have made one
        events, end = read_events_from(self._folder, self._offset)
        self._stale = True  # until all of them are delivered
        self._deliver(events)
        self._stale = False
        if end != self._offset:
            self._offset = end
            self._save_state()
        return len(events)

    def finish(self) -> None:
        """Make sorted queries fast, once the sweep has ended."""
        tune_sqlite(tracking_uri(), "ANALYZE")

    def _deliver(self, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric

        metrics: dict[str, list[Any]] = {}
        for event in events:
            if event["event"] == "evaluation":
                trial = self._record.trials[event["trial"]]
                values = dict(event["metrics"])
                values["best_val_loss"] = min(values["val_loss"], trial.best_val_loss)
                step = int(values.pop("step"))
                stamp = int(event["time"] * 1000)
                metrics.setdefault(trial.name, []).extend(
                    Metric(name, value, stamp, step) for name, value in values.items()
                )
            elif event["event"] in ("trial_started", "outcome", "session_ended"):
                self._log_metrics(metrics)
            self._record.apply(event)
            self._deliver_one(event)
        self._log_metrics(metrics)

    def _deliver_one(self, event: Event) -> None:
        kind = event["event"]
        if kind == "session_started":
            self._client.update_run(self.parent, status="RUNNING")
        elif kind == "trial_started":
            self._start_trial(self._record.trials[event["trial"]], event)
        elif kind == "outcome":
            self._end_trial(self._record.trials[event["trial"]], event)
        elif kind == "session_ended":
            assert self.parent is not None
            describe_parent(self._client, self.parent, self._folder.name, self._sweep, self._record)
            status = "FINISHED" if event["completed"] else "KILLED"
            self._client.set_terminated(self.parent, status, int(event["time"] * 1000))

    def _start_trial(self, trial: TrialRecord, event: Event) -> None:
        known = self._runs.get(trial.name)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            if self._client.get_run(known).data.params:
                return  # else a crash came between the run and its params
        from mlflow.entities import Param

        config = self._sweep.config.trial_config(trial.params)
        values = {
            f"{section}.{field}": value
            for section, fields in config.model_dump().items()
            for field, value in fields.items()
        }
        values["model.n_heads"] = config.model.n_heads
        values["model.d_ff"] = config.model.ff_width
        meta_vocab = self._vocab_size()
        if meta_vocab:
            values["parameters"] = parameter_count(config.model, meta_vocab)
        if known is None:
            run = self._client.create_run(
                self.experiment_id,
                start_time=int(event["time"] * 1000),
                run_name=run_name(trial),
                tags={
                    **common_tags(self._folder.name, self._sweep),
                    "mlflow.parentRunId": self.parent,
                    "sweep.trial": trial.name,
                    "sweep.config": config.model_dump_json(),
                },
            )
            known = self._runs[trial.name] = str(run.info.run_id)
        self._client.log_batch(
            known,
            params=[Param(k, show_value(v)) for k, v in values.items() if v is not None],
        )

    def _end_trial(self, trial: TrialRecord, event: Event) -> None:
        from mlflow.entities import Metric, RunTag

        assert trial.outcome is not None
        tags = {
            "outcome": trial.outcome,
            "outcome.step": str(event["step"]),
            "outcome.rung": str(trial.rung) if trial.rung is not None else None,
            "outcome.reason": trial.reason,
        }
        run_id = self._runs[trial.name]
        stamp = int(event["time"] * 1000)
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items() if v])
        self._client.set_terminated(run_id, RUN_STATUS[trial.outcome], stamp)
        best = self._record.best
        ended = sum(t.outcome is not None for t in self._record.trials.values())
        if best is not None:
            metric = Metric("best_val_loss", best.best_val_loss, stamp, ended)
            self._client.log_batch(self.parent, metrics=[metric])

    def _log_metrics(self, metrics: dict[str, list[Any]]) -> None:
        for name, values in metrics.items():
            for start in range(0, len(values), LARGEST_BATCH):
                batch = values[start : start + LARGEST_BATCH]
                self._client.log_batch(self._runs[name], metrics=batch)
        metrics.clear()

    def _find_experiment(self) -> str:
        name = self._sweep.config.tracking.experiment
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # For a local store MLflow's default is ./mlruns, wherever that is: say where.
        local = tracking_uri().startswith("sqlite")
        location = (project_folder() / "mlruns" / name).as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _find_runs(self) -> None:
        """Find this sweep's runs by their tags: mlflow.json may be lost or late, the runs not."""
        token = None
        query = f"tags.`sweep.id` = '{self._sweep.identity.sweep_id}'"
        while True:
            page = self._client.search_runs([self.experiment_id], query, page_token=token)
            for run in page:
                trial = run.data.tags.get("sweep.trial")
                if trial is None:
                    self.parent = run.info.run_id
                else:
                    self._runs[trial] = run.info.run_id
            token = page.token
            if not token:
                return

    def _vocab_size(self) -> int | None:
        data = self._sweep.config.trial.data
        if data.raw_vocab_size is not None:
            return data.raw_vocab_size
        return DatasetMeta.read(in_project(data.dataset)).vocab_size

    def _save_state(self) -> None:
        assert self.experiment_id is not None
        assert self.parent is not None
        save_delivery(self._folder, self.experiment_id, self.parent, self._runs, self._offset)
