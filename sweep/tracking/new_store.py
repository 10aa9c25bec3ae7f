"""A store in a local SQLite file, made whole or not at all.

MLflow makes one in place, in dozens of steps that take seconds: a process that dies among them
leaves a file that no later one can use.
"""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

from trainable.common.files import fsync_folder

_PARTS = ("", "-journal", "-wal", "-shm")
"""What the files of one SQLite database end in."""


def make_store(path: Path) -> None:
    """Make an MLflow store at `path`, unless there is one; a process that comes meanwhile waits.

    Raises:
        OSError: the folder cannot be made or written.
        Exception: MLflow or SQLite failed; `path` is as it was.
    """
    path = path.resolve()
    if _is_there(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_there(path):
            return
        for part in _PARTS:  # a killed process left them
            Path(f"{new}{part}").unlink(missing_ok=True)
        new.touch(mode=0o600)
        _fill(new, path.parent / "mlruns")
        os.replace(new, path)
    fsync_folder(path.parent)


def is_half_made(path: Path) -> bool:
    """Say whether MLflow's own making of a store in place broke off: it ends with an experiment."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            return not (
                "experiments" in tables
                and database.execute("SELECT 1 FROM experiments LIMIT 1").fetchone()
            )
    except sqlite3.Error:
        return False  # it is something else


def _is_there(path: Path) -> bool:
    """Say whether something is at `path`; an empty file is what MLflow's own making begins with."""
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def _fill(new: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{new}", str(artifacts))
    store.engine.dispose()  # no connection may outlive the name
    with contextlib.closing(sqlite3.connect(new)) as database:
        # Readers and the writer do not block each other; it is set while nobody else is there.
        database.execute("PRAGMA journal_mode=WAL")
