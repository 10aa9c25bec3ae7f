"""One session of a sweep: Tune run to its end or to an interruption."""

import shutil
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sweep.cluster.forgiving import Witness
from sweep.cluster.place import Place
from sweep.config.sweep import SweepConfig
from sweep.control.interruption import Interruption
from sweep.engine.failures import FULL_BYTES, disk_full_error, unwritable_error
from sweep.engine.recorder import Recorder
from sweep.engine.stopping import Stopping
from sweep.plan.budget import TimeBudget
from sweep.record.events import EventLog
from sweep.record.results import SweepRecord
from sweep.record.retention import to_resume_from
from sweep.search.tune_search import SweepSearch
from sweep.search.tune_stopping import SweepStopping
from trainable.storage.store import Store
from trainable.tune_trainable import LanguageModelTrial


def run_trials(
    config: SweepConfig,
    folder: Path,
    store: Store,
    record: SweepRecord,
    log: EventLog,
    place: Place,
    interruption: Interruption,
    budget: TimeBudget | None = None,
) -> None:
    """Run the trials that are still to do, until the last has ended or something stops them.

    `record` and `log` take in all that happens; checkpoints go to `store`. Ray must have been
    started. A signal or the end of the time budget stops them.

    Raises:
        SweepError: the disk is full, or the record cannot be written.
    """
    witness = Witness()
    stopping = Stopping(interruption, budget)
    recorder = Recorder(
        config, store, record, log, stopping, place.node_of, lambda: _is_full(folder)
    )
    checkpoints = {t.name: [c.path for c in to_resume_from(t)] for t in record.unfinished}
    allows = budget.allows if budget else None
    search = SweepSearch(
        config, record, checkpoints, place.fits, store.address(""), allows, place.copy
    )

    def left() -> int:
        return len(record.unfinished) + max(0, config.num_samples - len(record.trials))

    def resources(trial: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([trial["takes"]])

    tuner = tune.Tuner(
        tune.with_resources(LanguageModelTrial, resources),
        tune_config=tune.TuneConfig(
            num_samples=left(),
            search_alg=search,
            scheduler=SweepStopping(search.method),
            reuse_actors=True,
            trial_dirname_creator=trial_name,
            trial_name_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"session-{record.sessions}",
            storage_path=str(folder),
            callbacks=[recorder, witness, *place.callbacks(search.allow, left)],
            stop=stopping,
            # The trial says when to save: a lost one must not, at its end, either.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            verbose=0,
        ),
    )
    try:
        with place.conducted(witness):
            tuner.fit()
        if recorder.error is not None:
            raise recorder.error
    except Exception as error:
        if recorder.disk_full or _is_full(folder):
            raise disk_full_error(folder, store.disk()) from error
        if isinstance(recorder.error, OSError):
            raise unwritable_error(folder, recorder.error) from error
        raise
    finally:
        store.settle()
    if recorder.disk_full:
        raise disk_full_error(folder, store.disk())


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < FULL_BYTES


def trial_name(trial: Trial) -> str:
    """Return our name of a Tune trial: it is the name of its folder, too."""
    name: str = trial.config["name"]
    return name
