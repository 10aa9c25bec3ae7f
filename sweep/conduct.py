"""A sweep from its config to its last line: start or resume, plan, session, summary."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.closing import close_session, settle
from sweep.config import SweepConfig
from sweep.console import open_console, say
from sweep.errors import SweepError
from sweep.events import EventLog
from sweep.folder import (
    SweepFile,
    code_digest,
    create_sweep,
    locked,
    new_identity,
    next_name,
    require_private,
    write_sweep,
)
from sweep.interruption import Interrupted, Interruption
from sweep.mlflow_runs import MlflowRuns
from sweep.placement import Machine, concurrency, local_machine, needed
from sweep.plan import Plan, make_plan, settled
from sweep.progress import Progress
from sweep.ray_start import ray_starting
from sweep.results import SweepRecord
from sweep.tables import counts_text
from sweep.terminal import (
    interrupted_text,
    ray_died_text,
    show_plan,
    show_summary,
)
from sweep.tracking import Tracker
from trainable.data import TokenDataset, open_dataset
from trainable.device import resolve_device
from trainable.errors import ConfigError, UserError
from trainable.paths import project_folder
from trainable.prepare import ensure_default

MAY_CHANGE = {"num_samples", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "max_failures"}
"""Settings that a resume may change; others would make the trials incomparable."""
ROOM_FOR_RECORDS = 20 * 2**20
"""Bytes of disk for the sweep's record and MLflow's store."""


def start_sweep(config: SweepConfig, *, dry_run: bool = False) -> int:
    """Run a new sweep; return the exit status: 0, or 128 + the signal that ended it.

    Raises:
        ConfigError, DataError, SweepError: before anything is written.
    """
    console = open_console()
    machine = local_machine(config)
    concurrent = concurrency(config, machine)
    dataset = _open(config, console)
    plan = make_plan(config, dataset, concurrent)
    resolve_device(config.trial.train)  # refused now, if it is not there
    if dry_run:
        show_plan(settled(config, dataset), dataset, plan, concurrent, console)
        return 0
    _require_room(plan)
    name = config.name or next_name()
    config = config.model_copy(update={"name": name})
    sweep = SweepFile(identity=new_identity(time.time(), dataset.digest), config=config)
    folder = create_sweep(name, sweep)
    try:
        return _conduct(folder, sweep, machine, concurrent, dataset, plan, console)
    except UserError:
        if not SweepRecord.read(folder).sessions:  # refused before it began: leave nothing behind
            shutil.rmtree(folder)
        raise


def resume_sweep(
    folder: Path, stored: SweepFile, config: SweepConfig, *, dry_run: bool = False
) -> int:
    """Go on with a sweep under `config`; return the exit status.

    Raises:
        ConfigError, DataError, SweepError: config, data or code are not those it began with.
    """
    console = open_console()
    require_private(folder)
    _require_comparable(stored, config)
    machine = local_machine(config)
    concurrent = concurrency(config, machine)
    dataset = _open(config, console)
    if dataset.digest != stored.identity.dataset_digest:
        raise SweepError(
            f"--resume {folder.name}: dataset {dataset.folder} is {dataset.digest}, the sweep "
            f"began with {stored.identity.dataset_digest}; bring that dataset back, or start anew"
        )
    record = SweepRecord.read(folder)
    missing = config.num_samples - len(record.trials)
    todo = f"{len(record.unfinished)} trials to go on with, {max(0, missing)} new ones"
    say(console, f"resuming {folder.name}: {counts_text(record)}; {todo}")
    if config.threads != stored.config.threads:
        say(
            console,
            f"warning: {config.threads} threads a trial instead of {stored.config.threads}: "
            "low-order bits will differ",
        )
    if not record.unfinished and missing <= 0:
        say(console, "nothing to do: all trials have ended; raise --num-samples to go on")
        if not dry_run:
            with locked(folder):
                settle(folder, stored)  # the driver may have been killed just before its end
        return 0
    if dry_run:
        plan = make_plan(config, dataset, concurrent)
        show_plan(config, dataset, plan, concurrent, console)
        return 0
    sweep = SweepFile(identity=stored.identity, config=config)
    return _conduct(folder, sweep, machine, concurrent, dataset, None, console)


def _conduct(
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
                from sweep.session import run_trials  # Tune and Optuna take a while to import

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
    show_summary(folder, config, record, runs.experiment_id if runs else None, console)
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


def _open(config: SweepConfig, console: Console) -> TokenDataset:
    made = ensure_default(config.trial.data)
    if made:
        say(console, f"prepared {config.trial.data.dataset}: the {made.source}")
    return open_dataset(config.trial.data, config.trial.model.context_length)


def _require_room(plan: Plan) -> None:
    """Refuse a sweep whose checkpoints would not fit on the disk."""
    home = project_folder()
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    needed = plan.disk_bytes + ROOM_FOR_RECORDS
    if free < needed:
        raise SweepError(
            f"disk: {free / 2**20:,.0f} MiB free in {place}, the sweep may need "
            f"{needed / 2**20:,.0f} MiB; make room, lower --keep-checkpoints, or set LM_SWEEP_HOME "
            "to another disk"
        )


def _require_comparable(stored: SweepFile, config: SweepConfig) -> None:
    """Refuse to go on with another config or other code than the sweep began with."""
    before = _flat(stored.config.model_dump(by_alias=True))
    after = _flat(config.model_dump(by_alias=True))
    changed = [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and name not in MAY_CHANGE
    ]
    if changed:
        raise ConfigError(
            f"--resume: the sweep began with another config ({'; '.join(changed)}); "
            f"only {', '.join(sorted(MAY_CHANGE))} may change: start a new sweep"
        )
    if stored.identity.code_digest != code_digest():
        commit = stored.identity.git_commit
        raise ConfigError(
            f"--resume: the code in trainable/ is {code_digest()}, the sweep began with "
            f"{stored.identity.code_digest}{f' (git commit {commit})' if commit else ''}; its "
            "trials would not be comparable: check that version out, or start a new sweep"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
