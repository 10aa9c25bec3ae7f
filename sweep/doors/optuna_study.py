"""A sweep as an Optuna study in a database, for optuna-dashboard and Optuna's own plots."""

import datetime
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.analysis.rows import trial_rows
from sweep.common.errors import SweepError
from sweep.record.results import TrialRecord
from trainable.common.errors import first_line
from trainable.common.files import temporary_beside

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sweep.doors.loaded import Sweep

OURS = "lm-sweep"
"""User attribute of a study that was written here."""


def write_study(sweep: "Sweep", path: Path) -> None:
    """Write a sweep's trials to an SQLite file, as the study of the sweep's name.

    `optuna-dashboard sqlite:///FILE` shows it. Other studies in the file stay, an older one of this
    sweep is replaced; the file changes as a whole. Trial numbers are the sweep's. Optuna takes some
    0.03 s a trial.

    - Finished trials are COMPLETE, with their best loss. Stopped ones are PRUNED, with their last:
      losses of unlike steps are not to be ranked. Those that diverged, failed or ran out of memory
      are FAIL, as all are for Optuna that have no loss. What is to be gone on with is RUNNING.
    - Intermediate values are the validation losses by step; at equal FLOPs by steps of the plan.
    - User attributes are what trial_rows tells but for the parameters: outcome, reason, rung, ...

    Raises:
        SweepError: the file cannot be written, is no such database, or has a study of this name
            that was not written here.
    """
    import optuna  # a second
    from sqlalchemy.event import listen
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with temporary_beside(path) as (file, temporary):
            if path.exists():
                shutil.copyfile(path, temporary)
            storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}")
            # Each trial is a commit: the disk is waited for once, at the end.
            listen(
                storage.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF")
            )
            storage.engine.dispose()
            try:
                _replace(storage, sweep)
            finally:
                storage.remove_session()
                storage.engine.dispose()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise SweepError(
            f"Optuna study in {path}: {first_line(error)}; choose a new file where you can write, "
            "or an SQLite database of Optuna's"
        ) from error


def _replace(storage: "optuna.storages.BaseStorage", sweep: "Sweep") -> None:
    import optuna

    names = {study.study_name: study for study in storage.get_all_studies()}
    if sweep.name in names:
        if OURS not in names[sweep.name].user_attrs:
            raise SweepError(
                f"Optuna study: the file has a study {sweep.name!r} that is not this sweep's; "
                "choose another file"
            )
        optuna.delete_study(study_name=sweep.name, storage=storage)
    study = optuna.create_study(study_name=sweep.name, storage=storage, direction="minimize")
    with warnings.catch_warnings():  # Optuna calls it experimental since its version 3.2
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["val_loss"])
    study.set_user_attr(OURS, str(sweep.folder))
    study.set_user_attr("findings", [finding.text for finding in sweep.findings])
    by_number = {trial.number: trial for trial in sweep.record.trials.values()}
    rows = {row["trial"]: row for row in trial_rows(sweep.facts.study)}
    for number in range(max(by_number, default=-1) + 1):
        study.add_trial(
            _frozen(sweep, by_number[number], rows[by_number[number].name])
            if number in by_number
            else _lost()
        )


def _frozen(sweep: "Sweep", trial: TrialRecord, row: dict[str, Any]) -> "FrozenTrial":
    """Return a trial as Optuna knows it; `row` is its row of trial_rows."""
    from optuna.trial import TrialState, create_trial

    from sweep.search.optuna_search import distribution

    losses = {
        sweep.config.plan_step(trial.params, told["step"]): told["val_loss"]
        for told in trial.evaluations
    }
    state, value = TrialState.FAIL, None
    if trial.outcome == "finished":
        state, value = TrialState.COMPLETE, trial.best_val_loss
    elif trial.outcome == "stopped":
        state, value = TrialState.PRUNED, trial.evaluations[-1]["val_loss"]
    elif trial.outcome in (None, "interrupted"):
        state = TrialState.RUNNING
    told = {name: v for name, v in row.items() if v is not None and name not in trial.params}
    frozen = create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions={name: distribution(sweep.config.space[name]) for name in trial.params},
        user_attrs=told,
        intermediate_values=losses,
    )
    frozen.datetime_start = datetime.datetime.fromtimestamp(trial.started)
    if trial.ended is not None and state.is_finished():
        frozen.datetime_complete = datetime.datetime.fromtimestamp(trial.ended)
    return frozen


def _lost() -> "FrozenTrial":
    """Return what stands for a trial whose start was damaged: the others keep their numbers."""
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.FAIL, user_attrs={"outcome": "lost"})
