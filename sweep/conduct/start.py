"""A new sweep: checked, planned, and run."""

import shutil
import time

from sweep.cluster.placement import concurrency, local_machine
from sweep.common.errors import SweepError
from sweep.conduct.session import open_data, run_session
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan, make_plan
from sweep.plan.probe import settled
from sweep.record.folder import SweepFile, create_sweep, next_name
from sweep.record.identity import new_identity
from sweep.record.results import SweepRecord
from sweep.show.console import open_console
from sweep.show.plan_text import show_plan
from trainable.common.errors import UserError
from trainable.common.paths import project_folder

ROOM_FOR_RECORDS = 20 * 2**20
"""Bytes of disk for the sweep's record and MLflow's store."""


def start_sweep(config: SweepConfig, *, dry_run: bool = False, verify_data: bool = False) -> int:
    """Run a new sweep; return the exit status: 0, or 128 + the signal that ended it.

    Raises:
        ConfigError, DataError, SweepError: before anything is written.
    """
    console = open_console()
    machine = local_machine(config)
    concurrent = concurrency(config, machine)
    dataset = open_data(config, console, verify=verify_data)
    plan = make_plan(config, dataset, concurrent)
    if dry_run:
        show_plan(settled(config, dataset), dataset, plan, concurrent, console)
        return 0
    _require_room(plan)
    name = config.name or next_name()
    config = config.model_copy(update={"name": name})
    sweep = SweepFile(identity=new_identity(time.time(), dataset.digest), config=config)
    folder = create_sweep(name, sweep)
    try:
        return run_session(folder, sweep, machine, concurrent, dataset, plan, console)
    except UserError:
        if not SweepRecord.read(folder).sessions:  # refused before it began: leave nothing behind
            shutil.rmtree(folder)
        raise


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
