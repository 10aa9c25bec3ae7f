"""One session of a sweep, from its lock to its last line."""

import contextlib
import os
import sys
from pathlib import Path

from rich.console import Console

from sweep.cluster.local_ray import ray_starting
from sweep.cluster.placement import Machine, needed
from sweep.common.errors import SweepError
from sweep.config.sweep import SweepConfig
from sweep.control.interruption import Interrupted, Interruption
from sweep.plan.plan import Plan
from sweep.plan.probe import settled
from sweep.record.closing import close_session
from sweep.record.events import EventLog
from sweep.record.folder import SweepFile, write_sweep
from sweep.record.lock import locked
from sweep.record.results import SweepRecord
from sweep.show.console import say
from sweep.show.plan_text import show_plan
from sweep.show.progress import Progress
from sweep.show.summary import interrupted_text, ray_died_text, show_summary
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.tracker import Tracker
from sweep.tracking.view import page_address
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.build import ensure_default


def run_session(
    folder: Path,
    sweep: SweepFile,
    machine: Machine,
    concurrent: int,
    dataset: TokenDataset,
    plan: Plan | None,
    console: Console,
) -> int:
    """Run a session of the sweep; `plan` is shown, where there is one to show."""
    config = sweep.config
    os.umask(0o077)  # records, checkpoints, MLflow's store and Ray's token are private
    with locked(folder):
        write_sweep(folder, sweep)
        record = SweepRecord.read(folder)
        log = EventLog(folder)
        log.listen(record.apply)
        runs, tracker = None, None
        interruption = Interruption()

        def ray_died() -> int:
            return _end_without_ray(folder, record, log, tracker, interruption.signal)

        try:
            # The probes run, and MLflow opens its store, while Ray starts.
            trials_take = needed(config, machine, concurrent)
            with interruption, ray_starting(trials_take, concurrent, ray_died) as wait_for_ray:
                config = settled(config, dataset)
                sweep = sweep.model_copy(update={"config": config})
                write_sweep(folder, sweep)
                if config.tracking.enabled:
                    runs = MlflowRuns(folder, sweep)
                    tracker = Tracker(runs)
                    log.listen(tracker.notice)
                    tracker.start()
                seconds = None
                if plan is not None:
                    seconds = show_plan(config, dataset, plan, concurrent, console)
                from sweep.engine.session import (
                    run_trials,  # Tune and Optuna take a while to import
                )

                interruption.require_none()
                wait_for_ray()
                if tracker and not tracker.wait_connected():
                    why = tracker.trouble or "no answer yet"
                    say(console, f"MLflow is away, training goes on: {why}")
                interruption.require_none()
                log.append(
                    "session_started", session=record.sessions + 1, num_samples=config.num_samples
                )
                progress = Progress(
                    config,
                    record,
                    seconds,
                    console,
                    lambda: tracker.trouble if tracker else None,
                )
                log.listen(progress.notice)
                try:
                    with progress:
                        run_trials(config, folder, record, log, concurrent, interruption)
                finally:
                    done = interruption.signal is None and not record.unfinished
                    with contextlib.suppress(OSError):  # a full disk has its own error
                        log.append("session_ended", completed=done)
        except (Interrupted, SweepError):
            if interruption.signal is None:
                raise  # else that is why: a signal to the whole group ends a Ray that starts
        finally:
            log.close()
            delivered = tracker.close() if tracker else True
        if not delivered:
            say(
                console,
                "MLflow did not get everything; when it is back: "
                f"python sweep/status.py {folder.name} --sync",
            )
    if interruption.signal is not None:
        say(console, interrupted_text(folder.name, record, config.num_samples))
        return 128 + interruption.signal
    page = page_address(runs.experiment_id, folder.name) if runs and runs.experiment_id else None
    show_summary(folder, config, record, page, console)
    return 0 if record.best else 1


def _end_without_ray(
    folder: Path, record: SweepRecord, log: EventLog, tracker: Tracker | None, signal: int | None
) -> int:
    """Record and tell the end of a session whose main thread may hang in a call of Ray.

    A signal to the whole process group (timeout, systemd, a batch system) ends Ray, too.
    """
    log.seal()
    with contextlib.suppress(OSError):  # a full disk: it is as if the driver had been killed
        close_session(record, log)
        log.close()
    if tracker:
        tracker.close()
    if signal is not None:
        print(interrupted_text(folder.name, record, record.num_samples), flush=True)
        return 128 + signal
    print(ray_died_text(folder.name), file=sys.stderr, flush=True)
    return 2


def open_data(config: SweepConfig, console: Console) -> TokenDataset:
    """Open the dataset of a sweep; make the embedded corpus first, if that is missing."""
    made = ensure_default(config.trial.data)
    if made:
        say(console, f"prepared {config.trial.data.dataset}: the {made.source}")
    return open_dataset(config.trial.data, config.trial.model.context_length)
