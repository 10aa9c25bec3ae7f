"""A trained model in MLflow, logged and registered: files only, no pickle, no fixed length."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.tracking.delivery import read_delivery, require_same_store
from sweep.tracking.store import open_client, tracking_uri
from trainable.checkpoint.export import CONFIG_FILE, ORIGIN_FILE, read_export
from trainable.checkpoint.hugging_face import read_origin
from trainable.common.files import file_digest

EXPORT_TAG = "sweep.export"
"""On a logged model: the digest of the file that vouches for all others of its export."""


@dataclass(frozen=True)
class _Export:
    """An exported model, and where it comes from."""

    exported: Path
    """The folder, of export_model or export_hugging_face."""
    folder: Path
    """The sweep's."""
    trial: str
    step: int


def log_model(exported: Path, folder: Path, trial: str, step: int) -> str:
    """Log an exported folder as a model of the trial's run and the sweep's; return the model's id.

    An export that was logged before is the same model: nothing is doubled.

    Raises:
        SweepError: the sweep was not recorded in MLflow, or the store refuses.
        CheckpointError: the export is damaged.
    """
    export = _Export(exported, folder, trial, step)
    with _asked("--log-model", export) as (client, experiment, runs):
        name = export.folder.name.replace(".", "-")  # MLflow takes no dots
        return _logged(client, experiment, runs, name, export)


def register_model(name: str, exported: Path, folder: Path, trial: str, step: int) -> int:
    """Log an exported folder, and register it as a new version of `name`; return the version.

    The version becomes the alias "champion": `mlflow.artifacts.download_artifacts(
    "models:/NAME@champion")` gives the folder back, and load_model of trainable.checkpoint.export
    opens it, or transformers, if it was exported for those.

    Raises:
        SweepError: the sweep was not recorded in MLflow, or the store refuses.
        CheckpointError: the export is damaged.
    """
    export = _Export(exported, folder, trial, step)
    with _asked(f"--register {name}", export) as (client, experiment, runs):
        model = _logged(client, experiment, runs, name, export)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(
            name, source=f"models:/{model}", run_id=runs[0], model_id=model
        )
        client.set_registered_model_alias(name, "champion", version.version)
        return int(version.version)


@contextlib.contextmanager
def _asked(flag: str, export: _Export) -> Iterator[tuple[Any, str, list[str]]]:
    """Give MLflow's client, the experiment, and the runs of trial and sweep; name the flag."""
    folder, trial = export.folder, export.trial
    state = read_delivery(folder)
    if state is None or trial not in state.runs:
        raise SweepError(
            f"{flag}: trial {trial} is not in MLflow; deliver it first with "
            f"`python sweep/status.py {folder.name} --sync`"
        )
    require_same_store(folder)
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    client = open_client(uri)
    # The client resolves "models:/..." through MLflow's global address, not through its own.
    mlflow.set_tracking_uri(uri)
    try:
        yield client, state.experiment_id, [state.runs[trial], state.parent]
    except (MlflowException, OSError) as error:  # the store refuses, or its disk is full
        raise SweepError(f"{flag}: {redact(str(error))}") from error


def _logged(client: Any, experiment: str, runs: list[str], name: str, export: _Export) -> str:
    """Return the id of the model that an export is, logged now unless it was before."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    foreign = (export.exported / ORIGIN_FILE).is_file()
    (read_origin if foreign else read_export)(export.exported)
    digest = file_digest(export.exported / (ORIGIN_FILE if foreign else CONFIG_FILE))
    found = client.search_logged_models([experiment], f"tags.`{EXPORT_TAG}` = '{digest}'")
    known = [m.model_id for m in found if m.status == LoggedModelStatus.READY and m.name == name]
    if known:
        model = str(known[0])
    else:
        made = client.create_logged_model(
            experiment, name=name, source_run_id=runs[0], tags={EXPORT_TAG: digest}
        )
        model = str(made.model_id)
        client.log_model_artifacts(model, str(export.exported))
        client.finalize_logged_model(model, LoggedModelStatus.READY)
    for run in runs:
        outputs = client.get_run(run).outputs
        if model not in {told.model_id for told in outputs.model_outputs}:
            client.log_outputs(run, [LoggedModelOutput(model, export.step)])
    return model
