"""A new sweep: checked, planned, and run."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from sweep.cluster.place import open_place, plan_on
from sweep.common.errors import SweepError
from sweep.conduct.detach import Begun
from sweep.conduct.session import open_data, run_session
from sweep.conduct.warm_start import older_events, warm_started
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan
from sweep.plan.sizes import with_budget
from sweep.record.folder import (
    NameTakenError,
    SweepFile,
    create_sweep,
    next_name,
    results_folder,
)
from sweep.record.identity import new_identity
from sweep.record.lines import Event
from sweep.record.results import SweepRecord
from sweep.record.storage import base_of
from sweep.show.console import open_console, say
from sweep.show.plan_text import tell_plan
from trainable.common.output import Output
from trainable.common.paths import in_project
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.build import default_is_missing, prepare
from trainable.data.corpus import StandardLibrary
from trainable.storage.address import open_store, resolved

ROOM_FOR_RECORDS = 20 * 2**20
"""Bytes of disk for the sweep's record and MLflow's store."""


def start_sweep(
    config: SweepConfig,
    *,
    dry_run: bool = False,
    verify_data: bool = False,
    ray_address: str | None = None,
    begun: Begun | None = None,
    output: Output | None = None,
) -> int:
    """Run a new sweep; return the exit status: 0, or 128 + the signal that ended it.

    Args:
        config: the sweep.
        dry_run: print the plan only.
        verify_data: read every byte of the token files.
        ray_address: of the Ray cluster to run on; None: RAY_ADDRESS, or a Ray of our own.
        begun: called once its session has begun.
        output: where to print; None: for a person.

    Raises:
        ConfigError, DataError, SweepError: before anything is written.
    """
    output = output or Output()
    console = open_console(output)
    if config.storage is not None:
        open_store(resolved(config.storage)).require_usable()
    storage = base_of(config)
    with open_place(config, ray_address) as place:
        place.tell = functools.partial(say, console)
        if dry_run:
            with _data_to_plan_with(config, console, verify_data) as dataset:
                config = with_budget(config, dataset.vocab_size)
                config, older = warm_started(config, dataset.digest)
                place.admit(dataset, storage, verify=verify_data)
                plan = plan_on(place, config, dataset)
                tell_plan(place.settled(config, dataset), dataset, plan, older, place, output)
            return 0
        dataset = open_data(config, console, verify=verify_data)
        config = with_budget(config, dataset.vocab_size)
        config, older = warm_started(config, dataset.digest)
        place.admit(dataset, storage, verify=verify_data)
        plan = plan_on(place, config, dataset)
        _require_room(plan, storage)
        folder, sweep = _create(config, dataset.digest, older_events(older))
        try:
            return run_session(folder, sweep, place, dataset, plan, output, begun)
        finally:
            if not SweepRecord.read(folder).sessions:
                shutil.rmtree(folder)  # refused or interrupted before it began: the name is free


@contextlib.contextmanager
def _data_to_plan_with(
    config: SweepConfig, console: Console, verify: bool
) -> Iterator[TokenDataset]:
    """Open the dataset of a sweep; the embedded corpus, if missing, is made for the plan only."""
    data = config.trial.data
    if not default_is_missing(data):
        yield open_data(config, console, verify=verify)
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "dataset"
        prepare(StandardLibrary(), made)
        moved = data.model_copy(update={"dataset": str(made)})
        dataset = open_dataset(moved, config.trial.model.context_length)
        yield dataclasses.replace(dataset, folder=in_project(data.dataset))


def _create(
    config: SweepConfig, dataset_digest: str, events: Sequence[Event] = ()
) -> tuple[Path, SweepFile]:
    """Make the folder of a new sweep, whose record begins with `events`.

    Without a name it gets the next that is free.
    """
    identity = new_identity(time.time(), dataset_digest)
    while True:
        name = config.name or next_name()
        named = config.model_copy(update={"name": name})
        sweep = SweepFile(identity=identity, config=named)
        try:
            return create_sweep(name, sweep, events), sweep
        except NameTakenError:
            if config.name:
                raise  # else another sweep, started together with this one, was faster


def _require_room(plan: Plan, storage: str) -> None:
    """Refuse a sweep that would not fit on its disks."""
    needed = {results_folder().resolve(): ROOM_FOR_RECORDS}  # may be a link, or another disk
    disk = open_store(storage).disk()
    if disk is not None:
        needed[disk.resolve()] = needed.get(disk.resolve(), 0) + plan.disk_bytes
    for place, size in needed.items():
        _require_free(place, size)


def _require_free(place: Path, needed: int) -> None:
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise SweepError(
            f"disk: {free / 2**20:,.0f} MiB free in {place}, the sweep may need "
            f"{needed / 2**20:,.0f} MiB; make room, lower --keep-checkpoints, or set LM_SWEEP_HOME "
            "to another disk"
        )
