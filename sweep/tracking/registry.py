"""A trained model in MLflow's model registry: files only, no pickle, no fixed sequence length."""

from pathlib import Path

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.tracking.delivery import read_delivery, require_same_store
from sweep.tracking.store import open_client, tracking_uri
from trainable.checkpoint.export import ORIGIN_FILE, read_export
from trainable.checkpoint.hugging_face import read_origin


def register_model(name: str, exported: Path, folder: Path, trial: str, step: int) -> int:
    """Register the exported folder as a new version of `name`; return the version.

    The version becomes the alias "champion": `mlflow.artifacts.download_artifacts(
    "models:/NAME@champion")` gives the folder back, and load_model of trainable.checkpoint.export
    opens it, or transformers, if it was exported for those.

    Raises:
        SweepError: the sweep was not recorded in MLflow, or the store refuses.
        CheckpointError: the export is damaged.
    """
    state = read_delivery(folder)
    if state is None or trial not in state.runs:
        raise SweepError(
            f"--register {name}: trial {trial} is not in MLflow; deliver it first with "
            f"`python sweep/status.py {folder.name} --sync`"
        )
    (read_origin if (exported / ORIGIN_FILE).is_file() else read_export)(exported)
    experiment, run_id = state.experiment_id, state.runs[trial]
    import mlflow
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException

    require_same_store(folder)
    uri = tracking_uri()
    client = open_client(uri)
    # The client resolves "models:/..." through MLflow's global address, not through its own.
    mlflow.set_tracking_uri(uri)
    try:
        model = client.create_logged_model(experiment, name=name, source_run_id=run_id)
        client.log_model_artifacts(model.model_id, str(exported))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(
            name, source=f"models:/{model.model_id}", run_id=run_id, model_id=model.model_id
        )
        client.set_registered_model_alias(name, "champion", version.version)
    except (MlflowException, OSError) as error:  # the store refuses, or its disk is full
        raise SweepError(f"--register {name}: {redact(str(error))}") from error
    return int(version.version)
