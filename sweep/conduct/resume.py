"""A sweep gone on with, after any interruption or to extend it."""

import functools
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, duration
from sweep.cluster.place import Place, open_place, plan_on
from sweep.common.errors import SweepError
from sweep.conduct.detach import Begun
from sweep.conduct.session import open_data, run_session
from sweep.conduct.settle import settle, settle_record
from sweep.config.sweep import SweepConfig
from sweep.engine.failures import room_for
from sweep.record.folder import SweepFile
from sweep.record.identity import code_digest, library_versions
from sweep.record.lock import locked, require_private
from sweep.record.results import SweepRecord
from sweep.record.storage import base_of, store_of
from sweep.show.console import open_console, say
from sweep.show.plan_text import tell_plan
from sweep.show.summary import tell_result
from sweep.tracking.delivery import require_same_store
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.storage.address import open_store, resolved

MAY_CHANGE = {
    *("num_samples", "time_budget", "stage_data"),
    *("cpus_per_trial", "gpus_per_trial", "max_concurrent", "max_failures"),
}
"""Settings that a resume may change; others would make the trials incomparable."""


def resume_sweep(
    folder: Path,
    stored: SweepFile,
    config: SweepConfig,
    *,
    dry_run: bool = False,
    verify_data: bool = False,
    ray_address: str | None = None,
    begun: Begun | None = None,
    output: Output | None = None,
) -> int:
    """Go on with a sweep under `config`, wherever it ran before; return the exit status.

    Args: as for start_sweep.

    Raises:
        ConfigError, DataError, SweepError: config, data or code are not those it began with.
    """
    require_private(folder)
    if config.storage is not None:
        open_store(resolved(config.storage)).require_usable()
        store = store_of(folder)
        if store.disk() is not None:
            require_private(folder, Path(store.address("")))
    if config.tracking.enabled:
        require_same_store(folder)
    _require_comparable(stored, config)
    with open_place(config, ray_address) as place:
        output = output or Output()
        return _resume(folder, stored, config, place, output, dry_run, verify_data, begun)


def _resume(
    folder: Path,
    stored: SweepFile,
    config: SweepConfig,
    place: Place,
    output: Output,
    dry_run: bool,
    verify_data: bool,
    begun: Begun | None,
) -> int:
    console = open_console(output)
    place.tell = functools.partial(say, console)
    dataset = open_data(config, console, verify=verify_data)
    if dataset.digest != stored.identity.dataset_digest:
        raise SweepError(
            f"--resume {folder.name}: dataset {dataset.folder} is {dataset.digest}, the sweep "
            f"began with {stored.identity.dataset_digest}; bring that dataset back, or start anew"
        )
    if not dry_run:
        with locked(folder):
            settle_record(folder, config)
    record = SweepRecord.read(folder)
    for trial in record.unfinished:
        config.trial_config(trial.params)  # refused now, if the record was changed
    missing = config.num_samples - len(record.trials)
    todo = f"{len(record.unfinished)} trials to go on with, {max(0, missing)} new ones"
    say(console, f"resuming {folder.name}: {counts_text(record)}; {todo}")
    _warn(stored, config, console)
    if done := _nothing_to_do(stored, config, record):
        say(console, f"nothing to do: {done} to go on")
        if not dry_run:
            with locked(folder):
                settle(folder, stored)  # the driver may have been killed just before its end
        tell_result(folder, stored, Study(stored.config, record), output)
        return 0
    place.admit(dataset, base_of(config), verify=verify_data)
    # Refused now, if it does not fit there.
    plan = plan_on(place, config, dataset)
    if dry_run:
        tell_plan(config, dataset, plan, record.older, place, output)
        return 0
    sweep = SweepFile(identity=stored.identity, config=config)
    with room_for(folder):
        return run_session(folder, sweep, place, dataset, plan, output, begun)


def _nothing_to_do(stored: SweepFile, config: SweepConfig, record: SweepRecord) -> str | None:
    """Return why there is nothing to go on with, and what to raise; None if there is."""
    if not record.unfinished and config.num_samples <= len(record.trials):
        return "all trials have ended; raise --num-samples"
    same = record.ended_by == "time_budget" and config.time_budget == stored.config.time_budget
    if same or (config.budget_seconds is not None and record.seconds >= config.budget_seconds):
        taken = duration(record.seconds)
        return f"{taken} of the time budget {config.time_budget} are used; raise --time-budget"
    return None


def _warn(stored: SweepFile, config: SweepConfig, console: Console) -> None:
    """Say what may give other low-order bits than the sweep began with."""
    threads, threads_before = config.share.threads, stored.config.share.threads
    if threads != threads_before:
        say(
            console,
            f"warning: {threads} threads a trial instead of {threads_before}: "
            "low-order bits will differ",
        )
    for name, version in library_versions().items():
        before = stored.identity.versions.get(name)
        if version != before:
            say(
                console,
                f"warning: {name} {version}, the sweep began with {before}: "
                "low-order bits may differ",
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
