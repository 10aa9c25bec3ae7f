"""Who may write a sweep's folder: one process at a time, and only its owner."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.common.errors import SweepError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep for this process.

    Raises:
        SweepError: another process runs it.
    """
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(
                f"sweep {folder.name}: another process is running it; wait for it, or stop it "
                "with Ctrl-C and resume"
            ) from error
        yield


def require_private(folder: Path) -> None:
    """Refuse to go on with a sweep that somebody else could have changed.

    A resume trusts this folder's JSON for what to run and its verified checkpoints; it loads no
    pickle.

    Raises:
        SweepError: it, or anything in it, belongs to another user or can be written by others.
    """
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SweepError(
                f"--resume {folder.name}: {path} belongs to user {status.st_uid} with mode "
                f"{status.st_mode & 0o777:o}; it must be yours alone to write: "
                f"chown it, or `chmod -R go-w {folder}`"
            )


def is_running(folder: Path) -> bool:
    """Say whether a process holds the sweep."""
    try:
        with locked(folder):
            return False
    except SweepError:
        return True
