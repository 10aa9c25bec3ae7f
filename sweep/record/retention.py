"""Which checkpoints stay on disk: what resuming needs, and the best of the sweep."""

import heapq

from sweep.record.results import SavedCheckpoint, SweepRecord, TrialRecord
from trainable.storage.store import Store


def existing(store: Store, trial: TrialRecord) -> list[SavedCheckpoint]:
    """Return a trial's checkpoints that are still there, newest first."""
    found = [c for c in trial.checkpoints if store.exists(c.path)]
    return sorted(found, key=lambda c: c.step, reverse=True)


def kept(trial: TrialRecord, among_the_best: bool) -> list[SavedCheckpoint]:
    """Return the checkpoints of `trial` that must stay.

    A running or interrupted trial keeps its two newest, to resume from, and its best. An ended
    one keeps its best if it is among the best trials of the sweep, else none.
    """
    # Of two of one step the later: it took the place of one that was passed over.
    by_step = sorted({c.step: c for c in trial.checkpoints}.values(), key=lambda c: c.step)
    best = min(by_step, key=lambda c: c.val_loss, default=None)
    if trial.outcome in (None, "interrupted"):
        return [*by_step[-2:], *([best] if best else [])]
    return [best] if best and among_the_best else []


def to_resume_from(trial: TrialRecord) -> list[SavedCheckpoint]:
    """Return the checkpoints that an unfinished trial can go on from, newest first.

    All of them should be there: whoever finds one gone says so.
    """
    return sorted(set(kept(trial, among_the_best=True)), key=lambda c: c.step, reverse=True)


def needed(record: SweepRecord, keep_trials: int) -> dict[str, list[SavedCheckpoint]]:
    """Return the checkpoints that must stay, by trial; `keep_trials` ended trials keep theirs."""
    holding = list(record.holding.values())
    ended = [trial for trial in holding if trial.outcome in ("finished", "stopped")]
    best = {t.name for t in heapq.nsmallest(keep_trials, ended, key=lambda t: t.sort_key)}
    return {trial.name: kept(trial, trial.name in best) for trial in holding}


def prune(store: Store, record: SweepRecord, keep_trials: int) -> None:
    """Remove the checkpoints that need not stay; `keep_trials` ended trials keep theirs.

    Called at every checkpoint and outcome, so only trials that hold checkpoints are looked at.
    """
    for name in _forgotten(record, keep_trials):
        store.delete(name)


def collect(store: Store, record: SweepRecord, keep_trials: int) -> int:
    """Remove all that need not stay, orphans, too; return how many checkpoints that were.

    An orphan is one that no line of the record names: its worker was killed on the way, or lived
    on when it had been taken for dead. No worker of the sweep may run: what it writes is not named
    yet.
    """
    _forgotten(record, keep_trials)
    named = {c.path for trial in record.holding.values() for c in trial.checkpoints}
    orphans = [name for name in store.names() if name not in named]
    for name in orphans:
        store.delete(name)
    store.settle()
    return len(orphans)


def _forgotten(record: SweepRecord, keep_trials: int) -> list[str]:
    """Take the checkpoints that need not stay out of the record in memory; return their names."""
    names = []
    stay = needed(record, keep_trials)
    for trial in list(record.holding.values()):
        keep = {c.path for c in stay[trial.name]}
        names += [c.path for c in trial.checkpoints if c.path not in keep]
        trial.checkpoints = [c for c in trial.checkpoints if c.path in keep]
        if not trial.checkpoints:
            del record.holding[trial.name]
    return names
