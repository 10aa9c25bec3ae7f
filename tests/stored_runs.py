"""A sweep delivered to a real MLflow store, and what the store then holds of it."""

from pathlib import Path
from typing import Any

from sweep_samples import ended, evaluated, event, saved, session, started

from sweep.record.folder import SweepFile
from sweep.record.lines import Event
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import open_client, tracking_uri

Stored = dict[str, dict[str, Any]]


def deliver(folder: Path, sweep: SweepFile) -> MlflowRuns:
    """Deliver a sweep's record as a new process would."""
    runs = MlflowRuns(folder, sweep)
    runs.connect()
    runs.deliver_new()
    runs.finish()
    return runs


def stored(uri: str | None = None, experiment: str = "lm-sweep") -> Stored:
    """Return all that the store holds of a sweep's runs, by the trial's name, "" for the parent."""
    client = open_client(uri or tracking_uri())
    found: Stored = {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        name = run.data.tags.get("sweep.trial", "")
        assert name not in found, f"the run of {name or 'the parent'} is doubled"
        found[name] = {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "curves": {
                key: [
                    (m.step, m.value, m.timestamp)
                    for m in client.get_metric_history(run.info.run_id, key)
                ]
                for key in run.data.metrics
            },
            "latest": dict(run.data.metrics),
            "datasets": [
                (d.dataset.name, d.dataset.digest, [(t.key, t.value) for t in d.tags])
                for d in run.inputs.dataset_inputs
            ],
        }
    return found


def whole_story() -> list[Event]:
    """Return a small sweep from its first event to its last."""
    return [
        session(num_samples=3),
        started("t000", lr=1e-3),
        started("t001", lr=3.16227766e-3, d_model=64),
        evaluated("t000", 0, 5.5, lr=0.0),
        evaluated("t001", 0, 5.25),
        evaluated("t000", 10, 4.0, lr=1e-3),
        saved("t000", 10, 4.0),
        evaluated("t001", 10, 4.5),
        ended("t001", "stopped", step=10),
        started("t002", lr=9e-3),
        evaluated("t002", 0, 5.5),
        evaluated("t000", 20, 4.25, lr=5e-4),
        ended("t002", "diverged", step=7, reason="loss nan at step 7"),
        event("notice", trial="t000", text="a notice"),
        event("trial_restarted", trial="t000", reason="worker died"),
        evaluated("t000", 80, 3.0, lr=1e-4),
        ended("t000", "finished"),
        event("session_ended", completed=True, time=1_700_000_100.0),
    ]
