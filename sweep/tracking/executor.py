"""Calls made on an MLflow store: making one twice changes nothing.

A run is found by its tags before it is made, and a metric's row is identified by key, step and the
event's own time.
"""

from typing import Any

from sweep.record.folder import SweepFile
from sweep.tracking.calls import (
    PARENT,
    Call,
    EndRun,
    GoOn,
    LogFile,
    LogMetrics,
    LogText,
    Point,
    SetTags,
    StartTrial,
)
from sweep.tracking.parent import (
    common_tags,
    complete_parent,
    create_parent,
    describe_experiment,
)


class Executor:
    """Makes a sweep's calls on a store, each until the store has it.

    Args:
        client: MLflow's.
        experiment_id: the experiment that holds the runs.
        name: the sweep's.
        sweep: its config and identity.
    """

    def __init__(self, client: Any, experiment_id: str, name: str, sweep: SweepFile) -> None:
        self.experiment_id = experiment_id
        self.runs: dict[str, str] = {}
        """Ids of the runs there are, by the trial's name, PARENT for the sweep's own."""
        self._stamps: dict[str, dict[int, int]] = {}
        """By run that goes on: each step that it has, and the stamp it has there."""
        self._client = client
        self._name = name
        self._sweep = sweep

    def find_runs(self) -> None:
        """Find this sweep's runs by their tags: our notes may be lost or late, the runs not."""
        self.runs = {}
        token = None
        query = f"tags.`sweep.id` = '{self._sweep.identity.sweep_id}'"
        while True:
            page = self._client.search_runs([self.experiment_id], query, page_token=token)
            for run in page:
                self.runs[run.data.tags.get("sweep.trial", PARENT)] = run.info.run_id
            token = page.token
            if not token:
                return

    def require_parent(self) -> None:
        """Make the parent run if there is none, and see that it shows all that it should."""
        if PARENT not in self.runs:
            self.runs[PARENT] = create_parent(
                self._client, self.experiment_id, self._name, self._sweep
            )
        complete_parent(
            self._client, self.experiment_id, self.runs[PARENT], self._name, self._sweep
        )

    def withdraw(self) -> None:
        """Delete the parent run: the sweep ended before it began."""
        parent = self.runs.pop(PARENT, None)
        if parent is not None:
            self._client.delete_run(parent)

    def describe_experiment(self) -> None:
        """Say in the experiment's description which sweeps it holds."""
        describe_experiment(self._client, self.experiment_id)

    def make(self, call: Call) -> None:
        """Make one call; a run that somebody deleted stays so, unless its trial starts again.

        Raises:
            Exception: the store failed; whether it has done what was asked is not known.
        """
        from mlflow.entities import RunTag

        match call:
            case StartTrial():
                self._start(call)
            case _ if call.run not in self.runs:
                pass
            case GoOn(run):
                self._go_on(run)
            case LogMetrics(run, points):
                self._log(run, points)
            case SetTags(run, tags):
                told = [RunTag(key, value) for key, value in tags.items()]
                self._client.log_batch(self.runs[run], tags=told)
            case LogText(run, path, text):
                self._client.log_text(self.runs[run], text, path)
            case LogFile(run, file, folder):
                self._client.log_artifact(self.runs[run], str(file), folder or None)
            case EndRun(run, status, ended):
                self._client.set_terminated(self.runs[run], status, ended)

    def _start(self, call: StartTrial) -> None:
        from mlflow.entities import Param

        known = self.runs.get(call.trial)
        if known is not None:
            self._go_on(call.trial)
            self._client.set_tag(known, "mlflow.parentRunId", self.runs[PARENT])
            if self._client.get_run(known).data.params:
                return  # else a crash came between the run and its params
        else:
            run = self._client.create_run(
                self.experiment_id,
                start_time=call.started,
                run_name=call.shown_as,
                tags={
                    **common_tags(self._name, self._sweep),
                    "mlflow.parentRunId": self.runs[PARENT],
                    **call.tags,
                },
            )
            known = self.runs[call.trial] = str(run.info.run_id)
        params = [Param(key, value) for key, value in call.params.items()]
        self._client.log_batch(known, params=params)

    def _go_on(self, run: str) -> None:
        self._client.update_run(self.runs[run], status="RUNNING")
        history = self._client.get_metric_history(self.runs[run], "best_val_loss")
        self._stamps[run] = {row.step: row.timestamp for row in history}

    def _log(self, run: str, points: tuple[Point, ...]) -> None:
        """Log points, but none at a step that the run has from another time.

        A trial reports a step again where the record lost its end, or was restored from a backup.
        """
        from mlflow.entities import Metric

        stamps = self._stamps.get(run, {})
        new = [p for p in points if stamps.get(p.step, p.stamp) == p.stamp]
        metrics = [Metric(p.key, p.value, p.stamp, p.step) for p in new]
        # More than a server takes at once is split by MLflow's client.
        self._client.log_batch(self.runs[run], metrics=metrics)
