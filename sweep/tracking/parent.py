"""A sweep's own MLflow run, the parent of its trials' runs."""

import getpass
import json
from typing import Any

from sweep.analysis.words import rung_text
from sweep.config.parts import parts_of
from sweep.config.sweep import SweepConfig
from sweep.record.folder import SweepFile
from sweep.tracking.note import FIRST_WORDS, ParentRow, experiment_note
from sweep.tracking.view import view_tags
from trainable.common.paths import in_project

LISTED = 20
"""Sweeps in the experiment's description."""

_NOTE = "mlflow.note.content"


def common_tags(name: str, sweep: SweepFile) -> dict[str, str]:
    """Return the tags of all runs of the sweep called `name`."""
    identity = sweep.identity
    tags = {
        "sweep.id": identity.sweep_id,
        "sweep.name": name,
        "dataset.digest": identity.dataset_digest,
        "mlflow.source.name": "sweep/run.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    if identity.git_commit:
        tags["mlflow.source.git.commit"] = identity.git_commit
    return tags


def create_parent(client: Any, experiment_id: str, name: str, sweep: SweepFile) -> str:
    """Make the parent run; return its id."""
    identity = sweep.identity
    run = client.create_run(
        experiment_id,
        start_time=int(identity.created * 1000),
        run_name=name,
        tags={
            **common_tags(name, sweep),
            **{f"version.{package}": v for package, v in identity.versions.items()},
            "sweep.code": identity.code_digest,
        },
    )
    return str(run.info.run_id)


def complete_parent(
    client: Any, experiment_id: str, run_id: str, name: str, sweep: SweepFile
) -> None:
    """Log what a parent shows, unless it was: a crash may have come between."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.exceptions import MlflowException

    run = client.get_run(run_id)
    if run.inputs.dataset_inputs:
        return
    identity, config = sweep.identity, sweep.config
    for key, value in view_tags(name, config, identity.created).items():
        client.set_experiment_tag(experiment_id, key, value)
    rungs = [rung_text(config, r) if config.by_flops else str(r) for r in config.rungs]
    values = {
        "num_samples": config.num_samples,
        "seed": config.seed,
        "search": config.algorithm,
        "goal": config.search.goal,
        **({"warm_start": ", ".join(config.search.warm_start)} if config.search.warm_start else {}),
        "compare": config.search.compare,
        **({"flops": config.search.flops} if config.by_flops else {}),
        "rungs": ", ".join(rungs) or "none",
        "reduction_factor": config.asha.reduction_factor,
        "cpus_per_trial": config.cpus_per_trial,
        "gpus_per_trial": config.gpus_per_trial,
        **_resources_param(config),
        "train.steps": "by size" if config.by_flops else config.trial.train.steps,
        "train.seed": config.trial.train.seed,
        "train.precision": config.trial.train.precision,
        "train.attention": config.trial.train.attention,
        "train.compile": config.trial.train.compile,
        **{f"space.{n}": f"{d.kind} {d.values}" for n, d in config.space.items()},
    }
    if not run.data.params:
        client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])
    folder = in_project(config.trial.data.dataset)
    dataset = Dataset(
        name=folder.name,
        digest=identity.dataset_digest,
        source_type="local",
        source=json.dumps({"uri": str(folder)}),
    )
    context = [InputTag("mlflow.data.context", "training")]
    inputs = [DatasetInput(dataset, context)]
    try:
        client.log_inputs(run_id, datasets=inputs)
    except MlflowException:  # two sweeps made the dataset's row at once: now it is found
        client.log_inputs(run_id, datasets=inputs)


def _resources_param(config: SweepConfig) -> dict[str, str]:
    """Return what trials take by a condition as one param, if there are such conditions."""
    told = [f"{p.condition}: {p.share.words}" for p in parts_of(config) if p.condition]
    return {"resources": "; ".join(told)} if told else {}


def describe_experiment(client: Any, experiment_id: str) -> None:
    """List the experiment's newest sweeps in its description, unless that is somebody's own."""
    tags = client.get_experiment(experiment_id).tags
    if not tags.get(_NOTE, FIRST_WORDS).startswith(FIRST_WORDS):
        return
    parents = client.search_runs(
        [experiment_id], "tags.`sweep.code` != ''", max_results=LISTED, order_by=["start_time DESC"]
    )
    rows = [
        ParentRow(
            name=run.data.tags["sweep.name"],
            run_id=run.info.run_id,
            best_val_loss=run.data.metrics.get("best_val_loss"),
            best_params=run.data.tags.get("best.params", ""),
            outcomes=run.data.tags.get("outcomes", "running"),
        )
        for run in parents
    ]
    client.set_experiment_tag(experiment_id, _NOTE, experiment_note(experiment_id, rows))
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container's uid may have no name
