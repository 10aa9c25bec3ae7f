"""Temporary folders of Ray: where they fit, and those that a killed driver left."""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sweep.common.errors import SweepError

SCRATCH_BYTES = 16 * 2**20
"""For Ray's logs and sockets."""

SHORT_PLACE = Path("/tmp")  # noqa: S108 - the folder made in it has a new name and is private
"""For temporary folders where TMPDIR's name is too long for Ray's sockets."""

_SCRATCH = "lm-ray-"

_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Longest path of a socket, in bytes."""

_LONGEST_NAME = (
    "lm-ray-4194304-abcdefgh/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""What Ray's sockets are called below our folder, at their longest."""


def scratch_place() -> Path:
    """Return where temporary folders go: TMPDIR, or /tmp if the names of sockets would not fit.

    Raises:
        SweepError: there is no such place.
    """
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        raise SweepError(f"TMPDIR: {error.strerror}; set it to a folder you can write") from error
    fits = len(os.fsencode(place / _LONGEST_NAME)) <= _SOCKET_BYTES
    return place if fits else SHORT_PLACE


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """Give a temporary folder for this process's Ray, locked as long as the process lives.

    Raises:
        SweepError: there is no room, or it cannot be made.
    """
    place = scratch_place()
    try:
        free = shutil.disk_usage(place).free
        if free < SCRATCH_BYTES:  # Ray would wait half a minute for itself
            raise SweepError(
                f"TMPDIR: {free / 2**20:,.1f} MiB free in {place}, Ray's own files need "
                f"{SCRATCH_BYTES / 2**20:,.0f} MiB; make room, or set TMPDIR to another disk"
            )
        folder, lock = _make_locked(place)
    except OSError as error:
        raise SweepError(
            f"TMPDIR: {place}: {error.strerror}; set TMPDIR to a folder that you can write"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked(place: Path) -> tuple[str, int]:
    """Make a folder and lock it; return the lock, too, which ends with the process."""
    while True:
        folder = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=place)
        lock = os.open(folder, os.O_RDONLY)
        # A file system without locks refuses those who would remove the folder as well.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(folder):
            return folder, lock
        os.close(lock)  # taken for a stale one, and removed, before it was locked


def remove_stale_scratch() -> None:
    """Remove the temporary folders of our own sweeps whose driver was killed.

    A driver that lives holds its folder's lock. Its process number would not do: in another
    container that shares the place, the same numbers are other processes.
    """
    for folder in scratch_place().glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone, or its driver lives
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
