"""One session of a sweep: Tune run to its end or to an interruption."""

import shutil
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial

from sweep.config import SweepConfig
from sweep.errors import SweepError
from sweep.events import EventLog
from sweep.recorder import Recorder
from sweep.results import SweepRecord
from sweep.retention import existing
from sweep.scheduler import build_scheduler
from sweep.searcher import SweepSearch
from sweep.watch import NodeWatch
from trainable.tune_trainable import LanguageModelTrial

FULL_BYTES = 2**20
"""A disk with less room than this counts as full."""


def run_trials(
    config: SweepConfig, folder: Path, record: SweepRecord, log: EventLog, concurrent: int
) -> None:
    """Run the trials that are still to do, until the last has ended or a signal stops them.

    `record` and `log` take in all that happens. Ray must have been started.

    Raises:
        SweepError: Ray died under the trials, or the disk is full.
    """
    watch = NodeWatch()
    recorder = Recorder(config, folder, record, log)
    unfinished = record.unfinished
    to_do = len(unfinished) + max(0, config.num_samples - len(record.trials))
    checkpoints = {
        trial.name: [str(folder / c.path) for c in existing(folder, trial)] for trial in unfinished
    }
    tuner = tune.Tuner(
        tune.with_resources(
            LanguageModelTrial, {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
        ),
        tune_config=tune.TuneConfig(
            num_samples=to_do,
            search_alg=SweepSearch(config, record, checkpoints, concurrent),
            scheduler=build_scheduler(config, record),
            reuse_actors=True,
            trial_dirname_creator=trial_name,
            trial_name_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"session-{record.sessions}",
            storage_path=str(folder),
            callbacks=[recorder, watch],
            # The trial says when to save: a lost one must not, at its end, either.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if not recorder.disk_full and shutil.disk_usage(folder).free > FULL_BYTES:
            raise
        raise disk_full_error(folder) from error
    if recorder.disk_full:
        raise disk_full_error(folder)
    if watch.died:
        raise SweepError(
            f"sweep {folder.name}: Ray died (killed, or out of memory?); the trials are saved, "
            f"go on with `python sweep/run.py --resume {folder.name}`"
        )


def disk_full_error(folder: Path) -> SweepError:
    """Return what to say when there is no room for a sweep's files."""
    free = shutil.disk_usage(folder).free
    return SweepError(
        f"sweep {folder.name}: the disk is full ({free / 2**20:,.0f} MiB free in {folder}); what "
        "was saved is whole: make room and go on with "
        f"`python sweep/run.py --resume {folder.name}`"
    )


def trial_name(trial: Trial) -> str:
    """Return our name of a Tune trial: it is the name of its folder, too."""
    name: str = trial.config["name"]
    return name
