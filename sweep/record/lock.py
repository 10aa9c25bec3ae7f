"""Who may write a sweep's folder: one process at a time, and only its owner."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.common.errors import SweepError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep for this process.

    Raises:
        SweepError: another process runs it.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _get(descriptor, fcntl.LOCK_EX):
            if not _get(descriptor, fcntl.LOCK_SH):
                raise SweepError(
                    f"sweep {folder.name}: another process is running it; wait for it, or stop it "
                    "with Ctrl-C and resume"
                )
            time.sleep(0.001)  # somebody only looked whether it runs
        yield
    finally:
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Say whether a process holds the sweep; keep none from it."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _get(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _get(descriptor: int, kind: int) -> bool:
    """Lock an open file, exclusively or with others, if that is possible now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def require_private(folder: Path, place: Path | None = None) -> None:
    """Refuse to go on with a sweep that somebody else could have changed.

    A resume trusts this folder's JSON for what to run and its verified checkpoints; it loads no
    pickle.

    Args:
        folder: the sweep's.
        place: what is looked at, if that is another folder.

    Raises:
        SweepError: it, or anything in it, belongs to another user or can be written by others.
    """
    for path in _all_below(place or folder):
        try:
            status = path.stat()
        except OSError:
            continue  # pruned meanwhile, or a link that leads nowhere: there is nothing to trust
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SweepError(
                f"--resume {folder.name}: {path} belongs to user {status.st_uid} with mode "
                f"{status.st_mode & 0o777:o}; it must be yours alone to write: "
                f"chown it, or `chmod -R go-w {place or folder}`"
            )


def _all_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and all that is in it, as far as it is still there."""
    yield folder
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
