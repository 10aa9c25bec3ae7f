"""Which checkpoints stay on disk: what resuming needs, and the best of the sweep."""

import shutil
from pathlib import Path

from sweep.results import SavedCheckpoint, SweepRecord, TrialRecord


def existing(folder: Path, trial: TrialRecord) -> list[SavedCheckpoint]:
    """Return a trial's checkpoints that are still there, newest first."""
    found = [c for c in trial.checkpoints if (folder / c.path).is_dir()]
    return sorted(found, key=lambda c: c.step, reverse=True)


def kept(record: SweepRecord, trial: TrialRecord, keep_trials: int) -> list[SavedCheckpoint]:
    """Return the checkpoints of `trial` that must stay.

    A running or interrupted trial keeps its two newest, to resume from, and its best. An ended
    one keeps its best if it is among the `keep_trials` best comparable trials, else none.
    """
    by_step = sorted(trial.checkpoints, key=lambda c: c.step)
    best = min(by_step, key=lambda c: c.val_loss, default=None)
    if trial.outcome in (None, "interrupted"):
        return [*by_step[-2:], *([best] if best else [])]
    ended = [t for t in record.ranked if t.outcome in ("finished", "stopped")]
    return [best] if best and trial in ended[:keep_trials] else []


def prune(folder: Path, record: SweepRecord, keep_trials: int) -> None:
    """Remove the checkpoints that need not stay."""
    for trial in record.trials.values():
        keep = {c.path for c in kept(record, trial, keep_trials)}
        for checkpoint in trial.checkpoints:
            if checkpoint.path not in keep:
                _remove(folder, folder / checkpoint.path)
        trial.checkpoints = [c for c in trial.checkpoints if c.path in keep]


def _remove(folder: Path, checkpoint: Path) -> None:
    """Remove a checkpoint folder, but nothing that is not below the sweep's own."""
    if folder.resolve() in checkpoint.resolve().parents:
        shutil.rmtree(checkpoint, ignore_errors=True)
